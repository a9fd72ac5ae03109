"""Passwords: kept as argon2id, checked by a few threads to spare memory and the event loop."""

import asyncio
import ctypes
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from vlinders_auth.errors import TooManyPasswords

P = ParamSpec("P")
T = TypeVar("T")

_M_MMAP_THRESHOLD = -3
"""Of glibc's mallopt(3)."""


class Passwords:
    """Hashes and checks passwords, `threads` at a time; `queue` more wait their turn.

    One costs `memory_kib` of memory and some tens of milliseconds, so that whoever gets hold of the
    hashes pays the same for each guess (OWASP: at least 19 MiB with 2 passes).
    """

    def __init__(self, *, memory_kib: int, passes: int, threads: int, queue: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._room = BoundedSemaphore(threads + queue)
        _hand_memory_back()
        self._nobodys = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """What to keep; raises TooManyPasswords when no more can wait."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of `password`. Without a hash it is not, and that takes as long.

        Raises TooManyPasswords when no more can wait.
        """
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
        if not self._room.acquire(blocking=False):
            raise TooManyPasswords
        future = self._threads.submit(work, *args, **kwargs)
        # The place is free when the thread is: a caller who leaves does not stop a hash half-way.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[T]) -> None:
        self._room.release()


def _hand_memory_back() -> None:
    """Has what a hash takes go back to the system when it is done, where the system can be told.

    Left alone, glibc keeps tens of megabytes for ever, having learnt that such blocks come and go.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
