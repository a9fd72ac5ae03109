"""Password changes: who knows the current one sets another, and is then alone with his account."""

import asyncio
import threading
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import update

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1 import sessions_pb2
from vlinders.auth.v1.events_pb2 import SessionRevoked
from vlinders_auth.models import Account

from .conftest import PASSWORD, Auth, failed, session_of

NEW = "a quite different one"
ELSEWHERE = "198.51.100.7"


async def change(auth: Auth, caller: Caller, current: str = PASSWORD, new: str = NEW) -> None:
    request = pb.ChangePasswordRequest(current_password=current, new_password=new)
    await auth.accounts(caller).ChangePassword(request)


async def test_the_old_password_opens_nothing_any_more(auth: Auth) -> None:
    await auth.register()

    await change(auth, await auth.user(await auth.login()))

    assert (await failed(auth.login())).reason == "INVALID_CREDENTIALS"
    await auth.login(password=NEW)


async def test_all_sessions_end_but_the_one_that_asks(auth: Auth) -> None:
    await auth.register()
    await auth.register("eve@example.com")
    eves = await auth.login("eve@example.com")
    others = [await auth.login(dialect=dialect) for dialect in ("vlinders", "maas", "owl")]
    asking = await auth.user(await auth.login())

    await change(auth, asking)

    ended = [session_of(other.access_token) for other in others]
    for session_id in ended:
        refusal = await failed(auth.introspect(session_id=session_id))
        assert refusal.reason == "CREDENTIAL_NOT_FOUND"
    told = await auth.published(SessionRevoked)
    assert {event.session_id for event in told if isinstance(event, SessionRevoked)} == set(ended)
    await auth.introspect(session_id=asking.session_id)
    await auth.introspect(session_id=session_of(eves.access_token))


async def test_a_wrong_current_password_counts_as_a_guess(auth: Auth) -> None:
    await auth.register()
    thief = await auth.user(await auth.login(), client_address=ELSEWHERE)

    told = [(await failed(change(auth, thief, f"guess {n}"))).reason for n in range(11)]

    assert told == ["WRONG_PASSWORD"] * 10 + ["TOO_MANY_ATTEMPTS"]
    assert (await failed(auth.login(address=ELSEWHERE))).reason == "INVALID_CREDENTIALS"
    await auth.login()


@pytest.mark.parametrize(
    ("dialect", "new", "reason"),
    [
        ("owl", "sixsix", ""),
        ("owl", "five5", "INVALID_REQUEST"),
        ("vlinders", "seven 7", "PASSWORD_TOO_SHORT"),
    ],
)
async def test_how_short_it_may_be_depends_on_the_dialect(
    auth: Auth, dialect: str, new: str, reason: str
) -> None:
    await auth.register()
    ada = await auth.user(await auth.login(), dialect=dialect)

    if not reason:
        await change(auth, ada, new=new)
        return
    refusal = await failed(change(auth, ada, new=new))
    assert refusal.reason == reason
    assert [(each.field, each.rule) for each in refusal.violations] == [
        ("new_password", "string.min_len")
    ]


async def test_an_account_without_a_password_has_none_to_change(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    ada = await auth.user(await auth.login())
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(password_hash=""))
    checked: list[str] = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher,
        "verify",
        lambda self, kept, password: checked.append(kept) or verify(self, kept, password),
    )

    assert (await failed(change(auth, ada))).reason == "WRONG_PASSWORD"
    assert (await failed(auth.login())).reason == "INVALID_CREDENTIALS"
    assert len(checked) == 2


async def test_of_two_changes_at_the_same_time_one_is_made(auth: Auth) -> None:
    await auth.register()
    ada = await auth.user(await auth.login())

    answers = await asyncio.gather(
        *(change(auth, ada, new=f"{NEW} {n}") for n in range(2)), return_exceptions=True
    )

    won = answers.index(None)
    await auth.login(password=f"{NEW} {won}")
    assert (await failed(auth.login(password=f"{NEW} {1 - won}"))).reason == "INVALID_CREDENTIALS"


async def test_a_sign_in_by_the_old_password_that_ends_after_the_change_fails(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    ada = await auth.user(await auth.login())
    verify, looked, go = PasswordHasher.verify, threading.Event(), threading.Event()

    def slowly(self: Any, kept: str, password: str) -> bool:
        same: bool = verify(self, kept, password)
        if not looked.is_set():
            looked.set()
            go.wait(30)
        return same

    monkeypatch.setattr(PasswordHasher, "verify", slowly)
    late = asyncio.ensure_future(failed(auth.login()))
    await asyncio.to_thread(looked.wait, 30)
    await change(auth, ada)
    go.set()

    assert (await late).reason == "INVALID_CREDENTIALS"


async def test_who_signs_in_while_his_hash_is_renewed_gets_in(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.register()
    monkeypatch.setattr(auth.passwords, "outdated", lambda kept: True, raising=True)

    answers = await asyncio.gather(*(auth.login() for _ in range(3)))

    assert all(isinstance(answer, sessions_pb2.SignIn) for answer in answers)
