"""Bombs: requests that are small to send and would be large to take in.

Each is refused within a second, in the words of the API, for little memory and processor time, and
what serves clients goes on serving them.
"""

import asyncio
import gzip
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.chaos.watching import MEGABYTE, Watched
from tests.platform import User, chat
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

CHAT, KEYS, EMBED = "/v1/chat/completions", "/v1/api-keys", "/v1/embeddings"
SECONDS, CPU_SECONDS, GROWTH = scaled(
    (10.0, 3.0, 128 * MEGABYTE),  # a machine that runs other tests as well is slow
    (1.0, 1.0, 64 * MEGABYTE),  # what is promised
)
"""Until the refusal; of processor time, of all that serve; what one of them may grow by."""
GIGABYTE = 1024 * MEGABYTE
SENT = scaled(GIGABYTE // 32, GIGABYTE)
"""How much of a body without an end is sent, if it is taken."""
FULL = scaled(2_000_000, 9_900_000)
"""Bytes of a body that is full of something; 10 MB are taken."""


@dataclass(frozen=True)
class Bomb:
    """A request; `pieces` are all that is sent after the head."""

    pieces: Callable[[], Iterable[bytes]]
    path: str = CHAT
    method: str = "POST"
    headers: tuple[bytes, ...] = ()
    statuses: tuple[int, ...] = (400,)


def chunks(size: int, payload: bytes = b" " * 65_536) -> Iterator[bytes]:
    """A chunked body of so many bytes."""
    chunk = b"%x\r\n%s\r\n" % (len(payload), payload)
    for _ in range(size // len(payload)):
        yield chunk
    yield b"0\r\n\r\n"


def sized(body: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: (b"content-length: %d\r\n\r\n" % len(body), body)


def chatting(inner: bytes) -> bytes:
    """The body of a chat completion that is valid but for what is put into it."""
    return b'{"model":"plain","messages":[{"role":"user","content":"x"}],%s}' % inner


def filled(item: bytes) -> bytes:
    return b",".join([item] * (FULL // (len(item) + 1)))


CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
KEYS_OF_JSON = b",".join(b'"%x":0' % number for number in range(1_000_000))

BOMBS = {
    "1 GB in chunks": Bomb(lambda: (CHUNKED, *chunks(SENT)), statuses=(413,)),
    "1 GB that is announced": Bomb(
        lambda: (b"content-length: %d\r\n\r\n" % GIGABYTE, *[b" " * 65_536] * (SENT // 65_536)),
        statuses=(413,),
    ),
    "millions of chunks of a byte": Bomb(lambda: (CHUNKED, b"1\r\n{\r\n" * FULL)),
    "a chunk that extends for ever": Bomb(
        lambda: (CHUNKED, b"1;", *[b"x" * 65_536] * (SENT // 65_536))
    ),
    "a trailer that never ends": Bomb(
        lambda: (CHUNKED, b"1\r\n{\r\n0\r\nx: ", *[b"x" * 65_536] * (SENT // 65_536))
    ),
    "a header of 1 MB": Bomb(
        lambda: (b"x: " + b"x" * MEGABYTE + b"\r\n\r\n",), method="GET", statuses=(431,)
    ),
    "10,000 headers": Bomb(
        lambda: (b"".join(b"x-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n",),
        method="GET",
        statuses=(431,),
    ),
    "an address of 64 KB": Bomb(
        lambda: (b"\r\n",), path="/v1/models/" + "x" * 65_536, method="GET", statuses=(431,)
    ),
    "a query of 10,000 fields": Bomb(
        lambda: (b"\r\n",), path=KEYS + "?" + "&".join(["a=1"] * 7_000), method="GET"
    ),
    **{
        f"{name}, {what}": Bomb(sized(body), path=path)
        for what, path in (("to a model", CHAT), ("to a service", KEYS), ("to embed", EMBED))
        for name, body in {
            "arrays 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
            "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "nothing but brackets": b"[" * FULL,
            "millions of arrays": chatting(b'"x":[%s]' % filled(b"[]")),
            "1,000,000 keys": b"{%s}" % KEYS_OF_JSON[: KEYS_OF_JSON.index(b',"f0000"')],
            "1,000,000 keys deeper": chatting(
                b'"x":{%s}' % KEYS_OF_JSON[: KEYS_OF_JSON.index(b',"f0000"')]
            ),
            "1e999999": chatting(b'"max_tokens":1e999999'),
            "an integer of a million digits": chatting(b'"max_tokens":%s' % (b"9" * 1_000_000)),
            "a fraction of a million digits": chatting(b'"max_tokens":1.%s' % (b"1" * 1_000_000)),
            "half a surrogate": b'{"model":"plain","name":"\\ud800","input":"\\udfff"}',
            "a null character": b'{"model":"pla\\u0000in","messages":[],"input":[]}',
            "a null byte": b'{"model":"pla\0in"}',
            "no UTF-8": b'{"model":"\xc3\x28","messages":[],"name":"\xff","input":"\xed\xa0\x80"}',
            "nothing but no UTF-8": b'{"model":"%s"}' % (b"\xff" * FULL),
            "nothing but escapes": b'{"model":"%s"}' % (b"\\u00e9" * (FULL // 6)),
        }.items()
    },
    "millions of messages": Bomb(sized(b'{"model":"plain","messages":[%s]}' % filled(b"{}"))),
    "millions of numbers": Bomb(sized(chatting(b'"stop":[%s]' % filled(b"1.5")))),
    "millions of words to stop at": Bomb(sized(chatting(b'"stop":[%s]' % filled(b'"x"')))),
    "millions of texts to embed": Bomb(
        sized(b'{"model":"plain","input":[%s]}' % filled(b'""')), path=EMBED
    ),
    "millions of permissions": Bomb(
        sized(b'{"name":"x","permissions":[%s]}' % filled(b'"x"')), path=KEYS
    ),
    "gzip, 1000 to 1": Bomb(
        sized(gzip.compress(b" " * 10_000_000)),
        headers=(b"content-encoding: gzip",),
        statuses=(415,),
    ),
    "gzip as a transfer encoding": Bomb(
        lambda: (b"transfer-encoding: gzip, chunked\r\n\r\n", b"0\r\n\r\n")
    ),
    "a boundary of a million dashes": Bomb(
        sized(b"-" * 1_000_000),
        headers=(b"content-type: multipart/form-data; boundary=" + b"-" * 30_000,),
        statuses=(400, 431),
    ),
    "a thousand requests in one piece": Bomb(
        lambda: (b"\r\n" + b"GET /v1/nowhere HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000,),
        path="/v1/nowhere",
        method="GET",
        statuses=(404,),
    ),
}


@dataclass
class Told:
    """The answer to a bomb."""

    status: int
    error: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    """Until it came."""


async def thrown(chaos: Chaos, bomb: Bomb, credential: str) -> Told:
    """Throws the bomb, as long as it is taken, and reads the answer meanwhile."""
    host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    began = time.monotonic()
    answering = asyncio.create_task(_told(reader, began))
    try:
        head = [b"%s %s HTTP/1.1" % (bomb.method.encode(), bomb.path.encode()), b"host: x"]
        head += [b"authorization: Bearer " + credential.encode(), *bomb.headers, b""]
        writer.write(b"\r\n".join(head))
        for piece in bomb.pieces():
            writer.write(piece)
            await writer.drain()
            if answering.done() and time.monotonic() - began > SECONDS:
                break  # what it costs when it is sent all the same has been seen
    except ConnectionError:
        pass  # it is not taken any more
    try:
        return await answering
    finally:
        writer.transport.abort()


async def _told(reader: asyncio.StreamReader, began: float) -> Told:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    seconds = time.monotonic() - began
    length = next(
        int(line.partition(":")[2])
        for line in head.lower().split("\r\n")
        if "content-length" in line
    )
    body = json.loads(await reader.readexactly(length))
    return Told(int(head.split()[1]), body.get("error", {}), seconds)


@pytest.fixture
async def credentials(user: User) -> dict[str, str]:
    """By path: who may ask there."""
    key = (await user.key())["key"]
    return {CHAT: key, EMBED: key, KEYS: user.tokens["access_token"]}


async def test_bombs_are_refused_at_once_and_cost_little(
    chaos: Chaos, user: User, credentials: dict[str, str], figure: Figure
) -> None:
    pids = [pid for part in ("gateway", "inference", "auth") for pid in chaos.pids(part)]
    slowest = dearest = largest = (0.0, "")
    for name, bomb in BOMBS.items():
        path = bomb.path.partition("?")[0]
        credential = credentials.get(path, credentials[KEYS])
        with Watched(pids) as watched:
            async with asyncio.timeout(60):
                told = await thrown(chaos, bomb, credential)
        assert told.status in bomb.statuses, name
        assert told.error["message"], name
        assert told.seconds <= SECONDS, name
        assert watched.grown <= GROWTH, name
        assert watched.seconds <= CPU_SECONDS, name
        slowest = max(slowest, (told.seconds, name))
        dearest = max(dearest, (watched.seconds, name))
        largest = max(largest, (watched.grown / MEGABYTE, name))
    figure("bomb, longest until its refusal", slowest[0], "s", must="≤ 1 s", condition=slowest[1])
    figure("bomb, most memory of a process", largest[0], "MB", must="≤ 64 MB", condition=largest[1])
    figure("bomb, most processor time", dearest[0], "s", must="≤ 1 s", condition=dearest[1])
    assert await user.records() == []
    answer = await chaos.platform.http.post(
        CHAT, json=chat("plain"), headers={"Authorization": f"Bearer {credentials[CHAT]}"}
    )
    assert answer.status_code == 200
