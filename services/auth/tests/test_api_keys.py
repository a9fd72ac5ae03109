"""API keys: shown once, listed without the secret, worth what their maker is, void when revoked."""

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select, text, update

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import api_keys_pb2 as pb
from vlinders.auth.v1.events_pb2 import ApiKeyRevoked
from vlinders.auth.v1.identity_pb2 import ReportKeyUseRequest
from vlinders_auth.models import Account, ApiKey
from vlinders_kit import api_keys
from vlinders_kit.errors import failure_of

from .conftest import KEYS_PER_ACCOUNT, NOW, Auth, failed


async def listed(auth: Auth, caller: Caller, **request: Any) -> pb.ListApiKeysResponse:
    return await auth.keys(caller).ListApiKeys(pb.ListApiKeysRequest(**request))


async def revoke(auth: Auth, caller: Caller, key_id: str) -> pb.RevokeApiKeyResponse:
    return await auth.keys(caller).RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id))


async def test_the_secret_is_shown_once_and_kept_nowhere(auth: Auth) -> None:
    ada = await auth.register()

    made = await auth.key(ada, permissions=["usage:read", "inference:read"])

    assert api_keys.is_well_formed(made.key)
    assert made.key_prefix == made.key[:21]
    assert not made.HasField("expires_at")
    key = (await listed(auth, ada)).api_keys[0]
    assert key == pb.ApiKey(
        id=made.id,
        name="laptop",
        key_prefix=made.key_prefix,
        permissions=["usage:read", "inference:read"],
        created_at=NOW,
    )
    async with auth.db.begin() as tx:
        rows = await tx.scalars(text("SELECT to_jsonb(k)::text FROM api_key k"))
        assert made.key[21:] not in "".join(rows)


async def test_keys_made_at_the_same_time_do_not_pass_the_limit(auth: Auth) -> None:
    ada = await auth.register()

    answers = await asyncio.gather(
        *(auth.key(ada) for _ in range(KEYS_PER_ACCOUNT + 4)), return_exceptions=True
    )

    errors = [failure_of(e) for e in answers if isinstance(e, grpc.aio.AioRpcError)]
    assert [(e.reason, e.facts) for e in errors] == [
        ("KEY_LIMIT_REACHED", {"limit": str(KEYS_PER_ACCOUNT)})
    ] * 4


async def test_keys_that_do_not_work_any_more_do_not_count(auth: Auth) -> None:
    ada = await auth.register()
    soon = NOW + timedelta(minutes=1)
    made = [await auth.key(ada, expires_at=soon) for _ in range(KEYS_PER_ACCOUNT)]
    await revoke(auth, ada, made[0].id)
    await auth.key(ada)

    auth.clock.advance(timedelta(minutes=1))

    for _ in range(KEYS_PER_ACCOUNT - 1):
        await auth.key(ada)


@pytest.mark.parametrize(
    ("over", "reason", "field"),
    [
        ({"expires_at": NOW}, "EXPIRY_IN_THE_PAST", "expires_at"),
        ({"expires_at": Timestamp(seconds=-1)}, "INVALID_REQUEST", "expires_at"),
        ({"expires_at": Timestamp(seconds=2**62)}, "INVALID_REQUEST", "expires_at"),
        ({"permissions": []}, "INVALID_REQUEST", "permissions"),
        ({"permissions": ["*"]}, "INVALID_REQUEST", "permissions[0]"),
        ({"permissions": ["usage:read"] * 2}, "INVALID_REQUEST", "permissions"),
        ({"name": "n" * 101}, "INVALID_REQUEST", "name"),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    auth: Auth, over: dict[str, Any], reason: str, field: str
) -> None:
    ada = await auth.register()

    failure = await failed(auth.key(ada, **over))

    assert (failure.status, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in failure.violations] == [field]


async def test_a_key_never_exceeds_its_maker(auth: Auth) -> None:
    ada = await auth.register()
    made = await auth.key(ada, permissions=["inference:write", "inference:read"])
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(roles=[api.ROLE_VIEWER]))

    failure = await failed(auth.key(ada, permissions=["inference:write"]))
    assert (failure.reason, failure.facts) == (
        "PERMISSION_NOT_HELD",
        {"permission": "inference:write"},
    )
    await auth.key(ada, permissions=["inference:read", "usage:read"])
    assert (await auth.introspect(api_key=made.key)).caller.scopes == ["inference:read"]


async def test_a_key_is_revoked_once_and_everybody_is_told(auth: Auth) -> None:
    ada = await auth.register()
    made = await auth.key(ada)
    auth.clock.advance(60)

    answer = await revoke(auth, ada, made.id)

    assert answer == pb.RevokeApiKeyResponse(id=made.id, revoked_at=auth.clock.now())
    assert await auth.published(ApiKeyRevoked) == [
        ApiKeyRevoked(api_key_id=made.id, account_id=ada.account_id)
    ]
    assert (await failed(revoke(auth, ada, made.id))).reason == "API_KEY_NOT_FOUND"
    assert (await failed(auth.introspect(api_key=made.key))).reason == "CREDENTIAL_NOT_FOUND"
    assert not (await listed(auth, ada)).api_keys


