"""The fleet as the scheduler's rows have it, for tests that take workers away."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.stack import Chaos
from tests.platform import eventually


@dataclass(frozen=True)
class Standing:
    """What a worker's last registration came to."""

    state: str
    epoch: int


async def standings(chaos: Chaos) -> Mapping[str, Standing]:
    """By the addresses of workers."""
    rows = await chaos.platform.sql(
        "gpu_scheduler", "SELECT address, state, epoch FROM registration"
    )
    return {row.address: Standing(row.state, row.epoch) for row in rows}


async def becomes(chaos: Chaos, address: str, state: str, *, seconds: float = 60) -> Standing:
    """The worker's standing once it is `state`. Raises TimeoutError."""

    async def look() -> Standing | None:
        found = (await standings(chaos)).get(address)
        return found if found is not None and found.state == state else None

    return await eventually(look, seconds)


async def outstanding(chaos: Chaos) -> Mapping[str, int]:
    """Requests that the scheduler holds to run, by the addresses of workers."""
    workers = await chaos.platform.as_operator("/v1/operator/workers?limit=100")
    return {row["address"]: row["running_requests"] for row in workers}


def address_of(chaos: Chaos, number: int) -> str:
    """The address of the stack's worker `number`, from 0."""
    return f"http://{chaos.stack.access['parts']['worker'][number]['http']}"
