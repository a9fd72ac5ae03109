"""Tickets, read as a worker reads them."""

import hashlib
import hmac
from base64 import urlsafe_b64decode

import pytest

from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket
from vlinders_gpu_scheduler import tickets
from vlinders_gpu_scheduler.tickets import TicketKeys

KEYS = TicketKeys(bytes(32))


def test_a_ticket_says_where_for_what_and_until_when() -> None:
    key = KEYS.of("worker_1", 7)
    text = tickets.sign(
        key, worker_id="worker_1", slot_id="s", epoch=7, request_id="gen_1", now=100.25
    )

    signed = SignedTicket.FromString(urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    assert hmac.new(key, signed.ticket, hashlib.sha256).digest() == signed.signature
    assert Ticket.FromString(signed.ticket) == Ticket(
        worker_id="worker_1",
        slot_id="s",
        epoch=7,
        request_id="gen_1",
        expires_at_hub_ms=105_250,
    )


def test_each_epoch_of_each_worker_has_a_key_of_its_own() -> None:
    keys = {KEYS.of(worker, epoch) for worker in ("worker_1", "worker_2") for epoch in (1, 2)}

    assert len(keys) == 4
    assert KEYS.of("worker_1", 1) == TicketKeys(bytes(32)).of("worker_1", 1)
    assert KEYS.of("worker_1", 1) != TicketKeys(bytes(31) + b"1").of("worker_1", 1)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TicketKeys(b"short")