async def test_anothers_key_is_a_key_that_does_not_exist(auth: Auth) -> None:
    ada, eve = await auth.register(), await auth.register("eve@example.com")
    made = await auth.key(ada)

    missing = await failed(revoke(auth, eve, "key_0"))
    foreign = await failed(revoke(auth, eve, made.id))

    assert missing == foreign
    assert not (await listed(auth, eve)).api_keys
    assert (await auth.introspect(api_key=made.key)).caller.account_id == ada.account_id


async def test_keys_are_listed_in_pages_newest_first(auth: Auth) -> None:
    ada = await auth.register()
    made = [(await auth.key(ada, name=f"key {n}")).id for n in range(5)]

    first = await listed(auth, ada, page={"size": 3, "with_total": True})
    second = await listed(auth, ada, page={"size": 3, "token": first.page.next_token})
    skipped = await listed(auth, ada, page={"size": 2, "skip": 2})

    assert [key.id for key in first.api_keys] == made[:1:-1]
    assert [key.id for key in second.api_keys] == made[1::-1]
    assert (first.page.total, second.page.next_token) == (5, "")
    assert [key.id for key in skipped.api_keys] == made[2:0:-1]


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["a", "b", "c"]),
        ("-name", ["c", "b", "a"]),
        ("created_at", ["b", "c", "a"]),
        ("-created_at", ["a", "c", "b"]),
        ("last_used_at", ["b", "a", "c"]),
        ("-last_used_at", ["c", "a", "b"]),
    ],
)
async def test_keys_are_sorted_as_asked_page_by_page(
    auth: Auth, sort: str, names: list[str]
) -> None:
    ada = await auth.register()
    ids = {}
    for name in ("b", "c", "a"):
        auth.clock.advance(1)
        ids[name] = (await auth.key(ada, name=name)).id
    auth.clock.advance(60)
    await used(auth, {ids["a"]: 61, ids["c"]: 62})

    found, token = [], ""
    for _ in names:
        page = await listed(auth, ada, page={"size": 1, "sort": sort, "token": token})
        found += [key.name for key in page.api_keys]
        token = page.page.next_token

    assert (found, token) == (names, "")


async def test_a_name_filters_exactly(auth: Auth) -> None:
    ada = await auth.register()
    for name in ("lap", "laptop", "Lap", "l%p"):
        await auth.key(ada, name=name)

    for name in ("lap", "l%p", "nothing"):
        found = (await listed(auth, ada, name=name, page={"with_total": True})).api_keys
        assert [key.name for key in found] == [name] * (name != "nothing")


TEXT_WITH_NUL = base64.urlsafe_b64encode(json.dumps(["name", "a\0", "key_0"]).encode()).decode()


@pytest.mark.parametrize(
    "page",
    [
        {"sort": "sha256"},
        {"size": 101},
        {"size": -1},
        {"skip": -1},
        {"token": "x"},
        {"sort": "name", "token": TEXT_WITH_NUL},
    ],
)
async def test_a_page_that_cannot_be_is_refused(auth: Auth, page: dict[str, Any]) -> None:
    ada = await auth.register()

    assert (await failed(listed(auth, ada, page=page))).reason == "INVALID_REQUEST"


async def used(auth: Auth, uses: dict[str, int]) -> None:
    """Reports the use of keys, at so many seconds after NOW."""
    request = ReportKeyUseRequest()
    for key_id, seconds in uses.items():
        request.uses.add(api_key_id=key_id, last_used_at=NOW + timedelta(seconds=seconds))
    await auth.identity().ReportKeyUse(request)


async def test_the_last_use_never_goes_back_nor_into_the_future(auth: Auth) -> None:
    ada = await auth.register()
    made = await auth.key(ada)
    auth.clock.advance(100)

    async def last_use() -> float:
        at = (await listed(auth, ada)).api_keys[0].last_used_at
        return at.ToSeconds() - NOW.timestamp()

    for told, kept in ((10, 10), (30, 30), (20, 30), (500, 100)):
        await used(auth, {made.id: told})
        assert await last_use() == kept


async def test_gateways_report_the_same_keys_at_the_same_time(auth: Auth) -> None:
    ada = await auth.register()
    ids = [(await auth.key(ada, name=str(n))).id for n in range(5)]
    auth.clock.advance(100)

    reports = [dict.fromkeys(ids[:: 1 if n % 2 else -1], n) for n in range(20)]
    await asyncio.gather(*(used(auth, report) for report in reports))
    await used(auth, {})
    await used(auth, {"key_that_is_none": 1})

    async with auth.db.begin() as tx:
        kept = set(await tx.scalars(select(ApiKey.last_used_at)))
    assert kept == {NOW + timedelta(seconds=19)}
