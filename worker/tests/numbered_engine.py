"""An engine for tests: writes numbered tokens at a set rate, each to a file of its own first.

    python numbered_engine.py PORT FOLDER

The file `FOLDER/<user of the request>` is the truth of what it has produced. The body also has
`rate` (tokens a second), `max_tokens`, `prompt_tokens`, `cached_tokens`, and `counts`: "continuous"
as vLLM, "end" for usage at the end only, "none"; after `pause_after` tokens it says no more, and
until it has more than `late` nothing at all. `mark` stands before each token. Of the requests that
say `at_once` it works on so many at a time, and has the others wait for their turn. It stops when
its client closes, or half closes, the connection.
"""

import asyncio
import contextlib
import functools
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: %b\r\nconnection: close\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, folder: Path) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        writer.write(HEAD % (200, b"text/plain"))
        return
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if b"content-le" in line)
    body = json.loads(await reader.readexactly(length))
    if "refuse" in body:
        writer.write(HEAD % (body["refuse"], b"application/json") + b'{"error":{"message":"no"}}')
        return
    left = asyncio.create_task(reader.read())
    work = asyncio.create_task(in_turn(writer, folder, body))
    await asyncio.wait([left, work], return_when=asyncio.FIRST_COMPLETED)
    for task in (left, work):
        task.cancel()
    await asyncio.gather(left, work, return_exceptions=True)


async def in_turn(writer: asyncio.StreamWriter, folder: Path, body: dict[str, Any]) -> None:
    turn = turns(body["at_once"]) if "at_once" in body else contextlib.nullcontext()
    async with turn:
        await (stream if body.get("stream") else whole)(writer, folder, body)


@functools.cache
def turns(at_once: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(at_once)


async def stream(writer: asyncio.StreamWriter, folder: Path, body: dict[str, Any]) -> None:
    number, mark, late = 0, body.get("mark", ""), body.get("late", 0)
    held = HEAD % (200, b"text/event-stream")
    if not late:
        writer.write(held)
        held = b""
    async for number in produced(folder, body):
        told = {"usage": usage(body, number)} if body.get("counts") == "continuous" else {}
        held += event({"choices": [choice({"content": f"{mark}{number} "})], **told})
        if number > late:
            writer.write(held)
            held = b""
            await writer.drain()
    writer.write(held + event({"choices": [choice({}, "length")]}))
    if body.get("counts") != "none":
        writer.write(event({"choices": [], "usage": usage(body, number)}))
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


async def whole(writer: asyncio.StreamWriter, folder: Path, body: dict[str, Any]) -> None:
    mark = body.get("mark", "")
    numbers = [number async for number in produced(folder, body)]
    message = {"role": "assistant", "content": "".join(f"{mark}{number} " for number in numbers)}
    made = {"index": 0, "message": message, "finish_reason": "length"}
    told = {} if body.get("counts") == "none" else {"usage": usage(body, len(numbers))}
    said = {"id": "chatcmpl-1", "created": 1, "model": "numbered", "choices": [made], **told}
    writer.write(HEAD % (200, b"application/json") + json.dumps(said).encode())
    await writer.drain()


async def produced(folder: Path, body: dict[str, Any]) -> AsyncIterator[int]:
    """The tokens, each in its file before anybody hears of it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with (folder / body["user"]).open("a", buffering=1) as truth:
        for number in range(1, body["max_tokens"] + 1):
            await asyncio.sleep(began + number / body.get("rate", 1_000) - loop.time())
            if number == body.get("pause_after", 0) + 1 > 1:
                await asyncio.Event().wait()
            truth.write(f"{number}\n")
            yield number


def usage(body: dict[str, Any], number: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "prompt_tokens": body.get("prompt_tokens", 7),
        "completion_tokens": number,
    }
    if "cached_tokens" in body:
        told["prompt_tokens_details"] = {"cached_tokens": body["cached_tokens"]}
    return told


def choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def event(chunk: dict[str, Any]) -> bytes:
    whole = {"id": "chatcmpl-1", "created": 1, "model": "numbered", **chunk}
    return b"data: %b\n\n" % json.dumps(whole).encode()


async def main(port: int, folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer, folder)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    for own in server.sockets:  # or its kernel takes megabytes of what nobody reads
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    await server.serve_forever()


if __name__ == "__main__":
    truths = Path(sys.argv[2])
    truths.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(int(sys.argv[1]), truths))
