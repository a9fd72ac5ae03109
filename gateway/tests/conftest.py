"""A running gateway, and the script of the services behind it."""

from collections.abc import AsyncIterator

import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.billing.v1.ledger_pb2 import GetWalletsResponse
from vlinders.inference.v1.models_pb2 import ListModelsResponse
from vlinders_gateway.testing import Running, Script, gateway


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def running(script: Script, valkey: str) -> AsyncIterator[Running]:
    async with gateway(script, valkey) as made:
        yield made


@pytest.fixture
def key(running: Running) -> str:
    """A user's key; his account and the models can be asked for."""
    running.script.answers["GetMyAccount"] = Account(id="user_1", email="a@example.com")
    running.script.answers["GetWallets"] = GetWalletsResponse()
    running.script.answers["ListModels"] = ListModelsResponse(object="list")
    return running.script.user_key()
