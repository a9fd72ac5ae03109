"""The service as a process: it starts, sells what is configured, and ends in order."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vlinders.billing.v1 import prices_pb2 as prices
from vlinders.billing.v1.credit_pb2_grpc import (
    CreditServiceServicer,
    add_CreditServiceServicer_to_server,
)
from vlinders.billing.v1.prices_pb2_grpc import (
    PriceServiceServicer,
    add_PriceServiceServicer_to_server,
)
from vlinders.inference.v1.models_pb2 import ListModelsRequest
from vlinders.inference.v1.models_pb2_grpc import ModelServiceStub
from vlinders_kit.callers import CallerKey
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.rpc import connect
from vlinders_kit.testing import a_user, scripted, served
from vlinders_kit.testing.callers import Impersonation

SECRET = "ab" * 32
START_SECONDS = 100
"""For a process to start on a busy machine: it takes some seconds of processor time."""

MOCK = """
providers:
  - name: mock
    base_url: http://127.0.0.1:9/v1
    api_key: sk-canary
    models:
      gpt-x: {input_price: "0.000001", output_price: "0.000002"}
"""


def environment(folder: Path, database_url: str, billing: str) -> dict[str, str]:
    (folder / "providers.yaml").write_text(MOCK)
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"current": "a", "keys": {"a": SECRET}}))
    keys.chmod(0o600)
    return {
        "PORT": str(free_port()),
        "PIPE_PORT": str(free_port()),
        "CALLER_KEY": SECRET,
        "DATABASE_URL": database_url,
        "BUS": "memory:",
        "BILLING": billing,
        "GPU_SCHEDULER": "127.0.0.1:9",
        "PROVIDERS": str(folder / "providers.yaml"),
        "SEALING_KEY_FILE": str(keys),
    }


@asynccontextmanager
async def started(variables: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vlinders_inference.main",
        env=os.environ | {f"VLINDERS_INFERENCE_{name}": row for name, row in variables.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.anyio
async def test_it_starts_serves_and_ends_in_order(tmp_path: Path, database_url: str) -> None:
    pricing: Any = scripted(
        PriceServiceServicer,
        PutPrices=prices.PutPricesResponse(),
        ListPrices=prices.ListPricesResponse(prices=[prices.Price(model="gpt-x", version="v")]),
    )
    credit: Any = scripted(CreditServiceServicer)
    key = CallerKey(bytes.fromhex(SECRET))
    async with served(
        "vlinders.billing",
        ("vlinders.billing.v1.PriceService", add_PriceServiceServicer_to_server, pricing),
        ("vlinders.billing.v1.CreditService", add_CreditServiceServicer_to_server, credit),
        key=key,
    ) as billing:
        variables = environment(tmp_path, database_url, billing.address)
        async with started(variables) as process:
            target = f"127.0.0.1:{variables['PORT']}"
            channel = connect(target, "vlinders.inference", Impersonation(a_user(), key))
            stub: Any = ModelServiceStub(channel)
            listed = await stub.ListModels(
                ListModelsRequest(), wait_for_ready=True, timeout=START_SECONDS
            )
            await channel.close()
            process.terminate()
            _, log = await asyncio.wait_for(process.communicate(), START_SECONDS)

    assert [model.id for model in listed.data] == ["gpt-x"]
    assert [price.input_nanos for price in pricing.asked["PutPrices"][0].prices] == [1000]
    assert process.returncode == 0, log.decode()
    assert b"canary" not in log


@pytest.mark.anyio
async def test_a_wrong_catalogue_ends_the_start_with_what_to_do(
    tmp_path: Path, database_url: str
) -> None:
    variables = environment(tmp_path, database_url, "127.0.0.1:9")
    (tmp_path / "providers.yaml").write_text(MOCK.replace("input_price", "input_prize"))
    async with started(variables) as process:
        _, log = await asyncio.wait_for(process.communicate(), START_SECONDS)

    assert process.returncode == 2
    assert b"providers[0].models.gpt-x.input_prize: is not known here" in log
    assert b"canary" not in log
