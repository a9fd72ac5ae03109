"""What was taken from every limit, in Redis, where all gateways write it down.

The log of a bucket is a list of entries `ms n`, oldest first: at that time of Redis's clock, n were
taken. What is older than the window is dropped, the rest may not exceed the limit. So the window
slides, in every minute or hour alike; a counter per minute would let twice the limit pass around
the full minute, and so would GCRA with a burst of the whole limit.

A limit of up to a thousand is exact to the request, and has an entry for each at most. Of a larger
one, up to a thousandth is put into one entry, at the time of the first: so a log has some two
thousand entries, or 40 KB, whatever limit and window are, and a window at most a thousandth more.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from vlinders_gateway.rates import Rate

PATIENCE = 0.05
"""Seconds that Redis has to answer."""

_TAKE = """
local log, sum = KEYS[1], KEYS[2]
local limit, window, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local grain, slice, unspent = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local used = tonumber(redis.call('GET', sum))
if not used then
  used = 0
  for _, row in ipairs(redis.call('LRANGE', log, 0, -1)) do
    used = used + tonumber(row:match(' (%d+)'))
  end
end

local function entry(place)
  local row = redis.call('LINDEX', log, place)
  if not row then return end
  local at, n = row:match('(%d+) (%d+)')
  return tonumber(at), tonumber(n)
end

local place = -1
while unspent > 0 do
  local at, n = entry(place)
  if not at or at < slice then break end
  if at == slice then
    local back = math.min(unspent, n)
    redis.call('LSET', log, place, string.format('%d %d', at, n - back))
    used, unspent = used - back, unspent - back
  end
  place = place - 1
end

local oldest, n = entry(0)
while oldest and oldest <= now - window do
  redis.call('LPOP', log)
  used = used - n
  oldest, n = entry(0)
end
if not oldest then used = 0 end

local granted = math.min(want, math.max(0, limit - used))
local newest, last = entry(-1)
if granted > 0 then
  if newest and last > 0 and last + granted <= grain then
    redis.call('LSET', log, -1, string.format('%d %d', newest, last + granted))
  else
    redis.call('RPUSH', log, string.format('%d %d', now, granted))
    newest = now
  end
  used = used + granted
end
redis.call('SET', sum, used, 'PX', window + 1000)
redis.call('PEXPIRE', log, window + 1000)
local frees, full = 0, now
if newest then
  frees = (oldest or newest) + window - now
  full = newest + window
end
return {granted, used, newest or now, frees, full}
"""

_BEAT = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
return redis.call('ZCARD', KEYS[1])
"""

_GATEWAYS = "vlinders:gateways"
_SILENT_SECONDS = 10
"""After which a gateway is no longer counted."""


class SharedLogAway(Exception):
    """Redis cannot be asked at the moment."""


@dataclass(frozen=True)
class Ask:
    """So many are wanted from a bucket; and of an earlier slice, some were not spent."""

    bucket: str
    rate: Rate
    want: int
    taken_at: int = 0
    """When that slice was, as `Told.entered` said."""
    unspent: int = 0


@dataclass(frozen=True)
class Told:
    granted: int
    used: int
    """Of the limit, after this."""

    entered: int
    """When the log has it that what was granted was taken: milliseconds of Redis's clock."""

    frees: float
    """Seconds until the oldest of what is used is free again."""

    full: float
    """Unix seconds at which all of it is."""


class SharedLog:
    """The log in the Redis at `url`. Every method raises SharedLogAway within `patience`."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=None,  # `_patiently` is the only one that gives up
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )

    async def take(self, asks: Sequence[Ask]) -> list[Told]:
        """Answers all `asks`, in their order, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for ask in asks:
            place = f"vlinders:limit:{{{ask.bucket}}}"
            limit, window = ask.rate
            arguments = (limit, int(window * 1000), ask.want)
            back = (grain_of(limit), ask.taken_at, ask.unspent)
            pipeline.eval(_TAKE, 2, place, f"{place}:sum", *arguments, *back)
        rows = await self._patiently(pipeline.execute())
        return [
            Told(granted, used, entered, frees / 1000, full / 1000)
            for granted, used, entered, frees, full in rows
        ]

    async def beat(self, gateway: str) -> int:
        """Says that this gateway is there; returns how many are."""
        beat = self._redis.eval(_BEAT, 1, _GATEWAYS, gateway, _SILENT_SECONDS)
        return int(await self._patiently(beat))

    async def leave(self, gateway: str) -> None:
        """Says that this gateway is not there any more."""
        await self._patiently(self._redis.zrem(_GATEWAYS, gateway))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _patiently(self, answer: Any) -> Any:
        """What Redis answers. That this loop was late, and not Redis, is no reason to give up:
        after the greater part of the time the loop gets another turn to read what has come.
        """
        asking = asyncio.ensure_future(answer)
        try:
            for part in (0.8, 0.2):
                await asyncio.wait({asking}, timeout=self._patience * part)
            if not asking.done():
                raise TimeoutError
            return asking.result()
        except (RedisError, OSError, TimeoutError) as error:
            # Whatever is still to come on these connections is nobody's answer any more.
            await self._redis.connection_pool.disconnect()
            raise SharedLogAway from error
        finally:
            asking.cancel()


def grain_of(limit: int) -> int:
    """The most that one entry stands for, unless more were taken at one time."""
    return max(1, limit // 1000)
