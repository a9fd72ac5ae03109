"""Meters: how the tokens of an engine are counted, event by event, while it produces them.

A meter adds to the request what makes the engine tell its counts, reads each event of the answer,
and gives back the event as a client may see it: the same bytes, or with the counts cut out. The
searches in raw bytes are safe because a quote inside a JSON string is always escaped.
"""

from typing import Any, Protocol

import msgspec

from vlinders_worker.engines.configuration import Counts
from vlinders_worker.usage import Usage, UsageTold

Body = dict[str, msgspec.Raw]
"""A request, its values not decoded: messages go through as the bytes they came as."""


class Meter(Protocol):
    usage: Usage

    def ask(self, body: Body) -> None:
        """Adds the fields that make the engine tell its counts."""
        ...

    def read(self, event: bytes) -> bytes | None:
        """Counts one event; returns what is to be passed on, or None for nothing."""
        ...


class Timings:
    """llama.cpp: `timings_per_token` puts its own counts into each event."""

    def __init__(self) -> None:
        self.usage = Usage()

    def ask(self, body: Body) -> None:
        body["stream"] = body["timings_per_token"] = body["return_progress"] = _TRUE
        body["stream_options"] = _INCLUDE_USAGE

    def read(self, event: bytes) -> bytes | None:
        if b'"usage":{' in event:
            _read_whole(event).usage.put(self.usage)
            return None
        at = event.rfind(_TIMINGS)
        if at < 0:
            # The first event has no counts yet. Its content is null; clients expect a text.
            return event.replace(_NULL_CONTENT, _EMPTY_CONTENT, 1)
        end = event.index(b"}", at) + 1
        timings = _read_timings(event[at + len(_TIMINGS) - 1 : end])
        usage = self.usage
        usage.prompt_tokens = timings.prompt_n + timings.cache_n
        usage.cached_tokens = timings.cache_n
        usage.completion_tokens = timings.predicted_n
        if event.startswith(_PROGRESS, end):
            progress = _read_progress(event[end + len(_PROGRESS) - 1 : -1])
            usage.prompt_tokens = progress.processed
            return None
        return event[:at] + event[end:]


class ContinuousUsage:
    """vLLM: `continuous_usage_stats` puts the usage so far into each event."""

    def __init__(self) -> None:
        self.usage = Usage()

    def ask(self, body: Body) -> None:
        body["stream"] = _TRUE
        body["stream_options"] = _CONTINUOUS_USAGE

    def read(self, event: bytes) -> bytes | None:
        if b'"usage"' not in event:
            return event
        chunk: dict[str, Any] = msgspec.json.decode(event)
        if chunk.get("usage") is not None:
            msgspec.convert(chunk["usage"], UsageTold).put(self.usage)
        if not chunk.get("choices"):
            return None
        chunk.pop("usage", None)
        return msgspec.json.encode(chunk)


class Deltas:
    """Any other engine: each event with something in it is a token, until the engine says usage."""

    def __init__(self) -> None:
        self.usage = Usage(estimated=True)
        self._prompt_guess = 0

    def ask(self, body: Body) -> None:
        body["stream"] = _TRUE
        body["stream_options"] = _INCLUDE_USAGE
        # Four bytes a token is the usual measure of English.
        self._prompt_guess = max(1, len(memoryview(body.get("messages", b""))) // 4)

    def read(self, event: bytes) -> bytes | None:
        chunk = _read_chunk(event)
        if chunk.usage is not None:
            chunk.usage.put(self.usage)
            if not chunk.choices:
                return None
        else:
            self.usage.completion_tokens += sum(map(_says_something, chunk.choices))
            # What has said nothing may have done nothing; from the first word the prompt was read.
            self.usage.prompt_tokens = self.usage.prompt_tokens or self._prompt_guess
        return event


METERS: dict[Counts, type[Timings] | type[ContinuousUsage] | type[Deltas]] = {
    "timings": Timings,
    "continuous_usage": ContinuousUsage,
    "deltas": Deltas,
}
"""By the name that an engine's configuration has for it (`counts`)."""


class _TimingsTold(msgspec.Struct):
    prompt_n: int = 0
    cache_n: int = 0
    predicted_n: int = 0


class _Progress(msgspec.Struct):
    processed: int = 0


class _Choice(msgspec.Struct):
    delta: dict[str, Any] = msgspec.field(default_factory=dict)
    text: str = ""


class _Whole(msgspec.Struct):
    usage: UsageTold


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: UsageTold | None = None


_TRUE = msgspec.Raw(b"true")
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')
_CONTINUOUS_USAGE = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
_TIMINGS = b',"timings":{'
_PROGRESS = b',"prompt_progress":{'
_NULL_CONTENT = b'"delta":{"role":"assistant","content":null}'
_EMPTY_CONTENT = b'"delta":{"role":"assistant","content":""}'

_read_timings = msgspec.json.Decoder(_TimingsTold).decode
_read_progress = msgspec.json.Decoder(_Progress).decode
_read_whole = msgspec.json.Decoder(_Whole).decode
_read_chunk = msgspec.json.Decoder(_Chunk).decode


def _says_something(choice: _Choice) -> bool:
    delta = choice.delta
    return bool(
        choice.text
        or delta.get("content")
        or delta.get("reasoning_content")
        or delta.get("reasoning")
        or delta.get("tool_calls")
    )
