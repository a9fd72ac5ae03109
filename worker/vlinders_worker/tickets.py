"""Tickets: the scheduler's word that a request may start on a slot of this worker."""

import base64
import hashlib
import hmac

from google.protobuf.message import DecodeError

from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket
from vlinders_worker.errors import NotServing, TicketMissing, TicketNotValid, TicketStale
from vlinders_worker.lease import Lease

HEADER = "vlinders-ticket"
SLACK_MS = 500
"""How much later than its end a ticket is still taken, for what the network and the loop cost."""


class Gate:
    """Lets a request in whose ticket is genuine, of this epoch, for it, and not too old."""

    def __init__(self, worker_id: str, lease: Lease) -> None:
        self._worker_id = worker_id
        self._lease = lease

    def admit(self, text: str | None, request_id: str | None) -> str:
        """The slot that `request_id` may start on.

        Raises TicketMissing, TicketNotValid, TicketStale (pick again) and NotServing.
        """
        if not text or not request_id:
            raise TicketMissing
        if not self._lease.holds:
            raise NotServing(why="its lease is over")
        ticket = self._genuine(text)
        if ticket.worker_id != self._worker_id:
            raise TicketNotValid
        if ticket.request_id and ticket.request_id != request_id:
            raise TicketNotValid
        if ticket.expires_at_hub_ms + SLACK_MS < self._lease.hub_now_ms:
            raise TicketStale
        return ticket.slot_id

    def _genuine(self, text: str) -> Ticket:
        try:
            padded = text + "=" * (-len(text) % 4)
            signed = SignedTicket.FromString(base64.b64decode(padded, b"-_", validate=True))
            ticket = Ticket.FromString(signed.ticket)
        except (ValueError, DecodeError):
            raise TicketNotValid from None
        expected = hmac.new(self._lease.ticket_key, signed.ticket, hashlib.sha256).digest()
        if hmac.compare_digest(expected, signed.signature):
            return ticket
        # Each epoch has its own key, so an older ticket is told from a forged one by what it says.
        if 0 < ticket.epoch < self._lease.epoch:
            raise TicketStale
        raise TicketNotValid
