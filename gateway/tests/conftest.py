"""A running gateway, and the script of the services behind it."""

from collections.abc import AsyncIterator

import pytest

from vlinders_gateway.testing import Running, Script, gateway


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def running(script: Script, valkey: str) -> AsyncIterator[Running]:
    async with gateway(script, valkey) as made:
        yield made
