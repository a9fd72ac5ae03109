"""Who is calling, inside the platform: signed by whoever established it, believed by one audience.

A `Caller` travels in gRPC metadata as a `SignedCaller`: HMAC-SHA256 with the platform's caller key,
bound to one service and good for thirty seconds, so that what leaks from one call opens nothing.
"""

import hmac
from contextvars import ContextVar

from google.protobuf.message import DecodeError

from vlinders.api.v1.caller_pb2 import Caller, SignedCaller
from vlinders_kit.clock import Clock, SystemClock
from vlinders_kit.errors import Unauthenticated

METADATA = "vlinders-caller-bin"
LIFETIME_MS = 30_000
"""How long a signature holds. Covers the skew of the clocks of one cluster and a slow call."""

_current: ContextVar[Caller] = ContextVar("caller")


class CallerNotTrusted(Unauthenticated):
    """The call does not show who makes it."""


class CallerKey:
    """The secret that all parts share to sign and check callers: at least 32 bytes."""

    def __init__(self, secret: bytes, clock: Clock | None = None) -> None:
        if len(secret) < 32:
            raise ValueError("the caller key needs at least 32 bytes")
        self._secret = secret
        self._clock = clock or SystemClock()

    def sign(self, caller: Caller, audience: str) -> bytes:
        """A serialized `SignedCaller` that the service `audience` (as `vlinders.auth`) believes."""
        signed = SignedCaller(
            caller=caller.SerializeToString(),
            audience=audience,
            expires_at_ms=self._now_ms() + LIFETIME_MS,
        )
        signed.signature = self._signature(signed)
        return signed.SerializeToString()

    def verify(self, token: bytes, audience: str) -> Caller:
        """The caller in `token`; raises CallerNotTrusted unless it is signed, for us, and fresh."""
        try:
            signed = SignedCaller.FromString(token)
            caller = Caller.FromString(signed.caller)
        except DecodeError:
            raise CallerNotTrusted from None
        genuine = hmac.compare_digest(signed.signature, self._signature(signed))
        if not genuine or signed.audience != audience or signed.expires_at_ms < self._now_ms():
            raise CallerNotTrusted
        return caller

    def _signature(self, signed: SignedCaller) -> bytes:
        # The length first, so that no two sets of fields are signed as the same bytes.
        rest = b"%s %d" % (signed.audience.encode(), signed.expires_at_ms)
        said = b"%d %s %s" % (len(signed.caller), signed.caller, rest)
        return hmac.digest(self._secret, said, "sha256")

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


class Identity:
    """A part as a caller: what it shows when it calls another part in its own name."""

    def __init__(self, service: str, key: CallerKey) -> None:
        self.service = service
        self.key = key
        self._caller = Caller(kind=Caller.KIND_SERVICE, service=service)

    def metadata(self, audience: str, caller: Caller | None = None) -> tuple[str, bytes]:
        """The metadata entry for a call to `audience`, as itself or on behalf of `caller`."""
        return METADATA, self.key.sign(caller or self._caller, audience)


def caller() -> Caller:
    """Whoever makes the call that is being served."""
    return _current.get()


def set_caller(value: Caller) -> None:
    """For the interceptor, and for tests of what asks `caller()`."""
    _current.set(value)
