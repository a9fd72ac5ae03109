"""Signing keys: one after the other, each published before it signs and after."""

import asyncio
from datetime import datetime, timedelta

from joserfc import jwk, jwt
from sqlalchemy import select

from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders_auth.dialects import LONGEST_ACCESS
from vlinders_auth.models import SigningKey
from vlinders_auth.signing_keys import PUBLISHED_BEFORE
from vlinders_auth.upkeep import Upkeep
from vlinders_kit.clock import ManualClock
from vlinders_kit.db import Database

from .conftest import DAYS_30, NOW, SEALER, Auth

HOUR = timedelta(hours=1)


def upkeep(db: Database, clock: ManualClock) -> Upkeep:
    return Upkeep(db, SEALER, signing_key_lifetime=DAYS_30, clock=clock)


async def turns(db: Database) -> list[datetime]:
    async with db.begin() as tx:
        found = await tx.scalars(select(SigningKey.signs_from).order_by(SigningKey.signs_from))
        return list(found)


def published(process: Upkeep) -> list[str]:
    return [key["kid"] for key in process.ring.published()]


async def test_replicas_that_start_together_have_one_key(db: Database) -> None:
    clock = ManualClock(NOW)
    replicas = [upkeep(db, clock) for _ in range(4)]

    await asyncio.gather(*(replica.turn_keys() for replica in replicas))

    assert await turns(db) == [NOW]
    assert len({tuple(published(replica)) for replica in replicas}) == 1


async def test_a_key_is_published_before_it_signs(db: Database) -> None:
    clock = ManualClock(NOW)
    replicas = [upkeep(db, clock) for _ in range(3)]
    await asyncio.gather(*(replica.turn_keys() for replica in replicas))
    first = replicas[0].ring.signer(clock.now())

    clock.advance(DAYS_30 - PUBLISHED_BEFORE)
    await asyncio.gather(*(replica.turn_keys() for replica in replicas))

    assert await turns(db) == [NOW, NOW + DAYS_30]
    assert len(published(replicas[1])) == 2
    assert replicas[1].ring.signer(clock.now()).kid == first.kid
    clock.advance(PUBLISHED_BEFORE)
    assert replicas[1].ring.signer(clock.now()).kid == published(replicas[1])[1]


async def test_a_key_stays_until_the_last_token_of_its_has_expired(db: Database) -> None:
    clock = ManualClock(NOW)
    process = upkeep(db, clock)
    await process.turn_keys()
    clock.advance(DAYS_30 - PUBLISHED_BEFORE)
    await process.turn_keys()

    clock.advance(PUBLISHED_BEFORE + LONGEST_ACCESS + timedelta(minutes=4))
    await process.turn_keys()
    assert len(published(process)) == 2
    clock.advance(timedelta(minutes=1))
    await process.turn_keys()
    assert await turns(db) == [NOW + DAYS_30]


async def test_after_a_long_standstill_the_old_key_signs_until_the_new_one_is_known(
    db: Database,
) -> None:
    clock = ManualClock(NOW)
    process = upkeep(db, clock)
    await process.turn_keys()
    old = process.ring.signer(clock.now()).kid

    clock.advance(timedelta(days=365))
    await process.turn_keys()

    assert process.ring.signer(clock.now()).kid == old
    assert (await turns(db))[1] == clock.now() + PUBLISHED_BEFORE


async def test_a_clock_that_is_behind_still_finds_a_key(db: Database) -> None:
    ahead, behind = ManualClock(NOW), ManualClock(NOW - timedelta(seconds=2))
    await upkeep(db, ahead).turn_keys()
    process = upkeep(db, behind)
    await process.turn_keys()

    assert process.ring.signer(behind.now()).kid == published(process)[0]


async def test_private_halves_are_sealed_for_their_key(db: Database) -> None:
    process = upkeep(db, ManualClock(NOW))
    await process.turn_keys()

    async with db.begin() as tx:
        row = (await tx.scalars(select(SigningKey))).one()
    der = process.ring.signer(NOW).as_der(private=True)
    assert der not in row.sealed_private_key
    assert not {"d", "p", "q", "dp", "dq", "qi"} & row.public_key.keys()
    assert SEALER.open(row.sealed_private_key, f"signing-key:{row.kid}") == der


async def test_no_valid_token_is_refused_while_keys_change(auth: Auth) -> None:
    """A token verifies with what is published as long as it is good, however keys change."""
    await auth.register()
    held: list[tuple[datetime, str]] = []
    opened = await auth.login()
    end = auth.clock.now() + DAYS_30 - HOUR
    while auth.clock.now() < end + 3 * HOUR:
        if not held:
            auth.clock.advance(end - HOUR - auth.clock.now())
            opened = await auth.login()
        auth.clock.advance(timedelta(minutes=7))
        await auth.upkeep.turn_keys()
        request = pb.RefreshSessionRequest(refresh_token=opened.refresh_token)
        renewed = await auth.sessions().RefreshSession(request)
        held.append((auth.clock.now(), renewed.access_token))
        keys = jwk.KeySet.import_key_set({"keys": auth.upkeep.ring.published()})
        for issued, token in held:
            if auth.clock.now() - issued < timedelta(minutes=15):
                jwt.decode(token, keys, algorithms=["RS256"])
