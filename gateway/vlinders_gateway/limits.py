"""Limits: who may make how many requests in any length of time, over all gateways together.

Each gateway takes slices from the log that all of them share (`shared_log`). A slice is as large as
the gateway's own recent use, and what is not spent in a quarter of a second is given back. What is
out in slices, and what the log writes down as earlier than it was, is never more than 1 % of the
limit: by so much, at most, are there too many in a window. Small limits are thereby asked for
request by request; those that wait at the same time are asked for together.

Without Redis each gateway keeps its share of the limit by itself, and nobody's request fails.
"""

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import takewhile

from vlinders_gateway.exchange import Quota
from vlinders_gateway.rates import Rate
from vlinders_gateway.shared_log import Ask, SharedLog, SharedLogAway, Told, grain_of
from vlinders_kit import logs
from vlinders_kit.clock import Clock, SystemClock
from vlinders_kit.ids import new_id

SLICE_SECONDS = 0.25
"""How long a slice may be spent."""

_BEAT_SECONDS = 1.0
_GOOD_BEATS = 3
"""Answers in a row after which Redis is believed to be back."""

_MOST_BUCKETS = 50_000
"""Buckets that a gateway remembers; the least recently used are forgotten, Redis knows them."""

_MOST_TIMES = 200
"""Moments that are remembered of a bucket, and one for each request under smaller limits."""

log = logs.get(__name__)


