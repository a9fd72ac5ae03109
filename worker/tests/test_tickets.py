"""Nothing starts without the scheduler's word: this request, this worker, this epoch, now."""

import base64
from functools import partial
from typing import Any

import pytest

from vlinders.gpu_scheduler.v1.workers_pb2 import Welcome
from vlinders_kit.clock import ManualClock
from vlinders_worker.errors import NotServing, TicketMissing, TicketNotValid, TicketStale
from vlinders_worker.lease import Lease
from vlinders_worker.tickets import SLACK_MS, Gate

KEY, EPOCH, HUB_MS = b"k" * 32, 5, 1_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    lease = Lease(clock)
    welcome = Welcome(epoch=EPOCH, ticket_key=KEY, hub_clock_ms=HUB_MS)
    welcome.lease.FromSeconds(15)
    lease.begin(welcome, hello_sent_at=clock.monotonic())
    return Gate("worker_1", lease)


@pytest.fixture
def ticket(sign: Any) -> Any:
    return partial(
        sign,
        key=KEY,
        worker_id="worker_1",
        slot_id="tiny",
        epoch=EPOCH,
        request_id="r1",
        expires_at_hub_ms=HUB_MS + 5_000,
    )


def test_a_genuine_ticket_names_the_slot(gate: Gate, ticket: Any) -> None:
    assert gate.admit(ticket(), "r1") == "tiny"


def test_a_ticket_of_a_standby_table_is_for_any_request(gate: Gate, ticket: Any) -> None:
    assert gate.admit(ticket(request_id=""), "r2") == "tiny"


@pytest.mark.parametrize(
    "given",
    [
        {"request_id": "r2"},
        {"worker_id": "worker_2"},
        {"key": b"x" * 32},
        {"epoch": EPOCH + 1, "key": b"x" * 32},
    ],
    ids=lambda given: next(iter(given)),
)
def test_one_for_another_or_not_signed_is_refused(gate: Gate, ticket: Any, given: Any) -> None:
    with pytest.raises(TicketNotValid):
        gate.admit(ticket(**given), "r1")


@pytest.mark.parametrize("text", ["?", "a", "AAAA", base64.urlsafe_b64encode(b"\xff" * 9).decode()])
def test_what_is_no_ticket_is_refused(gate: Gate, text: str) -> None:
    with pytest.raises(TicketNotValid):
        gate.admit(text, "r1")


def test_one_of_an_older_epoch_asks_for_a_new_pick(gate: Gate, ticket: Any) -> None:
    with pytest.raises(TicketStale):
        gate.admit(ticket(epoch=EPOCH - 1, key=b"o" * 32), "r1")


def test_it_ends_by_the_hub_s_clock(gate: Gate, ticket: Any, clock: ManualClock) -> None:
    shown = ticket()
    clock.advance(5 + SLACK_MS / 1000 - 0.001)
    gate.admit(shown, "r1")
    clock.advance(0.002)
    with pytest.raises(TicketStale):
        gate.admit(shown, "r1")


def test_nothing_starts_once_the_lease_is_over(gate: Gate, ticket: Any, clock: ManualClock) -> None:
    clock.advance(15)
    with pytest.raises(NotServing):
        gate.admit(ticket(expires_at_hub_ms=HUB_MS + 60_000), "r1")


@pytest.mark.parametrize(("text", "request_id"), [(None, "r1"), ("", "r1"), ("x", None)])
def test_both_headers_are_needed(gate: Gate, text: str | None, request_id: str | None) -> None:
    with pytest.raises(TicketMissing):
        gate.admit(text, request_id)
