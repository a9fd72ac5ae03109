"""Links that come by mail: whose they are, what they open, and that they do so once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as accounts_pb
from vlinders.auth.v1 import links_pb2 as pb
from vlinders.auth.v1.events_pb2 import ApiKeyRevoked, Audited, SessionRevoked
from vlinders_auth import links
from vlinders_auth.links import LIFETIMES, PREFIX, Purpose
from vlinders_auth.models import Account, Link, Mail
from vlinders_kit.sealing import Sealer

from .conftest import NOW, PASSWORD, PUBLIC_URL, SEALER, Auth, reasons, refused, text_of, token_in

NEW_PASSWORD = "another one, as good"


async def ask_to_verify(auth: Auth, who: Caller) -> None:
    request = pb.RequestEmailVerificationRequest()
    await auth.links(who).RequestEmailVerification(request)


async def ask_to_reset(auth: Auth, email: str = "ada@example.com") -> None:
    await auth.links().RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))


async def verify(auth: Auth, token: str) -> Any:
    return await auth.links().VerifyEmail(pb.VerifyEmailRequest(token=token))


async def reset(auth: Auth, token: str, password: str = NEW_PASSWORD) -> Any:
    request = pb.ResetPasswordRequest(token=token, new_password=password)
    return await auth.links().ResetPassword(request)


async def verification(auth: Auth, who: Caller) -> str:
    """The token of a link that verifies an e-mail."""
    await ask_to_verify(auth, who)
    [mail] = await auth.mails()
    return token_in(mail)


async def reset_token(auth: Auth, email: str = "ada@example.com") -> str:
    await ask_to_reset(auth, email)
    [mail] = await auth.mails()
    return token_in(mail)


async def set_account(auth: Auth, who: Caller, **values: Any) -> None:
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).where(Account.id == who.account_id).values(**values))


async def is_verified(auth: Auth, who: Caller) -> bool:
    account = await auth.accounts(who).GetMyAccount(accounts_pb.GetMyAccountRequest())
    return bool(account.email_verified)


async def test_a_link_verifies_the_email_that_it_was_sent_to(auth: Auth) -> None:
    ada = await auth.register()
    await ask_to_verify(auth, ada)
    [mail] = await auth.mails()

    assert mail["To"] == "ada@example.com"
    assert f"{PUBLIC_URL}/account/verify-email#token={PREFIX}" in text_of(mail)
    assert not await is_verified(auth, ada)
    assert (await verify(auth, token_in(mail))).email == "ada@example.com"
    assert await is_verified(auth, ada)
    assert await refused(ask_to_verify(auth, ada)) == "EMAIL_ALREADY_VERIFIED"


async def test_a_link_works_once_whoever_uses_it_at_the_same_time(auth: Auth) -> None:
    token = await verification(auth, await auth.register())

    answers = await asyncio.gather(*(verify(auth, token) for _ in range(6)), return_exceptions=True)

    assert reasons(answers) == ["INVALID_LINK"] * 5


async def test_using_a_link_ends_the_others_of_its_kind(auth: Auth) -> None:
    ada = await auth.register()
    first, second = await verification(auth, ada), await verification(auth, ada)

    await verify(auth, second)

    assert await refused(verify(auth, first)) == "INVALID_LINK"
    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(Link)) == 0


@pytest.mark.parametrize("purpose", [Purpose.VERIFY_EMAIL, Purpose.RESET_PASSWORD])
async def test_a_link_expires(auth: Auth, purpose: Purpose) -> None:
    ada = await auth.register()
    if purpose is Purpose.VERIFY_EMAIL:
        token, use = await verification(auth, ada), verify
    else:
        token, use = await reset_token(auth), reset
    auth.clock.advance(LIFETIMES[purpose])

    assert await refused(use(auth, token)) == "INVALID_LINK"


async def test_a_link_opens_nothing_that_it_is_not_for(auth: Auth) -> None:
    ada = await auth.register()
    verifies, resets = await verification(auth, ada), await reset_token(auth)

    assert await refused(reset(auth, verifies)) == "INVALID_LINK"
    assert await refused(verify(auth, resets)) == "INVALID_LINK"
    assert not await is_verified(auth, ada)


async def test_no_character_of_a_token_can_be_changed(auth: Auth) -> None:
    token = await verification(auth, await auth.register())
    other = {place: "A" if token[place] != "A" else "B" for place in range(len(token) - 1)}
    forged = [token[:place] + letter + token[place + 1 :] for place, letter in other.items()]

    for text_ in (*forged, token[:-1], token + "A", "x", PREFIX, token.swapcase()):
        assert await refused(verify(auth, text_)) == "INVALID_LINK"
    await verify(auth, token)


async def test_a_token_of_other_keys_opens_nothing_and_one_of_older_keys_does(auth: Auth) -> None:
    ada = await auth.register()
    token = await verification(auth, ada)
    async with auth.db.begin() as tx:
        link = (await tx.scalars(select(Link))).one()

    assert links.token_of(link, SEALER) == token
    foreign = links.token_of(link, Sealer({"k1": b"x" * 32}, "k1"))
    assert await refused(verify(auth, foreign)) == "INVALID_LINK"
    async with auth.db.begin() as tx:
        newer = Sealer({"k1": bytes(32), "k2": b"n" * 32}, "k2")
        found = await links.find(tx, newer, token, Purpose.VERIFY_EMAIL, now=NOW)
    assert found.id == link.id


async def test_a_link_is_void_once_the_account_has_another_email(auth: Auth) -> None:
    ada = await auth.register()
    verifies, resets = await verification(auth, ada), await reset_token(auth)

    await set_account(auth, ada, email="new@example.com")

    assert await refused(verify(auth, verifies)) == "INVALID_LINK"
    assert await refused(reset(auth, resets)) == "INVALID_LINK"


async def test_a_link_for_a_password_is_void_once_there_is_another(auth: Auth) -> None:
    ada = await auth.register()
    token = await reset_token(auth)

    await set_account(auth, ada, password_hash="another")

    assert await refused(reset(auth, token)) == "INVALID_LINK"


async def test_a_new_password_lets_in_and_ends_every_session(auth: Auth) -> None:
    ada = await auth.register()
    signed_in = [await auth.login(), await auth.login(address="198.51.100.7")]
    token = await reset_token(auth)

    await reset(auth, token)

    assert await refused(auth.login()) == "INVALID_CREDENTIALS"
    await auth.login(password=NEW_PASSWORD)
    assert len(await auth.published(SessionRevoked)) == len(signed_in)
    assert await is_verified(auth, ada)
    assert await refused(reset(auth, token)) == "INVALID_LINK"


@pytest.mark.parametrize("verified", [True, False])
async def test_keys_outlive_a_new_password_only_of_an_owner_who_was_known(
    auth: Auth, *, verified: bool
) -> None:
    """An account of an e-mail that nobody has verified may be somebody else's until now."""
    ada = await auth.register()
    made = await auth.key(ada)
    await set_account(auth, ada, email_verified=verified)

    await reset(auth, await reset_token(auth))

    if verified:
        assert (await auth.introspect(api_key=made.key)).caller.account_id == ada.account_id
    else:
        assert await refused(auth.introspect(api_key=made.key)) == "CREDENTIAL_NOT_FOUND"
        assert [event.api_key_id for event in await auth.published(ApiKeyRevoked)] == [made.id]


