"""Passwords: argon2id, in as much memory as the threads take and no more."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import psutil
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from vlinders_auth.errors import TooManyPasswords
from vlinders_auth.passwords import Passwords

from .conftest import QUEUE, THREADS


class Gate:
    """Holds every thread that hashes, until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.most = 0
        self.hashed = 0
        self._inside = 0
        self._lock = threading.Lock()

    def hash(self, *_: object) -> str:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.open.wait(30)
        with self._lock:
            self._inside -= 1
            self.hashed += 1
        return "$argon2id$"


@pytest.fixture
async def gated(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Passwords, Gate]]:
    gate = Gate()
    monkeypatch.setattr(PasswordHasher, "hash", gate.hash)
    monkeypatch.setattr(
        "vlinders_auth.passwords.PATIENCE_SECONDS", 1e9
    )  # the queue is bounded, too
    yield passwords, gate
    gate.open.set()


async def test_what_is_kept_costs_what_owasp_asks(passwords: Passwords) -> None:
    kept = extract_parameters(await passwords.hash("a password"))

    assert kept.type is Type.ID
    assert (kept.memory_cost, kept.time_cost, kept.parallelism) >= (19 * 1024, 2, 1)


async def test_only_the_password_matches(passwords: Passwords) -> None:
    kept = await passwords.hash("a password")

    assert await passwords.matches("a password", kept)
    assert not await passwords.matches("a passworD", kept)
    assert not await passwords.matches(kept, kept)
    assert not await passwords.matches("a password", "not a hash")
    assert not await passwords.matches("a password", None)


async def turn(passwords: Passwords) -> str:
    with passwords.turn():
        return await passwords.hash("a password")


async def test_two_hundred_at_once_take_as_many_threads_as_there_are(
    gated: tuple[Passwords, Gate],
) -> None:
    passwords, gate = gated
    asked = [asyncio.create_task(turn(passwords)) for _ in range(200)]
    refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    gate.open.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert len(refused) == 200 - THREADS - QUEUE
    assert all(isinstance(task.exception(), TooManyPasswords) for task in refused)
    assert answers.count("$argon2id$") == THREADS + QUEUE
    assert gate.most <= THREADS


async def test_what_hashes_took_is_handed_back(passwords: Passwords) -> None:
    await passwords.hash("a password")
    before = psutil.Process().memory_info().rss

    for _ in range(10):
        await asyncio.gather(*(passwords.hash("a password") for _ in range(THREADS)))

    assert psutil.Process().memory_info().rss - before < 15 * 2**20


async def test_a_turn_is_free_again_when_its_caller_has_left(
    gated: tuple[Passwords, Gate],
) -> None:
    passwords, gate = gated
    asked = [asyncio.create_task(turn(passwords)) for _ in range(THREADS + QUEUE)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)

    again = [asyncio.create_task(turn(passwords)) for _ in range(THREADS + QUEUE)]
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(*again) == ["$argon2id$"] * (THREADS + QUEUE)
    assert gate.most <= THREADS


async def test_as_many_are_let_in_as_can_be_served_in_time_and_those_succeed(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> str:
        time.sleep(0.05)
        return "$argon2id$"

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    monkeypatch.setattr("vlinders_auth.passwords.PATIENCE_SECONDS", 0.2)
    for _ in range(30):  # by then it knows what a password takes
        await turn(passwords)

    began = time.monotonic()
    answers = await asyncio.gather(*(turn(passwords) for _ in range(100)), return_exceptions=True)
    waited = time.monotonic() - began

    assert {type(answer) for answer in answers} == {str, TooManyPasswords}
    assert answers.count("$argon2id$") <= 0.2 / 0.05 * THREADS + THREADS
    assert waited < 2


async def test_whoever_has_waited_too_long_is_told_and_costs_nothing(
    gated: tuple[Passwords, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords, gate = gated
    monkeypatch.setattr("vlinders_auth.passwords.PATIENCE_SECONDS", 0.1)
    running = [asyncio.create_task(passwords.hash("a password")) for _ in range(THREADS)]
    late = asyncio.create_task(passwords.hash("a password"))
    await asyncio.sleep(0.2)
    gate.open.set()

    await asyncio.gather(*running)
    with pytest.raises(TooManyPasswords):
        await late
    assert gate.hashed == THREADS
