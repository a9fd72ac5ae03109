"""`make up` and `make down`, as a stranger uses them."""

import json
import os
import shlex
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from vlinders_embedded.parts import PARTS
from vlinders_embedded.running import DidNotComeUp, RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port

pytestmark = [pytest.mark.xdist_group("door"), pytest.mark.timeout(300)]

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack of this file's own, which its tests may hurt."""
    var = tmp_path_factory.mktemp("door") / "var"
    yield bring_up(var, port=free_port())
    take_down(var)


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stack that a test brings up itself, or fails to."""
    yield tmp_path / "var"
    take_down(tmp_path / "var")


def call(stack: RunningStack) -> httpx.Response:
    """What the printed curl line sends."""
    line = stack.printed[stack.printed.index("curl ") :].partition("\n\n")[0]
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:2] == ["curl", "-N"]
    url, *options = words[2:]
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in given if name == "-H")
    (body,) = (value for name, value in given if name == "-d")
    return httpx.post(url, content=body, headers=headers, timeout=60)


def ask(stack: RunningStack, path: str) -> Any:
    credential = {"Authorization": f"Bearer {stack.api_key}"}
    answer = httpx.get(f"{stack.url}{path}", headers=credential, timeout=30)
    answer.raise_for_status()
    return answer.json()


def everything_of(var: Path) -> list[int]:
    """Pids of all processes that belong to the stack in `var`."""
    mark = f"VLINDERS_STACK={var}"
    return [
        pid
        for pid in psutil.pids()
        if str(var) in told(pid, "cmdline") or mark in told(pid, "environ").split("\0")
    ]


def told(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:  # gone, or somebody else's
        return ""


def wait_until_gone(pids: list[int]) -> None:
    for pid in pids:
        try:
            psutil.Process(pid).wait(60)
        except psutil.NoSuchProcess:
            continue


def test_the_printed_line_works_at_once(door: RunningStack) -> None:
    answer = call(door)

    assert answer.status_code == 200, answer.text
    events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas)


def test_access_says_where_everything_is_to_its_owner_alone(door: RunningStack) -> None:
    file = door.var / "access.json"

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert door.access.keys() == {"url", "admin_email", "admin_password", "api_key", "parts"}
    assert door.access["parts"].keys() == {*PARTS, "postgres", "valkey"}
    for processes in door.access["parts"].values():
        for process in processes:
            assert psutil.pid_exists(process.pop("pid"))
            assert process
            for address in process.values():
                host, port = address.rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=5).close()


def test_the_administrator_signs_in_with_the_printed_password(door: RunningStack) -> None:
    access = door.access
    credentials = {"email": access["admin_email"], "password": access["admin_password"]}
    answer = httpx.post(f"{door.url}/v1/auth/login", json=credentials, timeout=30)

    assert answer.status_code == 200, answer.text
    assert access["admin_password"] in door.printed


def test_no_secret_is_in_a_log_or_on_a_command_line(door: RunningStack) -> None:
    kept = json.loads((door.var / "secrets.json").read_text())
    secrets = [*kept.pop("databases").values(), *kept.values()]
    logs = "".join(file.read_text() for file in (door.var / "logs").iterdir())
    commands = "".join(told(pid, "cmdline") for pid in psutil.pids())

    assert not [secret for secret in secrets if secret in logs]
    assert not [secret for secret in secrets if secret in commands]


def test_the_whole_stack_is_small_when_idle(door: RunningStack) -> None:
    pids = everything_of(door.var)
    share = sum(psutil.Process(pid).memory_full_info().pss for pid in pids)

    assert len(pids) >= len(PARTS) + 2
    assert share <= 900 * MEGABYTE


@pytest.mark.parametrize("part", ["gateway", "inference", "worker", "postgres"])
def test_a_part_that_dies_comes_back(door: RunningStack, part: str) -> None:
    [before] = door.pids(part)
    os.kill(before, signal.SIGKILL)

    deadline = time.monotonic() + 60
    while door.pids(part) in ([], [before]) or not works(door):
        assert time.monotonic() < deadline, door.log(f"{part}-1")[-2000:]
        time.sleep(0.1)


def works(stack: RunningStack) -> bool:
    try:
        return call(stack).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_second_up_finds_all_data(var: Path) -> None:
    first = bring_up(var, port=free_port())
    assert call(first).status_code == 200
    before = ask(first, "/v1/wallet/transfers")["data"]
    pids = everything_of(var)

    assert "ended" in take_down(var)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    second = bring_up(var, port=free_port())

    assert second.api_key == first.api_key
    after = ask(second, "/v1/wallet/transfers")["data"]
    assert after[-len(before) :] == before
    assert call(second).status_code == 200


def test_two_stacks_run_side_by_side(door: RunningStack, var: Path) -> None:
    other = bring_up(var, port=free_port(), variables={"REPLICAS": "gateway=2 inference=2"})

    assert call(other).status_code == call(door).status_code == 200
    assert len(other.pids("gateway")) == len(other.pids("inference")) == 2
    stranger = {"Authorization": f"Bearer {door.api_key}"}
    assert httpx.get(f"{other.url}/v1/models", headers=stranger).status_code == 401


def test_the_contracts_have_their_catalogue_and_two_workers(var: Path) -> None:
    up = bring_up(var, port=free_port(), variables={"PROFILE": "contracts"})

    assert call(up).status_code == 200
    assert {"gpt-4", "gpt-3.5-turbo"} <= {model["id"] for model in ask(up, "/v1/models")["data"]}
    assert len(up.pids("worker")) == 2


def test_events_travel_by_kafka_where_there_is_one(var: Path, kafka: str) -> None:
    up = bring_up(var, port=free_port(), variables={"KAFKA": kafka})

    assert call(up).status_code == 200
    deadline = time.monotonic() + 60
    while "usage" not in {row["kind"] for row in ask(up, "/v1/wallet/transfers")["data"]}:
        assert time.monotonic() < deadline, up.log("billing-1")[-2000:]
        time.sleep(0.1)


def test_a_killed_supervisor_takes_all_along_and_the_next_up_recovers(var: Path) -> None:
    port = free_port()
    first = bring_up(var, port=port)
    pids = everything_of(var)
    os.kill(int((var / "supervisor.pid").read_text()), signal.SIGKILL)
    wait_until_gone(pids)

    second = bring_up(var, port=port)

    assert second.api_key == first.api_key
    assert call(second).status_code == 200


def test_a_port_that_is_taken_is_said(var: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(DidNotComeUp, match=r"port \d+ is taken.*PORT="),
    ):
        bring_up(var, port=server.getsockname()[1])

    assert not everything_of(var)


def test_a_part_that_does_not_come_up_is_said_with_its_reason(var: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "broken.yaml"
    catalogue.write_text("models: {sample: {worker_model: sample}}\n")

    with pytest.raises(DidNotComeUp, match=r"(?s)inference-1 ended.*inference-1\.log.*input_price"):
        bring_up(var, port=free_port(), variables={"CATALOGUE": str(catalogue)})

    assert not everything_of(var)


def test_a_folder_in_use_is_said(door: RunningStack) -> None:
    with pytest.raises(DidNotComeUp, match=r"a stack runs in .*make down"):
        bring_up(door.var, port=free_port())

    assert works(door)


def test_down_is_safe_where_nothing_runs(tmp_path: Path) -> None:
    assert "nothing runs" in take_down(tmp_path / "var")
    assert not (tmp_path / "var").exists()
