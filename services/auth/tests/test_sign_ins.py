"""Sign-ins: who knows the password gets in, who guesses learns nothing."""

import asyncio
import hashlib
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select, update

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_INACTIVE
from vlinders_auth import attempts, passwords
from vlinders_auth.models import Account, Attempts, RefreshToken, Session
from vlinders_auth.passwords import Passwords
from vlinders_kit.errors import Failure, failure_of

from .conftest import PASSWORD, QUEUE, THREADS, Auth

ELSEWHERE = "198.51.100.7"


async def refused(auth: Auth, **attempt: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await auth.login(**attempt)
    return failure_of(error.value)


async def guess(auth: Auth, times: int, **attempt: Any) -> list[str]:
    return [(await refused(auth, password=f"guess {n}", **attempt)).reason for n in range(times)]


async def test_the_password_opens_a_session(auth: Auth) -> None:
    await auth.register()

    opened = await auth.login("ADA@example.com")

    assert (opened.token_type, opened.expires_in) == ("bearer", 900)
    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(Session)) == 1
        kept = await tx.scalar(select(RefreshToken.sha256))
    assert opened.refresh_token.encode() not in (kept or b"")


async def test_an_unknown_email_is_answered_as_a_wrong_password_is(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    checked: list[str] = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher,
        "verify",
        lambda self, kept, password: checked.append(kept) or verify(self, kept, password),
    )

    wrong = await refused(auth, password="not the password")
    unknown = await refused(auth, email="nobody@example.com")

    assert wrong == unknown
    assert wrong.reason == "INVALID_CREDENTIALS"
    assert [kept.rpartition("$")[0].rpartition("$")[0] for kept in checked] == [
        "$argon2id$v=19$m=19456,t=2,p=1"
    ] * 2


async def test_the_eleventh_guess_is_not_looked_at_wherever_it_comes_from(auth: Auth) -> None:
    await auth.register()

    addresses = [f"203.0.113.{n}" for n in range(12)]
    told = [(await guess(auth, 1, address=address))[0] for address in addresses]

    assert told == ["INVALID_CREDENTIALS"] * 10 + ["TOO_MANY_ATTEMPTS"] * 2
    assert (await refused(auth, address=ELSEWHERE)).reason == "TOO_MANY_ATTEMPTS"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused for the wait, which is long where others want the processors, too."""
    monkeypatch.setattr(passwords, "PATIENCE_SECONDS", 60.0)


@pytest.mark.usefixtures("patient")
async def test_guesses_at_the_same_time_are_counted_each(auth: Auth) -> None:
    await auth.register()

    told = [reason for [reason] in await asyncio.gather(*(guess(auth, 1) for _ in range(30)))]

    assert told.count("INVALID_CREDENTIALS") == 10
    assert set(told) <= {"INVALID_CREDENTIALS", "TOO_MANY_ATTEMPTS", "TOO_MANY_PASSWORDS"}
    assert await guess(auth, 1) == ["TOO_MANY_ATTEMPTS"]


@pytest.mark.usefixtures("patient")
async def test_right_passwords_at_the_same_time_do_not_use_each_other_up(auth: Auth) -> None:
    await auth.register()

    answers = await asyncio.gather(*(auth.login() for _ in range(20)), return_exceptions=True)

    busy = [failure_of(e) for e in answers if isinstance(e, grpc.aio.AioRpcError)]
    assert len(busy) <= 10
    assert {(failure.reason, failure.retry_after) for failure in busy} <= {
        ("TOO_MANY_PASSWORDS", timedelta(seconds=1))
    }
    await auth.login()


async def test_an_attempt_whose_process_died_counts(auth: Auth) -> None:
    await auth.register()
    subject = hashlib.sha256(b"ada@example.com").digest()
    async with auth.db.begin() as tx:
        for _ in range(10):
            await attempts.admit(tx, subject, now=auth.clock.now())

    assert (await refused(auth)).reason == "TOO_MANY_PASSWORDS"
    auth.clock.advance(attempts.LOST)
    assert (await refused(auth)).reason == "TOO_MANY_ATTEMPTS"
    auth.clock.advance(attempts.WINDOW)
    await auth.login()


async def test_who_leaves_before_he_is_told_is_not_counted(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    answer = threading.Event()
    monkeypatch.setattr(PasswordHasher, "verify", lambda *_: answer.wait(30))

    async def counted() -> tuple[int, int]:
        async with auth.db.begin() as tx:
            rows = (await tx.scalars(select(Attempts))).all()
            return sum(len(row.begun_at) for row in rows), sum(len(row.failed_at) for row in rows)

    async with asyncio.timeout(10):
        call = asyncio.ensure_future(auth.login(password="wrong"))
        while await counted() != (2, 0):
            await asyncio.sleep(0.01)
        call.cancel()
        while await counted() != (0, 0):
            await asyncio.sleep(0.01)
    answer.set()


async def test_an_email_that_nobody_has_is_counted_alike(auth: Auth) -> None:
    told = await guess(auth, 11, email="nobody@example.com")

    assert told == ["INVALID_CREDENTIALS"] * 10 + ["TOO_MANY_ATTEMPTS"]


async def test_an_account_has_ten_guesses_by_all_its_names_and_dialects(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody learns from it that two names are of one account."""
    await auth.register()
    async with auth.db.begin() as tx:
        kept = await tx.scalar(select(Account.password_hash))
    checked: list[str] = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher,
        "verify",
        lambda self, kept, password: checked.append(kept) or verify(self, kept, password),
    )

    async def guessed(email: str, username: str) -> list[str]:
        told = []
        for n, dialect in enumerate(("vlinders", "maas", "massrouter", "lyss", "owl", "") * 2):
            for name in (email, username):
                told += await guess(auth, 1, email=name, dialect=dialect, address=f"203.0.113.{n}")
        return told

    known = await guessed("Ada@example.com", "ADA")
    assert (checked.count(kept or ""), len(checked)) == (10, 20)
    assert await guessed("eve@example.com", "eve") == known
    assert known == ["INVALID_CREDENTIALS"] * 20 + ["TOO_MANY_ATTEMPTS"] * 4
    assert len(checked) == 40


