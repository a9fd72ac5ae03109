"""Who is shut out is so on every gateway, within a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.platform import Platform, User

SECONDS = 1.0

Act = Callable[[], Awaitable[Any]]


@pytest.fixture
async def user(platform: Platform) -> User:
    return await platform.sign_up()


async def test_a_disabled_account_is_shut_out_with_sessions_and_keys_and_let_in_again(
    platform: Platform, user: User
) -> None:
    key = (await user.key())["key"]
    session = user.tokens["access_token"]

    async def become(status: str) -> None:
        await set_status(platform, user, status)

    await takes_effect(platform, session, "/v1/users/me", (200, 403), lambda: become("suspended"))
    await holds(platform, key, "/v1/models", 403)
    await takes_effect(platform, key, "/v1/models", (403, 200), lambda: become("active"))
    await holds(platform, session, "/v1/users/me", 200)


async def test_a_session_that_was_ended_opens_nothing(platform: Platform, user: User) -> None:
    session = user.tokens["access_token"]

    async def log_out() -> None:
        assert (await user.call("POST", "/v1/auth/logout")).status_code == 200

    await takes_effect(platform, session, "/v1/users/me", (200, 401), log_out)


async def test_who_runs_the_platform_no_more_is_refused_what_he_could(
    platform: Platform, user: User
) -> None:
    session = user.tokens["access_token"]

    async def set_operator(*, operator: bool) -> None:
        path = f"/v1/operator/accounts/{user.account_id}"
        await platform.as_operator(path, "PATCH", json={"operator": operator})

    path = "/v1/operator/accounts?limit=1"
    await takes_effect(platform, session, path, (403, 200), lambda: set_operator(operator=True))
    await takes_effect(platform, session, path, (200, 403), lambda: set_operator(operator=False))


async def set_status(platform: Platform, user: User, status: str) -> None:
    path = f"/v1/operator/accounts/{user.account_id}/status"
    await platform.as_operator(path, "PUT", json={"status": status})


async def takes_effect(
    platform: Platform, credential: str, path: str, statuses: tuple[int, int], act: Act
) -> None:
    """On each gateway the answer there changes as `statuses` say, within a second of the act."""
    before, after = statuses
    async with platform.on_each_gateway() as gateways:
        for gateway in gateways:
            assert await status(gateway, credential, path) == before
        await act()
        until = time.monotonic() + SECONDS
        for gateway in gateways:
            while (told := await status(gateway, credential, path)) != after:
                assert time.monotonic() < until, f"{told} after a second"
                await asyncio.sleep(0.01)


async def holds(platform: Platform, credential: str, path: str, meant: int) -> None:
    async with platform.on_each_gateway() as gateways:
        told = [await status(gateway, credential, path) for gateway in gateways]
    assert told == [meant] * len(told)


async def status(gateway: httpx.AsyncClient, credential: str, path: str) -> int:
    headers = {"Authorization": f"Bearer {credential}"}
    return (await gateway.get(path, headers=headers)).status_code
