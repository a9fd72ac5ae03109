"""Rotation: refresh tokens that are traded for their successors, and copies that are found out."""

import asyncio
import random
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_SUSPENDED
from vlinders.auth.v1.events_pb2 import Audited, SessionRevoked
from vlinders_auth.models import Account, RefreshToken
from vlinders_auth.sessions import RETRIES_FOR

from .conftest import Auth, failed, session_of


async def rotate(auth: Auth, token: str) -> pb.SignIn:
    return await auth.sessions().RotateSession(pb.RotateSessionRequest(refresh_token=token))


async def refresh(auth: Auth, token: str) -> pb.RefreshSessionResponse:
    return await auth.sessions().RefreshSession(pb.RefreshSessionRequest(refresh_token=token))


async def refused(auth: Auth, token: str) -> str:
    return (await failed(rotate(auth, token))).reason


async def test_a_token_is_traded_for_its_successor_of_the_same_session(auth: Auth) -> None:
    ada = await auth.register()
    opened = await auth.login(dialect="maas")

    renewed = await rotate(auth, opened.refresh_token)

    assert renewed.refresh_token not in ("", opened.refresh_token)
    assert session_of(renewed.access_token) == session_of(opened.access_token)
    assert (renewed.token_type, renewed.expires_in) == ("bearer", 3600)
    assert renewed.account.id == ada.account_id


async def test_fifty_who_show_a_token_at_the_same_time_get_one_successor(auth: Auth) -> None:
    await auth.register()

    families = 3
    for _ in range(families):  # from the second on, the pool has its connections at hand
        token = (await auth.login(dialect="massrouter")).refresh_token
        answers = await asyncio.gather(*(rotate(auth, token) for _ in range(50)))
        assert len({answer.refresh_token for answer in answers}) == 1

    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(RefreshToken)) == 2 * families


async def test_who_lost_the_answer_gets_the_same_successor_for_ten_seconds(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login(dialect="maas")
    successor = (await rotate(auth, opened.refresh_token)).refresh_token

    auth.clock.advance(9)
    assert (await rotate(auth, opened.refresh_token)).refresh_token == successor
    auth.clock.advance(1)
    assert await refused(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"


@pytest.mark.parametrize("used", [True, False], ids=["successor used", "too late"])
async def test_a_copy_that_is_shown_ends_the_session_and_tells(auth: Auth, used: bool) -> None:
    ada = await auth.register()
    opened = await auth.login(dialect="maas")
    newest = (await rotate(auth, opened.refresh_token)).refresh_token
    if used:
        newest = (await rotate(auth, newest)).refresh_token
    else:
        auth.clock.advance(RETRIES_FOR)

    assert await refused(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"

    assert await refused(auth, newest) == "INVALID_REFRESH_TOKEN"
    session_id = session_of(opened.access_token)
    assert (await failed(auth.introspect(session_id=session_id))).reason == "CREDENTIAL_NOT_FOUND"
    assert await auth.published(SessionRevoked) == [
        SessionRevoked(session_id=session_id, account_id=ada.account_id)
    ]
    audited = (await auth.published(Audited))[-1]
    assert isinstance(audited, Audited)
    assert (audited.action, audited.resource_id) == ("session.reuse", session_id)


async def test_other_sessions_of_the_account_outlive_a_copy(auth: Auth) -> None:
    await auth.register()
    other = await auth.login(dialect="maas")
    opened = await auth.login(dialect="maas")
    await rotate(auth, (await rotate(auth, opened.refresh_token)).refresh_token)

    assert await refused(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"

    await rotate(auth, other.refresh_token)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_order_tokens_come_in_the_family_has_one_newest(
    auth: Auth, seed: int
) -> None:
    """Against a model: which tokens there are, when each was traded, whether the session lives."""
    chance = random.Random(seed)
    await auth.register()
    for _ in range(8):
        opened = await auth.login(dialect="maas")
        tokens, traded, alive = [opened.refresh_token], [], True
        for _ in range(12):
            auth.clock.advance(chance.choice([0, 1, 4, 11]))
            now = auth.clock.now()
            shown = max(0, len(tokens) - 1 - chance.choice([0, 0, 0, 0, 1, 1, 2]))
            newest = shown == len(tokens) - 1
            lost = shown == len(tokens) - 2 and now - traded[shown] < RETRIES_FOR
            alive = alive and (newest or lost)
            if not alive:
                assert await refused(auth, tokens[shown]) == "INVALID_REFRESH_TOKEN"
                continue
            answer = (await rotate(auth, tokens[shown])).refresh_token
            if newest:
                assert answer not in tokens
                tokens.append(answer)
                traded.append(now)
            assert answer == tokens[-1]


async def test_a_token_is_good_for_the_way_of_its_own_dialect_alone(auth: Auth) -> None:
    await auth.register()
    stays = (await auth.login(dialect="vlinders")).refresh_token
    rotates = (await auth.login(dialect="maas")).refresh_token

    assert await refused(auth, stays) == "INVALID_REFRESH_TOKEN"
    assert (await failed(refresh(auth, rotates))).reason == "INVALID_REFRESH_TOKEN"
    await refresh(auth, stays)
    await rotate(auth, rotates)


async def test_neither_an_access_token_nor_an_expired_session_is_traded(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login(dialect="maas")

    assert await refused(auth, opened.access_token) == "INVALID_REFRESH_TOKEN"
    auth.clock.advance(timedelta(days=30))
    assert await refused(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"


async def test_a_disabled_account_trades_nothing_and_loses_nothing(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login(dialect="maas")
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=ACCOUNT_STATUS_SUSPENDED))

    assert await refused(auth, opened.refresh_token) == "ACCOUNT_DISABLED"

    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=1))
    await rotate(auth, opened.refresh_token)


async def test_a_successor_is_kept_sealed_and_no_longer_than_it_is_given(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login(dialect="maas")
    successor = (await rotate(auth, opened.refresh_token)).refresh_token

    async def kept() -> list[bytes]:
        async with auth.db.begin() as tx:
            return [
                each for each in await tx.scalars(select(RefreshToken.sealed_successor)) if each
            ]

    [sealed] = await kept()
    assert successor.encode() not in sealed
    auth.clock.advance(RETRIES_FOR - timedelta(seconds=1))
    await auth.upkeep.forget_old()
    assert await kept() == [sealed]
    auth.clock.advance(1)
    await auth.upkeep.forget_old()
    assert await kept() == []
    assert await refused(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"