async def test_who_has_used_up_one_name_is_not_let_in_by_the_other(auth: Auth) -> None:
    await auth.register()
    await guess(auth, 10, email="ada@example.com")

    assert (await refused(auth, email="ada")).reason == "INVALID_CREDENTIALS"
    auth.clock.advance(attempts.WINDOW)
    await auth.login("ada")


async def test_who_has_proved_himself_otherwise_has_all_his_attempts_again(auth: Auth) -> None:
    await auth.register()
    await guess(auth, 5, email="ada@example.com")
    await guess(auth, 5, email="ada")
    async with auth.db.begin() as tx:
        account = (await tx.scalars(select(Account))).one()
        await attempts.forget(tx, account)

    assert await guess(auth, 10) == ["INVALID_CREDENTIALS"] * 10


async def test_strangers_do_not_lock_the_owner_out_where_he_is_known(auth: Auth) -> None:
    await auth.register()
    await auth.login(address="192.0.2.1")
    await guess(auth, 10, address=ELSEWHERE)

    assert (await refused(auth, address=ELSEWHERE)).reason == "TOO_MANY_ATTEMPTS"
    await auth.login(address="192.0.2.1")
    assert (await guess(auth, 11, address="192.0.2.1"))[-1] == "TOO_MANY_ATTEMPTS"


async def test_a_session_that_is_over_makes_no_address_known(auth: Auth) -> None:
    await auth.register()
    await auth.login(address="192.0.2.1")
    auth.clock.advance(timedelta(days=30))
    await guess(auth, 10, address=ELSEWHERE)

    assert (await refused(auth, address="192.0.2.1")).reason == "TOO_MANY_ATTEMPTS"


async def test_the_wait_is_told_and_ends_guess_by_guess(auth: Auth) -> None:
    await auth.register()
    await guess(auth, 1)
    auth.clock.advance(timedelta(minutes=5))
    await guess(auth, 9)

    assert (await refused(auth)).retry_after == timedelta(minutes=10)
    auth.clock.advance(timedelta(minutes=10))
    assert await guess(auth, 2) == ["INVALID_CREDENTIALS", "TOO_MANY_ATTEMPTS"]


async def test_right_passwords_do_not_count(auth: Auth) -> None:
    await auth.register()

    for _ in range(12):
        await auth.login()


@pytest.mark.usefixtures("patient")
async def test_what_was_not_looked_at_does_not_count(auth: Auth) -> None:
    await auth.register()
    with ExitStack() as others:
        for _ in range(THREADS + QUEUE):
            others.enter_context(auth.passwords.turn())
        told = await guess(auth, 12)

    assert set(told) == {"TOO_MANY_PASSWORDS"}
    await auth.login()


async def test_attempts_and_sessions_that_are_over_are_deleted(auth: Auth) -> None:
    await auth.register()
    await auth.login()
    await guess(auth, 1)
    auth.clock.advance(timedelta(days=30))

    await auth.upkeep.forget_old()

    async with auth.db.begin() as tx:
        for table in (Attempts, Session, RefreshToken):
            assert await tx.scalar(select(func.count()).select_from(table)) == 0


async def test_only_who_knows_the_password_learns_that_an_account_is_disabled(auth: Auth) -> None:
    await auth.register()
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=ACCOUNT_STATUS_INACTIVE))

    assert (await refused(auth)).reason == "ACCOUNT_DISABLED"
    assert (await refused(auth, password="wrong")).reason == "INVALID_CREDENTIALS"


async def test_a_sign_in_renews_a_hash_that_costs_less_than_new_ones(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    raised = Passwords(memory_kib=24 * 1024, passes=3, threads=1, queue=8)
    monkeypatch.setattr(auth.passwords, "_hasher", raised._hasher)

    await auth.login()

    async with auth.db.begin() as tx:
        kept = await tx.scalar(select(Account.password_hash))
    assert kept is not None
    assert kept.startswith("$argon2id$v=19$m=24576,t=3,p=1$")
    await auth.login(password=PASSWORD)
    await raised.close()


@pytest.mark.parametrize("password", ["", "p" * 129, "p" * 1_000_000])
async def test_a_password_that_cannot_be_one_costs_nothing(
    auth: Auth, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.delattr(PasswordHasher, "verify")

    assert (await refused(auth, password=password)).reason == "INVALID_REQUEST"


async def test_a_stored_hash_is_no_password(auth: Auth) -> None:
    await auth.register()
    async with auth.db.begin() as tx:
        kept = await tx.scalar(select(Account.password_hash))

    assert (await refused(auth, password=kept)).reason == "INVALID_CREDENTIALS"
