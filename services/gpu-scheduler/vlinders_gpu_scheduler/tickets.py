"""Tickets: the right to start a request on one slot of one worker in one epoch, for five seconds.

The worker checks a ticket alone: HMAC-SHA256 by a key that only it and the scheduler know, its own
id and epoch inside, and an end by the hub's clock, which the worker follows from its lease.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode

from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket

LIFETIME = 5.0
"""Seconds."""


class TicketKeys:
    """The keys of all workers' epochs, derived from one secret of at least 32 bytes.

    They are derived and not drawn so that a ticket outlives the scheduler that wrote it: a restart,
    or another replica, signs with the same keys.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the secret of ticket keys needs at least 32 bytes")
        self._secret = secret

    def of(self, worker_id: str, epoch: int) -> bytes:
        """The key of one epoch: HKDF's expansion step (RFC 5869) for one block."""
        purpose = b"vlinders ticket key\x00%d\x00%s\x01" % (epoch, worker_id.encode())
        return hmac.digest(self._secret, purpose, hashlib.sha256)


def sign(
    key: bytes, *, worker_id: str, slot_id: str, epoch: int, request_id: str, now: float
) -> str:
    """A ticket as it travels: base64url without padding. An empty `request_id` is any request's."""
    ticket = Ticket(
        worker_id=worker_id,
        slot_id=slot_id,
        epoch=epoch,
        request_id=request_id,
        expires_at_hub_ms=hub_ms(now + LIFETIME),
    ).SerializeToString()
    signed = SignedTicket(ticket=ticket, signature=hmac.digest(key, ticket, hashlib.sha256))
    return urlsafe_b64encode(signed.SerializeToString()).rstrip(b"=").decode()


def hub_ms(now: float) -> int:
    """The hub's clock as workers are told it."""
    return int(now * 1000)
