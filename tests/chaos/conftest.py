"""Chaos: one stack for all files, driven and hurt by one process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from tests.chaos.stack import Chaos, brought_up, models_of, secure_provider
from tests.platform import Platform, User, eventually
from tests.upstreams import Upstream, upstream
from vlinders_kit.testing.certificates import Authority


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("chaos"))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(1_800))


@pytest.fixture(scope="session")
def scripted() -> Iterator[tuple[Upstream, Upstream]]:
    with upstream("planted-key-of-first") as first, upstream("planted-key-of-second") as second:
        yield first, second


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Upstream, Path]]:
    """A provider over TLS, and the file of its authority."""
    authority = Authority()
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    file.write_bytes(authority.certificate)
    with upstream("planted-key-of-secure", authority.part("localhost")) as provider:
        yield provider, file


@pytest.fixture(scope="session")
async def _chaos(
    scripted: tuple[Upstream, Upstream],
    secure: tuple[Upstream, Path],
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> AsyncIterator[Chaos]:
    folder = tmp_path_factory.mktemp("chaos")
    providers = [
        {
            "name": name,
            "base_url": provider.base_url,
            "api_key": provider.api_key,
            "priority": int(second),
            "models": models_of(second=second),
        }
        for provider, name, second in zip(scripted, ("first", "second"), (False, True), strict=True)
    ]
    providers.append(secure_provider(secure[0]))
    with ExitStack() as stack:

        def start() -> Chaos:
            cache = pytestconfig.rootpath / ".cache" / "kafka"
            up, around = stack.enter_context(brought_up(folder, cache, providers, secure[1]))
            return Chaos(Platform(up, http, *scripted), folder, around, secure[0])

        async with httpx.AsyncClient(timeout=60) as http:
            try:
                chaos = await anyio.to_thread.run_sync(start)
                http.base_url = httpx.URL(chaos.stack.url)
                yield chaos
            finally:
                await anyio.to_thread.run_sync(stack.close)


@pytest.fixture
async def chaos(_chaos: Chaos) -> AsyncIterator[Chaos]:
    """The stack, whole; a test that leaves it broken fails."""

    async def whole() -> Any:
        return await _chaos.serves()

    await eventually(whole, 60)
    yield _chaos
    await eventually(whole, 60)


@pytest.fixture
async def user(chaos: Chaos) -> User:
    return await chaos.platform.sign_up()
