"""An engine for tests: writes numbered tokens at a set rate, each to a file of its own first.

    python numbered_engine.py PORT FOLDER

The file `FOLDER/<user of the request>` is the truth of what it has produced. The body also has
`rate` (tokens a second), `max_tokens`, `prompt_tokens`, and `counts`: "continuous" as vLLM, "end"
for usage at the end only, "none"; after `pause_after` tokens it says no more. It stops when its
client closes, or half closes, the connection.
"""

import asyncio
import contextlib
import json
import sys
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
    writer.write(HEAD % (200, b"text/event-stream"))
    left = asyncio.create_task(reader.read())
    work = asyncio.create_task(produce(writer, folder, body))
    await asyncio.wait([left, work], return_when=asyncio.FIRST_COMPLETED)
    for task in (left, work):
        task.cancel()
    await asyncio.gather(left, work, return_exceptions=True)


async def produce(writer: asyncio.StreamWriter, folder: Path, body: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    began, prompt = loop.time(), body.get("prompt_tokens", 7)
    with (folder / body["user"]).open("a", buffering=1) as truth:
        for number in range(1, body["max_tokens"] + 1):
            await asyncio.sleep(began + number / body.get("rate", 1_000) - loop.time())
            if number == body.get("pause_after", 0) + 1 > 1:
                await asyncio.Event().wait()
            truth.write(f"{number}\n")
            usage = {"prompt_tokens": prompt, "completion_tokens": number}
            told = {"usage": usage} if body.get("counts") == "continuous" else {}
            send(writer, {"choices": [choice({"content": f"{number} "})], **told})
            await writer.drain()
    send(writer, {"choices": [choice({}, "length")]})
    if body.get("counts") != "none":
        send(writer, {"choices": [], "usage": usage})
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


def choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def send(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
    whole = {"id": "chatcmpl-1", "created": 1, "model": "numbered", **chunk}
    writer.write(b"data: %b\n\n" % json.dumps(whole).encode())


async def main(port: int, folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer, folder)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
