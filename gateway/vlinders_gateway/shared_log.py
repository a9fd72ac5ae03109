"""What was taken from every limit, in Redis, where all gateways write it down.

The log of a bucket is a list of entries `ms n id`, oldest first: at that time of Redis's clock, n
were taken. What is older than the window is dropped, the rest may not exceed the limit. So the
window slides exactly, in every 60 seconds alike; a counter per minute would let twice the limit
pass around the full minute, and so would GCRA with a burst of the whole limit.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

PATIENCE = 0.05
"""Seconds that Redis has to answer."""

_TAKE = """
local log, sum = KEYS[1], KEYS[2]
local limit, window, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local id, entry, unspent = ARGV[4], ARGV[5], tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local used = tonumber(redis.call('GET', sum))
if not used then
  used = 0
  for _, row in ipairs(redis.call('LRANGE', log, 0, -1)) do
    used = used + tonumber(row:match(' (%d+) '))
  end
end
if unspent > 0 then
  local place = redis.call('LPOS', log, entry)
  if place then
    local at, n, of = entry:match('(%d+) (%d+) (.+)')
    redis.call('LSET', log, place, at .. ' ' .. (tonumber(n) - unspent) .. ' ' .. of)
    used = used - unspent
  end
end
local head = redis.call('LINDEX', log, 0)
while head do
  local at, n = head:match('(%d+) (%d+) ')
  if tonumber(at) > now - window then break end
  redis.call('LPOP', log)
  used = used - tonumber(n)
  head = redis.call('LINDEX', log, 0)
end
if not head then used = 0 end

local granted = math.min(want, math.max(0, limit - used))
if granted > 0 then
  redis.call('RPUSH', log, now .. ' ' .. granted .. ' ' .. id)
  used = used + granted
end
redis.call('SET', sum, used, 'PX', window + 1000)
redis.call('PEXPIRE', log, window + 1000)
local oldest, newest = redis.call('LINDEX', log, 0), redis.call('LINDEX', log, -1)
local frees, full = 0, now
if oldest then
  frees = tonumber(oldest:match('%d+')) + window - now
  full = tonumber(newest:match('%d+')) + window
end
return {granted, used, now, frees, full}
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
    limit: int
    want: int
    slice_id: str
    unspent_of: str = ""
    """The entry of that slice, as `Told.entry` said."""
    unspent: int = 0


@dataclass(frozen=True)
class Told:
    granted: int
    used: int
    """Of the limit, after this."""

    entry: str
    """What stands in the log for the slice that was granted."""

    frees: float
    """Seconds until the oldest of what is used is free again."""

    full: float
    """Unix seconds at which all of it is."""


class SharedLog:
    """The log in the Redis at `url`. Every method raises SharedLogAway within `patience`."""

    def __init__(self, url: str, *, window: float = 60.0, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=None,  # `_patiently` is the only one that gives up
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )
        self._window_ms = int(window * 1000)

    async def take(self, asks: Sequence[Ask]) -> list[Told]:
        """Answers all `asks`, in their order, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for ask in asks:
            place = f"vlinders:limit:{{{ask.bucket}}}"
            arguments = (ask.limit, self._window_ms, ask.want)
            back = (ask.slice_id, ask.unspent_of, ask.unspent)
            pipeline.eval(_TAKE, 2, place, f"{place}:sum", *arguments, *back)
        rows = await self._patiently(pipeline.execute())
        return [
            Told(granted, used, f"{now} {granted} {ask.slice_id}", frees / 1000, full / 1000)
            for ask, (granted, used, now, frees, full) in zip(asks, rows, strict=True)
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
