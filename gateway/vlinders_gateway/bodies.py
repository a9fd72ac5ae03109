"""Bodies of requests: how large, how deep and how slow one may be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec

from vlinders_gateway.refusals import (
    BodyNotAnObject,
    BodyTooLarge,
    JsonTooDeep,
    JsonTooManyParts,
    MalformedJson,
    Overloaded,
    RequestTimeout,
)

if TYPE_CHECKING:
    from vlinders_gateway.exchange import AsgiExchange

WHOLE = "vlinders.whole"
"""In a scope: the body has come as a whole, reading it will not wait."""

GRAIN_SECONDS = 1.0
"""What would be late so soon is late now: deadlines are kept by looking now and then, and are the
latest that a connection hears of them."""

_SMALL = 256 * 1024
"""Bytes that are scanned at once; what is larger is scanned beside the event loop."""

_SLICE = 64 * 1024
_NO_PARTS = bytes(char for char in range(256) if char not in b"[{,:")
_STEPS = bytes(1 if char in b"[{" else 255 if char in b"]}" else char for char in range(256))
_NO_BRACKETS = bytes(char for char in range(256) if char not in b"[]{}")


class ClientGone(Exception):
    """The client has left before its request was read. There is nobody to tell."""


@dataclass
class Limits:
    """What bodies may be; and, for all requests of the process, the room that is left for them."""

    most_bytes: int = 10 * 1024 * 1024
    deepest: int = 64
    most_parts: int = 400_000
    """Arrays, objects, items and keys: once read, each takes some hundred bytes."""

    seconds: float = 60.0
    """From the request's begin to the end of its body."""

    room: int = 256 * 1024 * 1024
    """Bytes that bodies which are still coming may hold together."""


async def read(exchange: AsgiExchange) -> bytes:
    """The body of `exchange`, whole. Nothing is waited for past the limits."""
    limits = exchange.bodies
    if exchange.content_length is not None and exchange.content_length > limits.most_bytes:
        raise BodyTooLarge(most_bytes=limits.most_bytes)
    if exchange.scope.get(WHOLE):
        body = (await _next(exchange))["body"]
    else:
        body = await _gather(exchange)
    if len(body) > limits.most_bytes:
        raise BodyTooLarge(most_bytes=limits.most_bytes)
    if is_long(body):
        await asyncio.to_thread(check_shape, body, limits)
    else:
        check_shape(body, limits)
    return bytes(body)


def is_long(body: bytes) -> bool:
    """Whether `check_shape` may take so long that it belongs in a thread."""
    return len(body) > _SMALL


def check_shape(body: bytes, limits: Limits) -> None:
    """Raises JsonTooDeep or JsonTooManyParts for a body that would be dear to read."""
    opened = body.count(b"[") + body.count(b"{")
    if opened + body.count(b",") + body.count(b":") > limits.most_parts:
        parts = sum(len(text.translate(None, _NO_PARTS)) for text in _outside_of_strings(body))
        if parts > limits.most_parts:
            raise JsonTooManyParts(most=limits.most_parts)
    if opened > limits.deepest and deeper_than(limits.deepest, body):
        raise JsonTooDeep(most=limits.deepest)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(what=str(error).removeprefix("JSON is malformed: ")) from None
    if not isinstance(found, dict):
        raise BodyNotAnObject
    return found


def deeper_than(deepest: int, body: bytes) -> bool:
    """Whether arrays and objects of `body` nest deeper; brackets in strings do not count.

    Exact for valid JSON, and bounded for anything else: nothing is parsed, only C loops run.
    """
    level = 0
    for text in _outside_of_strings(body):
        steps = text.translate(_STEPS, _NO_BRACKETS)
        levels = list(accumulate(memoryview(steps).cast("b"), initial=level))
        if max(levels) > deepest:
            return True
        level = levels[-1]
    return False


def _outside_of_strings(body: bytes) -> Iterator[bytes]:
    """All of `body` but what is in strings, slice by slice."""
    in_string = 0
    clean = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    for start in range(0, len(clean), _SLICE):
        parts = clean[start : start + _SLICE].split(b'"')
        yield b"".join(parts[in_string::2])
        in_string ^= (len(parts) - 1) & 1


async def _gather(exchange: AsgiExchange) -> bytearray:
    """A body that comes in pieces, with a deadline that a sender's dripping does not move."""
    limits, held = exchange.bodies, bytearray()
    taken = 0
    try:
        left = limits.seconds - GRAIN_SECONDS - exchange.seconds()
        async with asyncio.timeout(max(0.0, left)):
            while True:
                message = await _next(exchange)
                piece = message["body"]
                limits.room -= len(piece)
                taken += len(piece)
                held += piece
                if len(held) > limits.most_bytes:
                    raise BodyTooLarge(most_bytes=limits.most_bytes)
                if limits.room < 0:
                    raise Overloaded
                if not message.get("more_body", False):
                    return held
    except TimeoutError:
        raise RequestTimeout from None
    finally:
        limits.room += taken


async def _next(exchange: AsgiExchange) -> dict[str, Any]:
    message = await exchange.receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message