async def test_who_has_tried_too_often_begins_anew_with_his_new_password(auth: Auth) -> None:
    await auth.register()
    for _ in range(10):
        assert await refused(auth.login(password="not this one")) == "INVALID_CREDENTIALS"
    assert await refused(auth.login()) == "TOO_MANY_ATTEMPTS"

    await reset(auth, await reset_token(auth))

    await auth.login(password=NEW_PASSWORD)


async def test_of_two_links_for_one_password_used_at_the_same_time_one_sets_it(auth: Auth) -> None:
    await auth.register()
    tokens = [await reset_token(auth), await reset_token(auth)]

    answers = await asyncio.gather(
        *(reset(auth, token, f"{NEW_PASSWORD} {token[-4:]}") for token in tokens),
        return_exceptions=True,
    )

    assert reasons(answers) == ["INVALID_LINK"]


async def test_an_email_that_nobody_has_is_answered_the_same_and_gets_no_mail(auth: Auth) -> None:
    await auth.register()

    for _ in range(3):
        await ask_to_reset(auth, "Nobody@example.com")
        await ask_to_reset(auth, "Ada@example.com")
    known = await refused(ask_to_reset(auth, "ada@example.com"))
    unknown = await refused(ask_to_reset(auth, "nobody@example.com"))

    assert known == unknown == "TOO_MANY_MAILS"
    assert {mail["To"] for mail in await auth.mails()} == {"ada@example.com"}


async def test_what_is_kept_of_a_request_says_nothing_of_whether_there_is_an_account(
    auth: Auth,
) -> None:
    await auth.register()
    await ask_to_reset(auth, "nobody@example.com")
    await ask_to_reset(auth, "ada@example.com")

    async with auth.db.begin() as tx:
        nobody, ada = (await tx.scalars(select(Mail).order_by(Mail.id))).all()

    same = ("purpose", "subject_id", "asked_by", "link_id", "due_at", "tries")
    assert [getattr(nobody, name) for name in same] == [getattr(ada, name) for name in same]


async def test_who_is_shut_out_gets_no_link(auth: Auth) -> None:
    ada = await auth.register()
    await set_account(auth, ada, status=accounts_pb.ACCOUNT_STATUS_SUSPENDED)

    await ask_to_reset(auth)

    assert await auth.mails() == []


async def test_neither_token_nor_password_is_in_the_database_or_an_event(auth: Auth) -> None:
    ada = await auth.register()
    token = await reset_token(auth)
    kept = await everything(auth)
    await reset(auth, token)

    for secret in (token, token[-43:], PASSWORD, NEW_PASSWORD):
        assert secret not in kept + await everything(auth)
    told = [row for row in await auth.published(Audited) if isinstance(row, Audited)]
    assert (told[-1].action, told[-1].actor_account_id) == ("user.password", ada.account_id)


async def test_a_signed_in_user_only_asks_for_himself(auth: Auth) -> None:
    request = pb.RequestEmailVerificationRequest()

    assert await refused(auth.links().RequestEmailVerification(request)) == "CREDENTIAL_REQUIRED"


@pytest.mark.parametrize("password", ["short", "p" * 129])
async def test_a_password_that_is_none_leaves_the_link_as_it_is(auth: Auth, password: str) -> None:
    await auth.register()
    token = await reset_token(auth)

    assert await refused(reset(auth, token, password)) == "INVALID_REQUEST"

    await reset(auth, token)


async def test_what_has_expired_is_deleted(auth: Auth) -> None:
    ada = await auth.register()
    await verification(auth, ada)
    auth.clock.advance(LIFETIMES[Purpose.VERIFY_EMAIL] + timedelta(hours=1))

    await auth.upkeep.forget_old()

    async with auth.db.begin() as tx:
        for table in (Link, Mail):
            assert await tx.scalar(select(func.count()).select_from(table)) == 0


async def everything(auth: Auth) -> str:
    """All rows of all tables, as text."""
    async with auth.db.begin() as tx:
        tables = await tx.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        )
        found = []
        for table in tables.all():
            found += (await tx.scalars(text(f'SELECT t::text FROM "{table}" t'))).all()
    return "\n".join(found)
