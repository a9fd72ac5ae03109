"""Completions in OpenAI's shape: a whole one, put together from the events of a stream."""

from typing import Any

import msgspec


class Assembly:
    """Collects `chat.completion.chunk` events and tells them as one `chat.completion`."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, event: bytes) -> None:
        chunk: dict[str, Any] = msgspec.json.decode(event)
        for name in ("id", "created", "model", "system_fingerprint"):
            if name not in self._head and name in chunk:
                self._head[name] = chunk[name]
        for choice in chunk.get("choices") or ():
            self._add_choice(choice)

    def whole(self, usage: object) -> dict[str, Any]:
        """The answer so far; `finish_reason` is null where the engine has not finished."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            message = choice["message"]
            message.setdefault("content", None if message.get("tool_calls") else "")
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _add_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        if index not in self._choices:
            message = {"role": "assistant"}
            self._choices[index] = {"index": index, "message": message, "finish_reason": None}
        kept = self._choices[index]
        _add_delta(kept["message"], choice.get("delta") or {})
        if choice.get("finish_reason") is not None:
            kept["finish_reason"] = choice["finish_reason"]
        for part, tokens in (choice.get("logprobs") or {}).items():
            if isinstance(tokens, list):
                kept.setdefault("logprobs", {}).setdefault(part, []).extend(tokens)


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "role" and value:
            message["role"] = value
        elif name == "tool_calls":
            for call in value or ():
                _add_call(message.setdefault("tool_calls", []), call)
        elif isinstance(value, str):
            message[name] = message.get(name, "") + value


def _add_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    """Parts of a call have its index; only the first names it, the others add arguments."""
    index = call.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    kept, function = calls[index], call.get("function") or {}
    kept["id"] = call.get("id") or kept["id"]
    kept["type"] = call.get("type") or kept["type"]
    kept["function"]["name"] += function.get("name") or ""
    kept["function"]["arguments"] += function.get("arguments") or ""
