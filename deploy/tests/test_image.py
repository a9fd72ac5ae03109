"""The image of a part: what the Dockerfile promises, and that it runs with nothing to write to.

The second half builds images with podman, from VLINDERS_BASE_IMAGE, any image with Python and its
venv module. VLINDERS_BUILD_OPTIONS are options of `podman build` that the machine needs, as mounts
of pip's configuration.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from vlinders_embedded.parts import PARTS
from vlinders_kit.embedded.programs import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
USER = "10001:10001"

BASE_IMAGE = os.environ.get("VLINDERS_BASE_IMAGE")
builds = pytest.mark.skipif(
    shutil.which("podman") is None or BASE_IMAGE is None,
    reason="NO IMAGE IS BUILT: that needs podman, and VLINDERS_BASE_IMAGE",
)


class TestTheDockerfile:
    text = DOCKERFILE.read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]

    def test_begins_from_a_base_of_one_version(self) -> None:
        (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", self.text, re.MULTILINE)
        assert re.search(r":\d+\.\d+\.\d+-", base)
        assert {stage.split()[0] for stage in self.stages} <= {"${BASE_IMAGE}", "packages"}

    def test_takes_no_package_without_its_hash(self) -> None:
        """What comes over the network is checked; what is installed comes from that alone."""
        commands = re.split(r"&&|\n", self.text.replace("\\\n", " "))
        pips = [
            each for each in commands if re.search(r"/pip .*\b(download|wheel|install)\b", each)
        ]
        assert len(pips) == 5
        for command in pips:
            assert "--require-hashes" in command or "--no-index" in command, command

    def test_runs_as_nobody_by_number(self) -> None:
        assert re.findall(r"^USER (\S+)$", self.stages[-1], re.MULTILINE) == [USER]

    def test_hands_signals_to_the_part(self) -> None:
        (entry,) = re.findall(r"^ENTRYPOINT (.+)$", self.text, re.MULTILINE)
        assert json.loads(entry) == ["/opt/vlinders/bin/part"]
        assert "#!/bin/sh\\nexec /opt/vlinders/bin/python" in self.text

    def test_lets_nothing_into_the_build_that_is_not_named(self) -> None:
        rows = (ROOT / ".dockerignore").read_text().splitlines()
        patterns = [row for row in rows if row and not row.startswith("#")]
        assert patterns[0] == "*"
        let_in = {row.removeprefix("!") for row in patterns if row.startswith("!")}
        copied = set(re.findall(r"^COPY ([\w./-]+) ", self.text, re.MULTILINE))
        assert let_in == copied


Build = Callable[[str], str]


@pytest.fixture(scope="session")
def build() -> Iterator[Build]:
    """Builds the image of a part, once, and answers its name."""
    run, built = uuid4().hex[:8], dict[str, str]()

    def once(part: str) -> str:
        if part not in built:
            image = f"localhost/vlinders-test-{run}/{part}"
            extra = ["--build-arg", "EXTRAS=llama"] if part == "worker" else []
            options = shlex.split(os.environ.get("VLINDERS_BUILD_OPTIONS", ""))
            arguments = [f"--build-arg=BASE_IMAGE={BASE_IMAGE}", f"--build-arg=PART={part}", *extra]
            _podman("build", "-q", *options, *arguments, "-f", DOCKERFILE, "-t", image, ROOT)
            built[part] = image
        return built[part]

    yield once
    if built:
        _podman("rmi", "-f", *built.values())


@builds
@pytest.mark.xdist_group("images")
@pytest.mark.timeout(600)
class TestAnImage:
    @pytest.mark.parametrize("part", PARTS)
    def test_has_what_its_part_needs_and_no_compiler(self, build: Build, part: str) -> None:
        package = f"vlinders_{part.replace('-', '_')}"
        look = (
            f"import shutil, {package}.main; "
            "print([tool for tool in ('cc', 'gcc', 'clang', 'pip') if shutil.which(tool)])"
        )
        python = ("--entrypoint", "/opt/vlinders/bin/python")
        assert _podman("run", "--rm", *python, build(part), "-c", look).strip() == "[]"

    def test_serves_with_nothing_to_write_to_and_ends_when_told(self, build: Build) -> None:
        port, inside = free_port(), free_port()
        with _running(build("gateway"), _gateway(port, inside)) as name:
            assert _eventually(f"http://127.0.0.1:{inside}/healthz").text == "alive\n"
            assert "paths" in httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()
            first = _podman("exec", name, "/opt/vlinders/bin/python", "-c", WHO_IS_FIRST).split()
            assert first == ["10001", "/opt/vlinders/bin/python"]
            _podman("stop", "-t", "40", name)
            assert _podman("inspect", name, "--format", "{{.State.ExitCode}}").strip() == "0"


WHO_IS_FIRST = """
import os
print(os.stat("/proc/1").st_uid, open("/proc/1/cmdline").read().split("\\0")[0])
"""


@contextmanager
def _running(image: str, variables: dict[str, object]) -> Iterator[str]:
    """A container of `image`, as Kubernetes would run it: no writable root, no capability."""
    name = f"vlinders-test-{uuid4().hex[:8]}"
    told = [f"--env={variable}={value}" for variable, value in variables.items()]
    kept = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all")
    more = ("--security-opt=no-new-privileges", "--memory=256m", "--network=host")
    _podman("run", "-d", f"--name={name}", *kept, *more, *told, image)
    try:
        yield name
    finally:
        _podman("rm", "-f", "-t", "0", name)


def _gateway(port: int, inside: int) -> dict[str, object]:
    """Settings of a gateway that nobody answers: it lives, and says that it is not ready."""
    targets = ("AUTH", "BILLING", "GPU_SCHEDULER", "INFERENCE", "PIPES")
    told: dict[str, object] = {
        **dict.fromkeys(targets, "127.0.0.1:1"),
        "PORT": port,
        "METRICS_PORT": inside,
        "CALLER_KEY": "0" * 64,
        "REDIS": "redis://127.0.0.1:1/0",
        "BUS": "kafka://127.0.0.1:1",
    }
    return {f"VLINDERS_GATEWAY_{name}": value for name, value in told.items()}


def _podman(*words: object) -> str:
    done = subprocess.run(
        ["podman", *map(str, words)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _eventually(url: str) -> httpx.Response:
    until = time.monotonic() + 30
    while True:
        try:
            return httpx.get(url)
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
