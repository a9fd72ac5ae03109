"""JSON to messages and back: nothing lost, nothing guessed, everything wrong told."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from vlinders.api.v1.options_pb2 import Role
from vlinders.auth.v1.accounts_pb2 import (
    Account,
    AccountStatus,
    ListAccountsRequest,
    SetAccountStatusRequest,
    UpdateMyAccountRequest,
)
from vlinders.auth.v1.api_keys_pb2 import CreateApiKeyRequest, ListApiKeysRequest
from vlinders.billing.v1.ledger_pb2 import Transfer, Wallet
from vlinders.gpu_scheduler.v1.workers_pb2 import Worker
from vlinders.inference.v1.generations_pb2 import CreateChatCompletionRequest
from vlinders_gateway.codec import MOST_ITEMS, Codec
from vlinders_gateway.spelling import SECONDS, UUIDS
from vlinders_kit import ids
from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest, Violation

CODEC = Codec()

CAMEL = Codec(
    case=lambda name: name.split("_")[0] + "".join(map(str.title, name.split("_")[1:])),
    names={"created_at": "createTime", "Account.id": "userId"},
    hidden=frozenset(("Account.tenant_id",)),
)


def moments() -> st.SearchStrategy[datetime]:
    """Moments whose UTC is within the years that both sides know."""
    years = {"min_value": datetime(2, 1, 1), "max_value": datetime(9998, 1, 1)}  # noqa: DTZ001
    offsets = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
    return st.datetimes(timezones=offsets, **years)


@given(moments())
def test_a_moment_is_read_with_its_fraction_and_offset(moment: datetime) -> None:
    assert SECONDS.read(moment.isoformat()) == moment


@given(moments())
def test_a_moment_is_written_in_whole_seconds_of_utc(moment: datetime) -> None:
    written = SECONDS.write(moment.astimezone(UTC))
    assert SECONDS.read(written) == moment.replace(microsecond=0)
    assert written.endswith("Z")
    assert len(written) == 20


@pytest.mark.parametrize(
    "text",
    ["2026-02-28T10:30:00Z", "2026-02-28t10:30:00z", "2026-02-28T10:30:00.123456789+00:00"],
)
def test_forms_of_one_moment(text: str) -> None:
    assert SECONDS.read(text).replace(microsecond=0) == datetime(2026, 2, 28, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-28",
        "2026-02-28T10:30:00",
        "2026-02-30T10:30:00Z",
        "2026-02-28T25:00:00Z",
        "2026-02-28 10:30:00Z",
        "2026-02-28T10:30Z",
        "0001-01-01T00:00:00+23:00",
        "tomorrow",
        "",
        1709136000,
        True,
        [],
        "٢٠٢٦-02-28T10:30:00Z",
    ],
)
def test_what_is_no_moment_is_told_so(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.load(CreateApiKeyRequest, {"expires_at": value})
    assert [row.field for row in caught.value.broken] == ["expires_at"]


@given(
    st.builds(
        Account,
        id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        full_name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        roles=st.lists(st.sampled_from([value for value in Role.values() if value])),
        status=st.sampled_from([value for value in AccountStatus.values() if value]),
        created_at=st.integers(0, 4_000_000_000).map(lambda at: Timestamp(seconds=at)),
    )
)
def test_what_is_written_reads_the_same(account: Account) -> None:
    assert CODEC.load(Account, CODEC.dump(account)) == account
    spelt = CAMEL.load(Account, CAMEL.dump(account))
    spelt.tenant_id = account.tenant_id
    assert spelt == account


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_64_bits_are_a_number(nanos: int) -> None:
    written = CODEC.dump(Transfer(amount_nanos=nanos))["amount_nanos"]
    assert written == nanos
    assert isinstance(written, int)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


FIELDS = [field.name for kind in (CreateApiKeyRequest, Worker) for field in kind.DESCRIPTOR.fields]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)))
def test_any_json_is_read_or_refused_field_by_field(body: dict[str, Any]) -> None:
    for kind in (CreateApiKeyRequest, Worker):
        for row in faults(kind, body):
            assert row.field.split(".")[0].split("[")[0] in body


@given(st.dictionaries(st.sampled_from(["stop", "tools", "messages"]), json_values))
def test_free_parts_take_any_json(body: dict[str, Any]) -> None:
    for row in faults(CreateChatCompletionRequest, body):
        assert not row.field.startswith("stop")


def faults(kind: type[Any], body: dict[str, Any]) -> tuple[Violation, ...]:
    """What is wrong with `body`; where nothing is, it can be sent and shown again."""
    try:
        read = CODEC.load(kind, body)
    except InvalidRequest as error:
        return error.broken
    read.SerializeToString()
    CODEC.dump(read)
    return ()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"name": 5}, ["name"]),
        ({"name": True}, ["name"]),
        ({"name": ["x"]}, ["name"]),
        ({"name": "a\0b"}, ["name"]),
        ({"permissions": "inference:read"}, ["permissions"]),
        ({"permissions": {"0": "x"}}, ["permissions"]),
        ({"permissions": ["ok", 1, None]}, ["permissions[1]", "permissions[2]"]),
        (
            {"name": 1, "permissions": [2], "expires_at": {}},
            ["name", "permissions[0]", "expires_at"],
        ),
    ],
)
def test_each_wrong_type_is_told_under_its_path(body: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.load(CreateApiKeyRequest, body)
    assert [row.field for row in caught.value.broken] == fields


@pytest.mark.parametrize(
    ("permissions", "told"),
    [([1] * MOST_ITEMS, MOST_VIOLATIONS), (["usage:read"] * (MOST_ITEMS + 1), 1)],
    ids=["each of them wrong", "too many"],
)
def test_long_lists_are_refused_in_few_words(permissions: list[Any], told: int) -> None:
    assert len(faults(CreateApiKeyRequest, {"permissions": permissions})) == told


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", 1 << 63),
        ("epoch", 1.5),
        ("epoch", "7"),
        ("running_requests", 1 << 31),
        ("running_requests", True),
        ("state", "unspecified"),
        ("state", "ONLINE"),
        ("state", 2),
        ("pretended", "true"),
        ("pretended", 1),
        ("inventory", "x"),
    ],
)
def test_numbers_enums_and_flags_are_not_guessed(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        CODEC.load(Worker, {field: value})


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    read = CODEC.load(CreateApiKeyRequest, {"name": "k", "expires_at": None, "owner": "me"})
    assert read == CreateApiKeyRequest(name="k")


def test_what_may_be_absent_and_is_is_null() -> None:
    written = CODEC.dump(Account(id="user_1"))
    assert (written["avatar_url"], written["created_at"], written["roles"]) == (None, None, [])


@pytest.mark.parametrize(
    ("text", "read"), [("7", 7), ("-7", -7), ("7.0", None), ("", None), ("x", None), ("٧", None)]
)
def test_numbers_are_read_out_of_the_text_of_a_parameter(text: str, read: int | None) -> None:
    if read is None:
        with pytest.raises(InvalidRequest):
            CODEC.load(Worker, {"epoch": text}, text=True)
    else:
        assert CODEC.load(Worker, {"epoch": text}, text=True).epoch == read


def test_a_dialect_spells_names_and_paths_its_own_way() -> None:
    written = CAMEL.dump(Account(id="user_1", full_name="A", tenant_id="tenant_1"))
    assert list(written)[:6] == ["userId", "email", "fullName", "avatarUrl", "roles", "createTime"]
    path, found = CAMEL.at(Worker.DESCRIPTOR, "inventory.gpus[0].memory_total_bytes")
    assert path == "inventory.gpus[0].memoryTotalBytes"
    assert found is not None
    assert found.name == "memory_total_bytes"
    assert CAMEL.at(ListApiKeysRequest.DESCRIPTOR, "limit") == ("limit", None)


TABLES = Codec(
    names={"Account.operator": "role"},
    ids=UUIDS,
    values={
        "Account.operator": {False: "user", True: "admin"},
        "ListAccountsRequest.active": {True: "yes", False: "no"},
        "SetAccountStatusRequest.status": {"active": True, "inactive": False},
        "permissions": {"all:read": "read"},
    },
    units={"Wallet.balance_nanos": 2},
    nulls=frozenset({"Account.full_name", "UpdateMyAccountRequest.avatar_url"}),
    hidden=frozenset({"UpdateMyAccountRequest.email"}),
)


@pytest.mark.parametrize(
    ("value", "status"),
    [(True, AccountStatus.ACCOUNT_STATUS_ACTIVE), (False, AccountStatus.ACCOUNT_STATUS_INACTIVE)],
)
def test_a_table_says_which_value_means_which(value: bool, status: Any) -> None:
    assert TABLES.load(SetAccountStatusRequest, {"status": value}).status == status
    assert TABLES.dump(SetAccountStatusRequest(status=status))["status"] is value


@pytest.mark.parametrize("value", [1, 0, "true", "active", [], {}, 1.0])
def test_no_other_value_than_those_of_a_table_is_read(value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TABLES.load(SetAccountStatusRequest, {"status": value})
    [broken] = refused.value.broken
    assert (broken.message, broken.rule) == ("must be one of true, false", "in")


@pytest.mark.parametrize(("text", "active"), [("yes", True), ("no", False)])
def test_a_table_reads_the_text_of_a_parameter(text: str, active: bool) -> None:
    assert TABLES.load(ListAccountsRequest, {"active": text}, text=True).active is active
    with pytest.raises(InvalidRequest):
        TABLES.load(ListAccountsRequest, {"active": "true"}, text=True)


def test_a_table_holds_for_each_item_of_a_list() -> None:
    read = TABLES.load(CreateApiKeyRequest, {"permissions": ["read"]})
    assert list(read.permissions) == ["all:read"]
    with pytest.raises(InvalidRequest) as refused:
        TABLES.load(CreateApiKeyRequest, {"permissions": ["read", "all:read"]})
    assert [row.field for row in refused.value.broken] == ["permissions[1]"]


@given(st.uuids())
def test_an_id_is_a_uuid_here_and_a_prefix_and_digits_there(id: UUID) -> None:
    read = TABLES.load(SetAccountStatusRequest, {"account_id": str(id)})
    assert read.account_id == ids.spell("user", id)
    assert TABLES.dump(Account(id=read.account_id))["id"] == str(id)


@pytest.mark.parametrize("text", ["", "user_1", "x" * 36, f"{UUID(int=1)}x", UUID(int=7).hex])
def test_what_spells_no_id_is_an_id_that_nothing_has(text: str) -> None:
    assert TABLES.load(SetAccountStatusRequest, {"account_id": text}).account_id == "user_"


def test_an_empty_text_is_null_where_a_dialect_says_so() -> None:
    assert TABLES.dump(Account())["full_name"] is None
    read = TABLES.load(UpdateMyAccountRequest, {"avatar_url": None, "full_name": None})
    assert (read.HasField("avatar_url"), read.avatar_url) == (True, "")
    assert not read.HasField("full_name")
    with pytest.raises(InvalidRequest):
        TABLES.load(UpdateMyAccountRequest, {"avatar_url": ""})


def test_money_is_shown_in_units_where_a_dialect_says_so() -> None:
    assert TABLES.dump(Wallet(balance_nanos=1_005_000_000))["balance_nanos"] == 1.01
    assert CODEC.dump(Wallet(balance_nanos=1_005_000_000))["balance_nanos"] == 1_005_000_000


@given(st.integers(-9 * 10**11, 9 * 10**11))
def test_money_in_units_reads_as_it_is_written(cents: int) -> None:
    nanos = cents * 10**7
    written = TABLES.dump(Wallet(balance_nanos=nanos))
    assert TABLES.load(Wallet, written).balance_nanos == nanos


@pytest.mark.parametrize("value", [0.001, "1", True, 1e300, 10**10, -(10**10), [], {}])
def test_what_is_no_amount_of_money_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TABLES.load(Wallet, {"balance_nanos": value})
    assert [row.rule for row in refused.value.broken] == ["amount"]


def test_what_is_hidden_is_neither_shown_nor_read() -> None:
    read = TABLES.load(UpdateMyAccountRequest, {"email": 5, "username": "name"})
    assert read == UpdateMyAccountRequest(username="name")
    assert "email" not in TABLES.dump(UpdateMyAccountRequest(email="a@example.com"))
