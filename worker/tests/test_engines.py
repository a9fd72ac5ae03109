"""Engines come up, come back, and are never left behind."""

import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml
from aiohttp import web

from vlinders.gpu_scheduler.v1.workers_pb2 import Slot
from vlinders_worker.engines import configuration, log_file, supervised
from vlinders_worker.engines.log_file import LogFile

CHAT = {
    "engine": "llama.cpp",
    "id": "tiny",
    "model": "vlinders-tiny",
    "gguf": "built-in:vlinders-tiny",
    "context_length": 4096,
}
EMBEDDING = {
    "engine": "llama.cpp",
    "id": "tiny-embedding",
    "model": "vlinders-tiny-embedding",
    "gguf": "built-in:vlinders-tiny-embedding",
    "embeddings": True,
    "context_length": 2048,
    "context_total": 2048,
    "batch": 2048,
}


async def test_llama_cpp_streams_with_the_name_that_was_asked_for_and_its_own_counts(
    host: Any, events: Any
) -> None:
    async with host(CHAT) as here:
        async with here.ask("r1", "tiny", model="gpt-4", stream=True, max_tokens=20) as answer:
            first, *chunks, usage, done = await events(answer)
        async with here.ask("r2", "tiny", model="gpt-4", stream=True, max_tokens=20) as answer:
            *_, again, _ = await events(answer)

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text.strip()
    assert {chunk["model"] for chunk in (first, *chunks, usage)} == {"gpt-4"}
    assert not any("timings" in chunk for chunk in (first, *chunks))
    assert usage["usage"]["completion_tokens"] == 20
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert done == "[DONE]"


async def test_llama_cpp_stops_when_told_and_its_own_count_is_ours(host: Any) -> None:
    async with host(CHAT) as here:
        body = {"stream": True, "max_tokens": 4_000, "ignore_eos": True}
        async with here.ask("r1", "tiny", **body) as answer:
            await answer.content.readany()
            await here.cancel("r1", answer.request_info.headers["vlinders-ticket"])
            text = await answer.text()
        shown = await here.shown("r1")

    counted = shown["usage"]["completion_tokens"]
    assert 0 < counted < 4_000
    assert f'"completion_tokens":{counted},' in text


async def test_llama_cpp_embeds_and_similar_texts_are_near(host: Any) -> None:
    texts = ["a cat in the garden", "the cats of our gardens", "the price of a token"]
    async with host(EMBEDDING) as here:
        asked = here.ask("r1", "tiny-embedding", "/v1/embeddings", model="e", input=texts)
        async with asked as answer:
            told = await answer.json()
        shown = await here.shown("r1")

    first, second, third = (row["embedding"] for row in told["data"])
    assert len(first) == 64
    assert _dot(first, second) > 0.5 > _dot(first, third) + 0.2
    assert told["model"] == "e"
    assert told["usage"]["prompt_tokens"] == shown["usage"]["prompt_tokens"] > 0


async def test_what_llama_cpp_finds_wrong_with_a_request_is_told(host: Any) -> None:
    async with (
        host({**CHAT, "context_length": 256}) as here,
        here.ask("r1", "tiny", messages=[{"role": "user", "content": "word " * 500}]) as answer,
    ):
        assert answer.status == 400
        assert "context" in (await answer.json())["error"]["message"]


async def test_a_killed_engine_is_told_and_comes_back(host: Any, numbered: Any) -> None:
    others = _children()
    async with host(CHAT) as here:
        [engine] = _children() - others
        engine.kill()
        failed = await here.scheduler.until_state("tiny", Slot.STATE_FAILED)
        assert "SIGKILL" in failed.message
        async with here.ask("r1", "tiny") as answer:
            assert answer.status == 503
        await here.scheduler.until_ready("tiny")
        async with here.ask("r2", "tiny", max_tokens=2) as answer:
            assert answer.status == 200


