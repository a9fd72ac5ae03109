"""The life of one worker in one epoch, on a clock that the test holds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_gpu_scheduler.states import FOLLOWS, Life, Move, State, Timers

TIMERS = Timers()
OVER = TIMERS.lease + TIMERS.margin


def online(now: float = 0.0, *, beats: int = 10) -> tuple[Life, float]:
    """A worker that has beaten for a while, and the moment of its last beat."""
    life = Life(TIMERS, now)
    for beat in range(beats):
        life.beat(now + 2.0 * beat)
    return life, now + 2.0 * (beats - 1)


def test_the_first_beat_makes_it_online() -> None:
    life = Life(TIMERS, 0.0)

    assert life.state is State.REGISTERING
    assert life.beat(1.0) == Move(State.REGISTERING, State.ONLINE, "registered")


def test_who_never_beats_is_offline_after_a_minute() -> None:
    life = Life(TIMERS, 0.0)

    assert life.due == 60
    assert life.expire(60) == Move(State.REGISTERING, State.OFFLINE, "registration took too long")


def test_silence_makes_it_suspect_in_five_seconds_and_offline_in_seventeen() -> None:
    life, last = online()

    assert last + 4 < life.due < last + 5
    life.expire(life.due)
    assert life.state is State.SUSPECT
    assert life.due == last + OVER
    assert life.expire(life.due) == Move(State.SUSPECT, State.OFFLINE, "lease over")


def test_a_beat_makes_a_suspect_online() -> None:
    life, last = online()
    life.suspect(last + 1, "stream lost")

    assert life.beat(last + 2) == Move(State.SUSPECT, State.ONLINE, "beats again")


def test_a_suspect_that_flaps_must_beat_twice() -> None:
    life, last = online()
    life.suspect(last + 1, "stream lost")
    life.beat(last + 2)
    life.suspect(last + 3, "stream lost")

    assert life.beat(last + 4) is None
    assert life.state is State.SUSPECT
    assert life.beat(last + 6) is not None


def test_a_minute_of_calm_ends_the_distrust() -> None:
    life, last = online()
    life.suspect(last + 1, "stream lost")
    for beat in range(40):
        life.beat(last + 2 + 2 * beat)
    life.suspect(last + 90, "stream lost")

    assert life.beat(last + 91) is not None


def test_three_failures_in_a_row_make_it_suspect() -> None:
    life, last = online()

    moves = [life.failed(last) for _ in range(3)]

    assert moves == [None, None, Move(State.ONLINE, State.SUSPECT, "requests fail")]


def test_a_request_that_works_forgives_failures() -> None:
    life, last = online()
    life.failed(last)
    life.failed(last)
    life.worked()

    assert life.failed(last) is None


def test_draining_ends_with_its_limit_even_while_it_beats() -> None:
    life, last = online()
    life.drain(last)
    for beat in range(1, 66):
        life.beat(last + 2 * beat)

    assert life.due == last + TIMERS.drain
    assert life.expire(life.due) == Move(State.DRAINING, State.OFFLINE, "drain took too long")


def test_a_draining_worker_that_falls_silent_ends_with_its_lease() -> None:
    life, last = online()
    life.drain(last + 1)

    assert life.due == last + OVER
    assert life.by_silence(life.due)


def test_an_adopted_worker_has_a_whole_lease_to_be_heard() -> None:
    life = Life(TIMERS, 100.0, state=State.ONLINE, adopted=True)

    assert life.due == 100 + TIMERS.lease
    life.hear(101.0)
    assert life.due < 106


def test_a_large_fleet_beats_less_often_and_its_leases_stretch_alike() -> None:
    small = TIMERS.stretched(5_000, beats_per_second=2_500)
    large = TIMERS.stretched(10_000, beats_per_second=2_500)

    assert (small.beat, small.lease) == (2, 15)
    assert (large.beat, large.lease) == (4, 30)


def test_a_lease_that_grows_counts_from_the_last_beat() -> None:
    life, last = online()
    longer = TIMERS.stretched(10_000, beats_per_second=2_500)

    life.stretch(longer)

    assert last + 6 < life.due < last + 7
    life.expire(life.due)
    assert life.due == last + longer.lease + longer.margin


def test_no_state_follows_offline() -> None:
    life, last = online()
    life.end("goodbye")

    assert life.beat(last + 1) is None
    assert life.suspect(last + 1, "stream lost") is None
    assert life.drain(last + 1) is None
    assert life.end("again") is None
    assert life.state is State.OFFLINE


STEPS = st.lists(
    st.tuples(
        st.floats(0, 20),
        st.sampled_from(["beat", "suspect", "failed", "drain", "restart", "hear", "expire"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_states_follow_each_other_as_they_may(
    steps: list[tuple[float, str]],
) -> None:
    now, heard, life = 0.0, 0.0, Life(TIMERS, 0.0)
    states = [life.state]
    for wait, step in steps:
        now += wait
        match step:
            case "suspect":
                life.suspect(now, "stream lost")
            case "expire":
                if now < life.due:
                    continue
                if life.by_silence(now):
                    assert now >= heard + OVER
                life.expire(now)
            case _:
                getattr(life, step)(now)
                heard = now if step in ("beat", "restart", "hear") else heard
        if life.state is not states[-1]:
            states.append(life.state)

    assert all(after in FOLLOWS[before] for before, after in pairwise(states))


@pytest.mark.parametrize("state", State)
def test_a_move_that_may_not_be_is_an_error(state: State) -> None:
    life = Life(TIMERS, 0.0, state=state)

    for wrong in set(State) - FOLLOWS[state]:
        with pytest.raises(ValueError, match="does not follow"):
            life._move(wrong, "test")
