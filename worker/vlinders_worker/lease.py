"""The lease: for how long, and in which epoch, the scheduler lets this worker start requests."""

from datetime import timedelta

from vlinders.gpu_scheduler.v1.workers_pb2 import Lease as LeaseMessage
from vlinders.gpu_scheduler.v1.workers_pb2 import Welcome
from vlinders_kit.clock import Clock

BEAT_PERIOD = timedelta(seconds=2)
"""Where a scheduler says none."""


class Lease:
    """No clock is compared with another host's: lengths of time run on this host's monotonic clock.

    The lease counts from when the last acknowledged beat was *sent*, so it always ends here before
    it ends at the scheduler. The hub's clock is known by its messages: each says what it showed
    when the message left; the one that took least time says it best.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.epoch = 0
        self.ticket_key = b""
        self.beat_period = timedelta()
        """How far beats are to be apart."""
        self._length = timedelta()
        self._until = float("-inf")
        self._hub_ahead_ms = float("-inf")
        self._sent: dict[int, float] = {}

    @property
    def holds(self) -> bool:
        return self._clock.monotonic() < self._until

    @property
    def hub_now_ms(self) -> float:
        """What the hub's clock shows; never more than it does show."""
        return self._clock.monotonic() * 1000 + self._hub_ahead_ms

    def begin(self, welcome: Welcome, *, hello_sent_at: float) -> None:
        """A registration: the key and the epoch of all tickets from now on."""
        self.epoch = welcome.epoch
        self.ticket_key = welcome.ticket_key
        self._length = welcome.lease.ToTimedelta()
        self.beat_period = welcome.beat_period.ToTimedelta() or BEAT_PERIOD
        self._until = hello_sent_at + self._length.total_seconds()
        self._hub_ahead_ms = float("-inf")
        self._hear(welcome.hub_clock_ms)
        self._sent.clear()

    def beat_leaves(self, seq: int) -> None:
        self._sent[seq] = self._clock.monotonic()

    def renew(self, renewed: LeaseMessage) -> None:
        """An acknowledged beat; one of another epoch, or one never sent, renews nothing."""
        sent_at = self._sent.get(renewed.beat_seq)
        if renewed.epoch != self.epoch or sent_at is None:
            return
        if renewed.HasField("lease"):
            self._length = renewed.lease.ToTimedelta()
            self.beat_period = renewed.beat_period.ToTimedelta()
        self._sent = {seq: at for seq, at in self._sent.items() if seq > renewed.beat_seq}
        self._until = max(self._until, sent_at + self._length.total_seconds())
        self._hear(renewed.hub_clock_ms)

    def _hear(self, hub_clock_ms: int) -> None:
        ahead = hub_clock_ms - self._clock.monotonic() * 1000
        self._hub_ahead_ms = max(self._hub_ahead_ms, ahead)