@dataclass(eq=False, slots=True)
class _Bucket:
    """What this gateway knows of one principal's limit."""

    name: str
    rate: Rate
    grain: int
    """Requests that one moment in `admitted` stands for."""

    remaining: int
    admitted: deque[float] = field(default_factory=deque)
    """When this gateway let requests pass, for the time that Redis is away: the first of each
    `grain` of them."""

    begun: int = 0
    """Requests that the last moment stands for until now; 0: it has all of its grain."""

    left: int = 0
    """Unspent of the slice."""

    taken_at: int = 0
    """When the slice was, by the log."""

    expires: float = 0.0
    reset: int = 0
    closed_until: float = 0.0
    """Until then Redis would only say no again."""

    waiting: list[asyncio.Future[Quota]] = field(default_factory=list)

    def forget(self, until: float) -> None:
        """Forgets what was admitted up to then."""
        admitted = self.admitted
        while admitted and admitted[0] <= until:
            admitted.popleft()
        if not admitted:
            self.begun = 0

    def note(self, now: float) -> None:
        """A request has passed."""
        if not self.begun:
            self.admitted.append(now)
        self.begun = (self.begun + 1) % self.grain

    def passed(self) -> int:
        """How many requests have passed that are not forgotten."""
        return len(self.admitted) * self.grain - self._room

    def passed_since(self, since: float) -> int:
        """How many of them have since then."""
        moments = sum(1 for _ in takewhile(lambda at: at > since, reversed(self.admitted)))
        return max(0, moments * self.grain - self._room)

    def frees(self, share: int) -> float:
        """When it will be fewer than `share`, of which at least so many have passed."""
        moments = -(-(share + self._room) // self.grain)
        return self.admitted[-moments] + self.rate.window

    @property
    def _room(self) -> int:
        """Requests that the last moment may stand for yet."""
        return -self.begun % self.grain


class Limits:
    """Admits or refuses one request at a time; `run` must be running."""

    def __init__(self, shared: SharedLog, *, gateways: int = 1, clock: Clock | None = None) -> None:
        self._shared = shared
        self._clock = clock or SystemClock()
        self._gateways = max(1, gateways)
        self._me = new_id("gw")
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._asked: dict[_Bucket, None] = {}
        self._slices: dict[_Bucket, None] = {}
        self._wake = asyncio.Event()
        self._away = False
        self._good_beats = 0

    @property
    def away(self) -> bool:
        """Redis does not answer: limits are kept by shares."""
        return self._away

    def at_once(self, name: str, rate: Rate) -> Quota | None:
        """The verdict on one request of the bucket, where it needs nobody else; else None."""
        now = self._clock.monotonic()
        bucket = self._bucket(name, rate, now)
        if self._away:
            return self._by_share(bucket, now)
        if bucket.closed_until > now:
            return self._closed(bucket, now)
        if bucket.left and bucket.expires > now:
            return self._spend(bucket, now)
        return None

    async def take(self, name: str, rate: Rate) -> Quota:
        """The verdict on one request of the bucket `name`, whose limit is `rate`."""
        verdict = self.at_once(name, rate)
        if verdict is not None:
            return verdict
        bucket = self._buckets[name]
        waiter: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        bucket.waiting.append(waiter)
        self._asked[bucket] = None
        self._wake.set()
        return await waiter

    def closed(self, name: str) -> bool:
        """Whether the bucket is known to be used up."""
        bucket = self._buckets.get(name)
        return bucket is not None and bucket.closed_until > self._clock.monotonic()

    async def run(self) -> None:
        """Asks for what is waited for, gives back what is not spent, and watches Redis."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask())
                group.create_task(self._give_back())
                group.create_task(self._beat())
        finally:
            with contextlib.suppress(SharedLogAway):  # the others notice the silence
                await self._shared.leave(self._me)

    async def _ask(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._asked:
                await self._ask_once()

    async def _ask_once(self) -> None:
        """Everything that is waited for now, in one round trip."""
        batch, self._asked = list(self._asked), {}
        waits = [bucket.waiting for bucket in batch]
        asks = []
        now = self._clock.monotonic()
        for bucket in batch:
            bucket.waiting = []
        for bucket, waiting in zip(batch, waits, strict=True):
            asks.append(self._ask_for(bucket, len(waiting), now))
        try:
            answers = await self._shared.take(asks)
        except SharedLogAway:
            self._lose()
            now = self._clock.monotonic()
            for bucket, waiting in zip(batch, waits, strict=True):
                for waiter in waiting:
                    _tell(waiter, self._by_share(bucket, now))
            return
        for bucket, waiting, told in zip(batch, waits, answers, strict=True):
            self._share_out(bucket, waiting, told)

    def _ask_for(self, bucket: _Bucket, waiting: int, now: float) -> Ask:
        """An ask for those who wait and a little ahead of need; it gives back the old slice."""
        ahead, limit = 0, bucket.rate.limit
        most = (limit // 100 - (grain_of(limit) - 1)) // self._gateways
        if waiting and most > 1 and bucket.remaining > limit // 10:
            ahead = min(most, bucket.passed_since(now - SLICE_SECONDS))
        unspent, bucket.left = bucket.left, 0
        self._slices.pop(bucket, None)
        return Ask(bucket.name, bucket.rate, waiting + ahead, bucket.taken_at, unspent)

    def _share_out(self, bucket: _Bucket, waiting: list[asyncio.Future[Quota]], told: Told) -> None:
        now = self._clock.monotonic()
        bucket.taken_at = told.entered
        bucket.left = told.granted
        bucket.expires = now + SLICE_SECONDS
        bucket.remaining = max(0, bucket.rate.limit - told.used) + told.granted
        bucket.reset = math.ceil(told.full)
        for waiter in waiting:
            if waiter.done():
                continue
            if bucket.left:
                _tell(waiter, self._spend(bucket, now))
            else:
                bucket.closed_until = now + max(told.frees, 0.001)
                _tell(waiter, self._closed(bucket, now))
        if bucket.left:
            self._slices[bucket] = None

    async def _give_back(self) -> None:
        while True:
            await asyncio.sleep(SLICE_SECONDS)
            now = self._clock.monotonic()
            for bucket in list(self._slices):
                if bucket.expires <= now and bucket.left and not self._away:
                    self._asked[bucket] = None
                    self._wake.set()

    async def _beat(self) -> None:
        while True:
            try:
                self._gateways = await self._shared.beat(self._me)
                self._good_beats += 1
            except SharedLogAway:
                self._lose()
            if self._away and self._good_beats >= _GOOD_BEATS:
                self._regain()
            await asyncio.sleep(_BEAT_SECONDS)

    def _lose(self) -> None:
        self._good_beats = 0
        if not self._away:
            self._away = True
            log.warning("limits_by_share", gateways=self._gateways)

    def _regain(self) -> None:
        self._away = False
        for bucket in self._buckets.values():
            bucket.closed_until = 0.0  # by the share; the whole limit may have room
        log.info("limits_shared_again", gateways=self._gateways)

    def _by_share(self, bucket: _Bucket, now: float) -> Quota:
        """The verdict by this gateway's own part of the limit."""
        limit, window = bucket.rate
        share = -(-limit // self._gateways)
        if bucket.passed() >= share:
            bucket.closed_until = bucket.frees(share)
            return self._closed(bucket, now)
        bucket.note(now)
        return Quota(limit, share - bucket.passed(), math.ceil(time.time() + window))

    def _spend(self, bucket: _Bucket, now: float) -> Quota:
        bucket.left -= 1
        bucket.remaining -= 1
        bucket.note(now)
        return Quota(bucket.rate.limit, bucket.remaining, bucket.reset)

    def _closed(self, bucket: _Bucket, now: float) -> Quota:
        wait = max(1, math.ceil(bucket.closed_until - now))
        reset = max(bucket.reset, math.ceil(time.time()) + wait)
        return Quota(bucket.rate.limit, 0, reset, wait)

    def _bucket(self, name: str, rate: Rate, now: float) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None or (bucket.rate is not rate and bucket.rate != rate):
            # A new one too where another plan holds since: Redis knows what was taken.
            grain = max(1, rate.limit // _MOST_TIMES)
            bucket = self._buckets[name] = _Bucket(name, rate, grain, remaining=rate.limit)
            if len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        bucket.forget(now - rate.window)
        return bucket


def network_of(address: str) -> str:
    """What stands for a client address in a limit: of IPv6 the /64, which is one customer's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if found.version == 6 and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(getattr(found, "ipv4_mapped", None) or found)


def _tell(waiter: asyncio.Future[Quota], verdict: Quota) -> None:
    if not waiter.done():
        waiter.set_result(verdict)
