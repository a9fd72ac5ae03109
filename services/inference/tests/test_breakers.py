"""Breakers: a failing way is left alone, and tried again by one."""

import pytest

from vlinders_inference.breakers import (
    FAILURES,
    FIRST_SECONDS,
    LONGEST_SECONDS,
    RESERVE,
    Breaker,
    RetryBudget,
)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.begin()
        breaker.failed(0.0)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    assert not opened().lets_pass(FIRST_SECONDS / 2)


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(10 * FAILURES):
        breaker.failed(0.0)
        if breaker.failures == FAILURES - 1:
            breaker.succeeded()

    assert breaker.lets_pass(0.0)


def test_one_probe_passes_at_a_time() -> None:
    breaker = opened()
    assert breaker.lets_pass(FIRST_SECONDS)
    breaker.begin()

    assert not breaker.lets_pass(FIRST_SECONDS)


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened()
    breaker.begin()
    breaker.succeeded()

    assert breaker.lets_pass(0.0)


def test_a_probe_that_fails_keeps_it_open_for_longer_each_time() -> None:
    breaker, now, waits = opened(), FIRST_SECONDS, []
    for _ in range(10):
        breaker.begin()
        breaker.failed(now)
        waits.append(breaker.open_until - now)
        now = breaker.open_until

    assert waits[0] == 2 * FIRST_SECONDS
    assert waits[-1] == LONGEST_SECONDS


def test_a_probe_that_is_abandoned_lets_the_next_one_pass() -> None:
    breaker = opened()
    breaker.begin()
    breaker.abandoned()

    assert breaker.lets_pass(FIRST_SECONDS)


@pytest.mark.parametrize(("rest", "until"), [(7.0, 7.0), (10**6, LONGEST_SECONDS), (-5.0, 1.0)])
def test_a_rest_that_is_asked_for_is_given_within_bounds(rest: float, until: float) -> None:
    breaker = Breaker()
    breaker.failed(0.0, rest)

    assert breaker.open_until == until


def test_retries_are_a_tenth_of_the_requests_in_the_long_run() -> None:
    budget, retried = RetryBudget(), 0
    for _ in range(10_000):
        budget.request()
        retried += budget.retry()

    assert retried <= 10_000 * 0.1 + RESERVE
