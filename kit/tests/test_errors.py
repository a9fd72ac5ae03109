"""Errors: as they are raised, as they travel, as they are understood."""

from datetime import timedelta

import grpc

from vlinders_kit.errors import Unavailable, failure_of, invalid, status_of


class Full(Unavailable):
    """No room for {what}: come again in {seconds} s."""

    what: str
    seconds: int

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.seconds)


def test_what_is_understood_is_what_was_raised() -> None:
    for error in (Full(what="you", seconds=3), invalid("name", "is missing")):
        assert failure_of(status_of(error, "vlinders.test")) == failure_of(error)


def test_errors_that_are_told_again_differ_where_they_differ() -> None:
    told = [
        failure_of(status_of(Full(what=what, seconds=seconds), "vlinders.test"))
        for what, seconds in (("you", 1), ("you", 2), ("me", 2), ("you", 1))
    ]
    assert [each.message for each in told] == [
        "No room for you: come again in 1 s.",
        "No room for you: come again in 2 s.",
        "No room for me: come again in 2 s.",
        "No room for you: come again in 1 s.",
    ]
    assert [each.retry_after for each in told] == [timedelta(seconds=n) for n in (1, 2, 2, 1)]
    assert told[0].facts == {"what": "you", "seconds": "1"}
    assert {each.status for each in told} == {grpc.StatusCode.UNAVAILABLE}


def test_a_status_belongs_to_whoever_asked_for_it() -> None:
    error = Full(what="you", seconds=1)
    status_of(error, "vlinders.test").message = "spoilt"

    assert failure_of(status_of(error, "vlinders.test")).message == str(error)
