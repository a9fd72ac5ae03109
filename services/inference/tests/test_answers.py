"""Whole answers, as clients get them: ours around what the engine said, and nothing else of its."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from vlinders_inference.answers import BrokenAnswer, completion
from vlinders_inference.catalogue import Model
from vlinders_inference.requests import read_chat

MODEL = Model("m", "us", "m", 1000, 100, False, False, datetime(2026, 1, 1, tzinfo=UTC))
ASK = read_chat(b'{"model":"m","messages":[{"role":"user","content":"x"}]}', lambda _: MODEL)
USAGE = {"prompt_tokens": 9, "completion_tokens": 3}


def answer(message: Any, **over: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop", "theirs": 1} | over
    told = {"id": "theirs", "model": "m-2026", "choices": [choice], "usage": USAGE}
    return json.dumps(told, ensure_ascii=False).encode()


def told(message: Any, **over: Any) -> Any:
    return json.loads(completion(answer(message, **over), ASK, "chatcmpl_1", 5).body)


def test_an_answer_has_our_id_and_model_and_the_engines_text() -> None:
    whole = told({"role": "someone", "content": 'a "三"\n', "refusal": None})

    assert whole == {
        "id": "chatcmpl_1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": 'a "三"\n'},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }


def test_what_else_a_message_says_comes_along() -> None:
    calls = [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]
    odd = 'a"key'

    whole = told(
        {"content": None, "tool_calls": calls, odd: 1},
        finish_reason="tool_calls",
        logprobs={"content": []},
    )

    choice = whole["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "", "tool_calls": calls, odd: 1}
    assert (choice["finish_reason"], choice["logprobs"]) == ("tool_calls", {"content": []})


def test_a_text_that_is_no_text_is_no_answer() -> None:
    with pytest.raises(BrokenAnswer):
        completion(answer({"content": "é"}).replace(b"\xc3", b""), ASK, "chatcmpl_1", 5)
