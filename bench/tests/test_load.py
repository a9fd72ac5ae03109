"""The load generator counts truly: by servers whose answers are known, and by our own provider."""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY, create_server, socket
from threading import Thread

import pytest

from bench.cases import CASES
from bench.programs import Answered, Door, NoCompiler, Programs, compiled, load, provider

BODY = {"model": "mock-16-0", "messages": []}
CHUNK = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """Bytes of an answer as they are written, and whether the connection ends after them."""

    writes: Sequence[bytes]
    closes: bool = False


def whole(body: bytes = b"{}", status: bytes = b"200 OK") -> Reply:
    return Reply([b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)])


def stream(body: bytes, size: int = 1 << 20, *, closes: bool = False) -> Reply:
    """`body` in chunks of `size`; one that closes lacks the last chunk."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = [b"%x;why=not\r\n%s\r\n" % (len(part), part) for part in parts]
    return Reply([HEAD, *chunks, *([] if closes else [b"0\r\nSome: trailer\r\n\r\n"])], closes)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compiled(tmp_path_factory.mktemp("programs"))
    except NoCompiler as absent:
        pytest.skip(f"THE LOAD GENERATOR IS NOT TESTED: {absent}")


@contextmanager
def server(*replies: Reply) -> Iterator[Door]:
    """Gives such replies, one for each request, and to the next request none."""
    with create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=_serve, args=(listening, list(replies)))
        thread.start()
        yield Door(listening.getsockname()[1])
        thread.join()


def _serve(listening: socket, replies: list[Reply]) -> None:
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, True)
        with connection:
            while connection.recv(65536):
                if not replies:
                    connection.recv(65536)  # until the client has ended
                    return
                reply = replies.pop(0)
                for write in reply.writes:
                    connection.sendall(write)
                if reply.closes:
                    break


def counted(programs: Programs, *replies: Reply) -> Answered:
    """What is counted of these replies and a request that gets none."""
    with server(*replies) as door:
        options = ("-c", "1", "-w", "0", "-d", "0.7", "-g", "0")
        found = load(programs, door, BODY, *options)
    assert found.sent == len(replies) + 1
    return found


def test_every_whole_answer_counts_once(programs: Programs) -> None:
    body = b"x" * 300_000
    until_closed = Reply([b"HTTP/1.1 200 OK\r\n\r\n", b"{", b"}"], closes=True)
    in_pieces = Reply([b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r", b"\n{", b"}"])

    found = counted(programs, whole(), whole(body), in_pieces, until_closed, whole(b""))

    assert (found.whole, found.events, found.failed) == (5, 0, 0)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_events_count_however_they_are_cut(programs: Programs, size: int) -> None:
    found = counted(programs, *[stream(CHUNK * 5 + DONE, size) for _ in range(3)])

    assert (found.whole, found.events, found.failed) == (3, 18, 0)


def test_what_is_not_whole_is_told_by_its_kind(programs: Programs) -> None:
    found = counted(
        programs,
        whole(status=b"429 Too Many Requests"),
        stream(CHUNK * 2, closes=True),
        stream(CHUNK * 2),
        stream(CHUNK + b'data: {"error":{"code":"x"}}\n\n' + DONE),
        Reply([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], closes=True),
        Reply([], closes=True),
        whole(),
    )

    kinds = {"unconnected": 0, "status": 1, "broken": 4, "error_events": 1}
    assert (found.whole, found.errors) == (1, kinds)
    assert found.first_error.startswith("status: HTTP/1.1 429")


def test_nobody_listening_is_an_error(programs: Programs) -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        door = Door(taken.getsockname()[1])

    found = load(programs, door, BODY, "-c", "1", "-w", "0", "-d", "0.1")

    assert (found.sent, found.errors["unconnected"] > 0) == (0, True)


def test_who_waits_for_a_connection_waits_in_the_figures_too(programs: Programs) -> None:
    """At a fixed rate latency counts from when a request fell due, as it does for a user."""
    with provider(programs) as behind:
        body = {**BODY, "model": "mock-4-50", "stream": True}  # a fifth of a second each
        options = ["-c", "1", "-r", "50", "-w", "0", "-d", "1", "-g", "0"]
        found = load(programs, Door(behind.port), body, *options)

    assert 0 < found.whole <= 6
    assert found.latency_us["max"] > 400_000


def test_who_leaves_is_counted_and_nothing_else_of_it(programs: Programs) -> None:
    with provider(programs) as behind:
        body = {**BODY, "model": "mock-100-20", "stream": True}
        options = ["-c", "8", "-w", "0", "-d", "0.5", "-g", "0", "-l", "1", "-L", "100"]
        found = load(programs, Door(behind.port), body, *options)

    assert found.left > 8
    assert (found.whole, found.failed) == (0, 0)


def test_the_provider_says_what_it_is_asked_for(programs: Programs) -> None:
    with provider(programs) as behind:
        json_case, burst = CASES[0].body, next(c for c in CASES if c.name == "burst-16").body
        answer = json.loads(_asked(behind.port, json_case))
        lines = _asked(behind.port, burst).decode().split("\n\n")

    assert answer["usage"] == {"prompt_tokens": 24, "completion_tokens": 16, "total_tokens": 40}
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert lines[-2:] == ["data: [DONE]", ""]
    assert len([one for one in events if one["choices"] and one["choices"][0]["delta"]]) == 32
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == {
        **events[-1],
        "choices": [],
        "usage": {"prompt_tokens": 24, "completion_tokens": 32, "total_tokens": 56},
    }


def _asked(port: int, body: object) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        said: bytes = answer.read()
    return said
