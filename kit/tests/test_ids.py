"""Ids sort by the time they were made at, as UUIDs and as they are spelt."""

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from vlinders_kit import ids

MOMENTS = st.integers(0, (1 << 48) * 1_000_000 - 1)


@given(st.lists(MOMENTS.map(lambda ns: ns // 250 * 250), min_size=2, max_size=20, unique=True))
def test_later_ids_sort_behind_earlier_ones(moments: list[int]) -> None:
    in_time = [ids.uuid7(lambda ns=ns: ns) for ns in sorted(moments)]

    assert sorted(in_time) == in_time
    spelt = [ids.spell("key", it) for it in in_time]
    assert sorted(spelt) == spelt


@given(MOMENTS)
def test_an_id_is_a_uuid_of_version_seven(moment: int) -> None:
    made = ids.uuid7(lambda: moment)

    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == moment // 1_000_000


@given(st.uuids())
def test_what_is_spelt_is_read_again(id: UUID) -> None:
    spelt = ids.spell("acc", id)

    assert re.fullmatch(r"acc_[0-9A-Za-z]{22}", spelt)
    assert ids.read("acc", spelt) == id
    assert ids.read("key", spelt) is None


@given(st.text(max_size=30) | st.from_regex(r"acc_[0-9A-Za-z]{22}", fullmatch=True))
def test_what_is_no_id_is_read_as_none(text: str) -> None:
    found = ids.read("acc", text)

    assert found is None or ids.spell("acc", found) == text


def test_no_two_ids_are_the_same() -> None:
    assert len({ids.new_id("req") for _ in range(10_000)}) == 10_000
