"""Passwords: kept as argon2id, checked by a few threads to spare memory and the event loop."""

import asyncio
import ctypes
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from vlinders_auth.errors import TooManyPasswords

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_SECONDS = 3.0
"""How long somebody may have to wait for a thread: well within what his caller waits for us."""

_WEIGHT = 0.2
"""Of the newest time in the mean of those that passwords took."""

_M_MMAP_THRESHOLD = -3
"""Of glibc's mallopt(3)."""


class Passwords:
    """Hashes and checks passwords, `threads` at a time, for callers who take a `turn`.

    One costs `memory_kib` of memory and some tens of milliseconds, so that whoever gets hold of the
    hashes pays the same for each guess (OWASP: at least 19 MiB with 2 passes).
    """

    def __init__(self, *, memory_kib: int, passes: int, threads: int, queue: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._at_once = threads
        self._most = threads + queue
        self._turns = 0
        self._seconds = 0.0
        """What a password takes at the moment: more where others want the processors, too."""
        _hand_memory_back()
        self._nobodys = self._timed(self._hasher.hash, secrets.token_urlsafe())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For the block, a place among those who wait for a thread or have one.

        Raises TooManyPasswords, at once, when `queue` callers wait already, or so many that he
        would wait longer than PATIENCE_SECONDS: who is let in can be served. Whoever takes it
        before anything else costs nothing when there is none.
        """
        wait = self._turns * self._seconds / self._at_once
        if self._turns >= self._most or (self._turns >= self._at_once and wait > PATIENCE_SECONDS):
            raise TooManyPasswords
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1

    async def hash(self, password: str) -> str:
        """What to keep."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of `password`. Without a hash it is not, and that takes as long."""
        same = await self._run(self._same, password_hash or self._nobodys, password)
        return same and password_hash is not None

    def outdated(self, password_hash: str) -> bool:
        """Whether a hash was made with less than what a new one costs."""
        return self._hasher.check_needs_rehash(password_hash)

    async def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _same(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for a thread; whoever leaves meanwhile is passed over.

        Raises TooManyPasswords when it has become a longer wait than was thought.
        """
        until = time.monotonic() + PATIENCE_SECONDS

        def run() -> T:
            if time.monotonic() > until:
                raise TooManyPasswords
            return self._timed(work, *args, **kwargs)

        return await asyncio.wrap_future(self._threads.submit(run))

    def _timed(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.monotonic()
        done = work(*args, **kwargs)
        took = time.monotonic() - began
        self._seconds += (took - self._seconds) * (_WEIGHT if self._seconds else 1.0)
        return done


def _hand_memory_back() -> None:
    """Has what a hash takes go back to the system when it is done, where the system can be told.

    Left alone, glibc keeps tens of megabytes for ever, having learnt that such blocks come and go.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