@pytest.fixture
def hastily(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come fast, so that hangs are found in a test's time."""
    monkeypatch.setattr(supervised, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(supervised, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(supervised, "PROBE_TIMEOUT", aiohttp.ClientTimeout(total=0.5))


@pytest.mark.usefixtures("hastily")
async def test_an_engine_that_answers_nothing_any_more_is_killed_and_comes_back(
    host: Any, numbered: Any, events: Any
) -> None:
    others = _children()
    asked = {"stream": True, "max_tokens": 10_000, "rate": 100, "counts": "continuous"}
    async with host({**numbered, "counts": "continuous_usage"}) as here:
        async with here.ask("r1", **asked) as answer:
            await answer.content.readany()
            for process in _children() - others:
                if "numbered" in " ".join(process.cmdline()):
                    process.suspend()
            *_, usage, error = await events(answer)
        failed = await here.scheduler.until_state("numbered", Slot.STATE_FAILED)
        await here.scheduler.until_ready("numbered")
        async with here.ask("r2", max_tokens=1) as answer:
            assert answer.status == 200

    assert failed.message == "hangs: 3 probes without an answer"
    assert error["error"]["code"] == "ENGINE_FAILED"
    assert here.produced("r1") - 1 <= usage["usage"]["completion_tokens"] <= here.produced("r1")


@pytest.mark.usefixtures("hastily")
async def test_an_engine_whose_front_answers_but_whose_answers_stand_still_is_killed(
    host: Any, numbered: Any, events: Any
) -> None:
    hangs = {**numbered, "counts": "continuous_usage", "hang_seconds": 1}
    asked = {"stream": True, "max_tokens": 100, "counts": "continuous", "pause_after": 5}
    async with host(hangs) as here:
        async with here.ask("r1", **asked) as answer:
            *_, usage, error = await events(answer)
        failed = await here.scheduler.until_state("numbered", Slot.STATE_FAILED)
        await here.scheduler.until_ready("numbered")

    assert failed.message.startswith("hangs: nothing came from it")
    assert error["error"]["code"] == "ENGINE_FAILED"
    assert usage["usage"]["completion_tokens"] == 5


async def test_an_engine_that_cannot_start_says_why(host: Any, tmp_path: Path) -> None:
    broken = {
        "engine": "command",
        "id": "broken",
        "model": "m",
        "command": [sys.executable, "-c", "import sys; sys.exit('no such GPU {port}')"],
    }
    missing = {**CHAT, "id": "missing", "gguf": str(tmp_path / "none.gguf")}
    unknown = {**broken, "id": "unknown", "command": ["no-such-program"]}
    async with host(broken, missing, unknown, ready=False) as here:
        told = {
            slot_id: (await here.scheduler.until_state(slot_id, Slot.STATE_FAILED)).message
            for slot_id in ("broken", "missing", "unknown")
        }

    assert "exit code 1: no such GPU" in told["broken"]
    assert "there is no GGUF file" in told["missing"]
    assert "cannot start no-such-program" in told["unknown"]


async def test_an_external_engine_is_watched_and_shown_its_key(
    host: Any, monkeypatch: pytest.MonkeyPatch, unused_server: Any
) -> None:
    monkeypatch.setenv("ELSEWHERE_KEY", "secret-1")
    url, keys = unused_server
    external = {
        "engine": "external",
        "id": "elsewhere",
        "model": "big",
        "url": f"{url}/v1/",
        "api_key_env": "ELSEWHERE_KEY",
        "served_name": "org/big-chat",
    }
    async with host(external) as here:
        async with here.ask("r1", "elsewhere", model="big", max_tokens=1) as answer:
            told = await answer.json()
        assert told["model"] == "big"
        assert told["choices"][0]["message"]["content"] == "org/big-chat"
    assert {*keys} == {"Bearer secret-1"}


@pytest.fixture
async def unused_server() -> Any:
    """A server that runs elsewhere: its URL, and the keys that it was shown."""
    keys: list[str | None] = []

    async def models(request: web.Request) -> web.Response:
        keys.append(request.headers.get("authorization"))
        return web.json_response({"data": []})

    async def chat(request: web.Request) -> web.Response:
        keys.append(request.headers.get("authorization"))
        name = (await request.json())["model"]
        delta = f'{{"model": "{name}", "choices": [{{"delta": {{"content": "{name}"}}}}]}}'
        return web.Response(text=f"data: {delta}\n\ndata: [DONE]\n\n")

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", keys
    await runner.cleanup()


async def test_nothing_of_an_engine_is_left_when_the_agent_ends(host: Any, numbered: Any) -> None:
    others = _children()
    async with host(numbered, {**CHAT, "id": "tiny"}) as here:
        await here.scheduler.until_ready("tiny")
        family = _children() - others
        assert len(family) >= 3  # the leash, its program, and llama.cpp

    gone, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert len(gone) == len(family)


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ([{**CHAT, "parallel": 0}], "engines[0].parallel"),
        ([{**CHAT, "ggfu": "x"}], "unknown field `ggfu`"),
        ([{**CHAT, "engine": "llama"}], "llama"),
        ([CHAT, CHAT], "two engines have the same id"),
        ([{**CHAT, "id": "../x"}], "engines[0].id"),
        ("none", "Expected `array`"),
    ],
)
def test_a_wrong_list_of_engines_is_told_before_anything_starts(
    tmp_path: Path, engines: Any, said: str
) -> None:
    file = tmp_path / "engines.yaml"
    file.write_text(yaml.safe_dump({"engines": engines}))

    with pytest.raises(SystemExit, match=r".") as ended:
        configuration.load(file)

    assert said in str(ended.value)
    assert str(file) in str(ended.value)


def test_the_lists_of_the_embedded_stack_are_right() -> None:
    lists = Path(__file__).parents[2] / "deploy" / "embedded" / "engines"
    for name in ("default", "contracts"):
        models = {engine.model for engine in configuration.load(lists / f"{name}.yaml")}
        assert models == {"vlinders-tiny", "vlinders-tiny-embedding"}


def test_a_log_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LONGEST", 100)
    log = LogFile(tmp_path / "tiny.log")
    with log.opened() as output:
        os.write(output, b"x" * 150 + b"\nlast words\n\n")
        assert log.last_line() == "last words"
        log.bound()
        os.write(output, b"more\n")

    assert (tmp_path / "tiny.log").read_bytes() == b"more\n"
    assert len((tmp_path / "tiny.log.1").read_bytes()) == 100


def _dot(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _children() -> set[psutil.Process]:
    """The processes below this one: the servers of other tests may be among them."""
    return set(psutil.Process().children(recursive=True))
