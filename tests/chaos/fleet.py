"""The fleet as the scheduler has it, and workers of tests' own, to be taken away."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.chaos.beside import one_more
from tests.chaos.faults import Line, line
from tests.chaos.stack import Chaos
from tests.platform import eventually
from vlinders_kit.embedded.programs import free_port


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


@dataclass(frozen=True)
class Far:
    """A worker whose lines can be held."""

    pid: int
    port: int
    beats: Line
    """From it to the scheduler."""
    requests: Line
    """From inference to it."""

    @property
    def address(self) -> str:
        return f"http://{self.requests.address}"

    @contextmanager
    def parted(self, how: str) -> Iterator[None]:
        """For the block, nothing passes to it, from it, or either."""
        with ExitStack() as holding:
            if how != "hears nothing":
                holding.enter_context(self.beats.held("there"))
                holding.enter_context(self.requests.held("back"))
            if how != "not heard":
                holding.enter_context(self.beats.held("back"))
                holding.enter_context(self.requests.held("there"))
            yield


@contextmanager
def a_worker(chaos: Chaos, number: int) -> Iterator[Far]:
    """Another worker, whose lines can be held; not ONLINE yet."""
    port, label = free_port(), f"worker-far-{number}"
    host, _, scheduler = chaos.stack.access["parts"]["gpu-scheduler"][0]["grpc"].partition(":")

    with line(host, int(scheduler)) as beats, line("127.0.0.1", port) as requests:
        told = {
            "port": port,
            "metrics_port": 0,
            "state_dir": chaos.folder / label,
            "scheduler": beats.address,
            "address": f"http://{requests.address}",
        }
        with one_more(chaos, "worker", label, **told) as pid:
            yield Far(pid, port, beats, requests)
