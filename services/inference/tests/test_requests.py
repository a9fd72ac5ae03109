"""What a request must be: every bad field is named, and nothing dangerous goes on."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from vlinders_inference.catalogue import Model
from vlinders_inference.errors import ModelNotFound
from vlinders_inference.requests import Ask, body_for, read_chat, read_embeddings
from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def model(**over: Any) -> Model:
    usual = {
        "id": "m",
        "owned_by": "o",
        "worker_model": None,
        "context_length": 8192,
        "max_tokens": 4096,
        "embeddings": False,
        "function_calling": True,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Model(**(usual | over))


def chat(over: Any, of: Model | None = None) -> Ask:
    body = (
        over if isinstance(over, bytes) else json.dumps({"model": "m", "messages": [USER]} | over)
    )
    raw = body if isinstance(body, bytes) else body.encode()
    return read_chat(raw, lambda id: of or model())


def broken(read: Any, *args: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as error:
        read(*args)
    assert all(violation.message for violation in error.value.violations)
    return [violation.field for violation in error.value.violations]


@pytest.mark.parametrize(
    ("over", "fields"),
    [
        ({"model": None}, ["model"]),
        ({"model": ""}, ["model"]),
        ({"model": 4}, ["model"]),
        ({"messages": None}, ["messages"]),
        ({"messages": []}, ["messages"]),
        ({"messages": "hi"}, ["messages"]),
        ({"messages": [1]}, ["messages[0]"]),
        ({"messages": [USER, {}]}, ["messages[1].role", "messages[1].content"]),
        ({"messages": [{"role": "robot", "content": "x"}]}, ["messages[0].role"]),
        ({"messages": [{"role": 1, "content": "x"}]}, ["messages[0].role"]),
        ({"messages": [{"role": "user"}]}, ["messages[0].content"]),
        ({"messages": [{"role": "user", "content": None}]}, ["messages[0].content"]),
        ({"messages": [{"role": "user", "content": 7}]}, ["messages[0].content"]),
        ({"messages": [{"role": "user", "content": [7]}]}, ["messages[0].content[0]"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            ["messages[0].content[0].type"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            ["messages[0].content[0].text"],
        ),
        ({"max_tokens": 0}, ["max_tokens"]),
        ({"max_tokens": -1}, ["max_tokens"]),
        ({"max_tokens": 2**63}, ["max_tokens"]),
        ({"max_tokens": 4097}, ["max_tokens"]),
        ({"max_tokens": 1.5}, ["max_tokens"]),
        ({"max_tokens": "5"}, ["max_tokens"]),
        ({"max_completion_tokens": 9999}, ["max_completion_tokens"]),
        ({"temperature": 2.1}, ["temperature"]),
        ({"temperature": "hot"}, ["temperature"]),
        ({"top_p": -0.1}, ["top_p"]),
        ({"stream": "yes"}, ["stream"]),
        ({"stream_options": {"include_usage": 1}}, ["stream_options"]),
        ({"stop": ["a"] * 5}, ["stop"]),
        ({"stop": 5}, ["stop"]),
        ({"tools": {}}, ["tools"]),
        ({"temperature": 3, "top_p": 3, "messages": []}, ["temperature", "top_p", "messages"]),
    ],
)
def test_every_bad_field_is_named(over: dict[str, Any], fields: list[str]) -> None:
    assert broken(chat, over) == fields


@pytest.mark.parametrize(
    "message",
    [{}, {"role": "user"}, {"role": "user", "content": [7] * 1_000}],
    ids=["empty", "without content", "in many parts"],
)
def test_of_a_thousand_bad_fields_the_first_hundred_are_named(message: dict[str, Any]) -> None:
    assert len(broken(chat, {"messages": [message] * 1_000})) == MOST_VIOLATIONS


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"\xff", b'{"model": "m"', b"[" * 100_000, b'{"a":' * 100_000],
)
def test_what_is_no_object_is_refused_as_a_whole(body: bytes) -> None:
    assert broken(chat, body) == ["body"]


def test_a_number_beyond_all_numbers_is_refused() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999999}'

    assert broken(chat, body) == ["temperature"]


def test_what_is_wrong_is_told_before_what_is_unknown() -> None:
    def nothing(id: str) -> Model:
        raise ModelNotFound(model=id)

    assert broken(read_chat, b'{"model": "x", "messages": []}', nothing) == ["messages"]
    with pytest.raises(ModelNotFound):
        read_chat(json.dumps({"model": "x", "messages": [USER]}).encode(), nothing)


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        [USER, {"role": "assistant", "tool_calls": [CALL]}],
        [{"role": "tool", "tool_call_id": "c", "content": "1"}],
        [{"role": "developer", "content": [{"type": "text", "text": "x"}], "name": "d"}],
    ],
)
def test_openais_messages_are_accepted_as_they_are(messages: list[Any]) -> None:
    ask = chat({"messages": messages})

    assert msgspec.json.decode(body_for(ask, "up", None))["messages"] == messages


@pytest.mark.parametrize(
    ("over", "most", "expected"),
    [
        ({}, 4096, 2048),
        ({}, 512, 512),
        ({"max_tokens": None}, 4096, 2048),
        ({"max_tokens": 4096}, 4096, 4096),
        ({"max_completion_tokens": 7, "max_tokens": 9}, 4096, 7),
    ],
)
def test_an_answer_is_always_bounded(over: dict[str, Any], most: int, expected: int) -> None:
    ask = chat(over, model(max_tokens=most))

    sent = msgspec.json.decode(body_for(ask, "up", None))

    assert ask.max_tokens == expected
    assert [sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent] == [
        expected
    ]


def test_the_bound_goes_under_the_name_that_the_provider_knows() -> None:
    sent = msgspec.json.decode(body_for(chat({"max_tokens": 5}), "up", "max_completion_tokens"))

    assert (sent["max_completion_tokens"], "max_tokens" in sent) == (5, False)


def test_what_multiplies_the_cost_does_not_go_on() -> None:
    ask = chat(
        {"n": 100, "best_of": 100, "service_tier": "priority", "user": "u", "logprobs": True}
    )

    sent = msgspec.json.decode(body_for(ask, "up", None))

    assert sent.keys() == {"model", "messages", "max_tokens", "user", "logprobs"}


def test_a_field_that_is_there_twice_goes_on_once_and_as_it_was_checked() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":1,"seed":2}'

    assert body_for(chat(body), "up", None).count(b"seed") == 1


def test_the_prompt_is_bounded_by_the_body_and_by_the_model() -> None:
    long = chat({"messages": [{"role": "user", "content": "x" * 100_000}]})
    short = chat({})

    assert long.prompt_bound == 8192
    assert short.prompt_bound < 100
    assert 1 <= short.prompt_guess <= short.prompt_bound


def vectors(over: dict[str, Any], of: Model | None = None) -> Ask:
    body = json.dumps({"model": "m", "input": "x"} | over).encode()
    return read_embeddings(body, lambda id: of or model(embeddings=True, max_tokens=0))


@pytest.mark.parametrize(
    ("over", "fields"),
    [
        ({"input": None}, ["input"]),
        ({"input": ""}, ["input"]),
        ({"input": []}, ["input"]),
        ({"input": ["a", ""]}, ["input"]),
        ({"input": ["a"] * 2049}, ["input"]),
        ({"input": [[1, 2]]}, ["input"]),
        ({"encoding_format": "int8"}, ["encoding_format"]),
        ({"dimensions": 0}, ["dimensions"]),
        ({"model": None, "input": 5}, ["model", "input"]),
    ],
)
def test_every_bad_field_of_embeddings_is_named(over: dict[str, Any], fields: list[str]) -> None:
    assert broken(vectors, over) == fields


def test_chats_and_embeddings_are_made_by_their_own_models() -> None:
    assert broken(chat, {}, model(embeddings=True)) == ["model"]
    assert broken(vectors, {}, model()) == ["model"]


def test_embeddings_are_never_streamed() -> None:
    sent = msgspec.json.decode(body_for(vectors({"stream": True, "user": "u"}), "up", None))

    assert sent == {"model": "up", "input": "x", "user": "u"}


def test_embeddings_are_bounded_by_all_their_texts() -> None:
    assert vectors({"input": ["x" * 20_000] * 2}).prompt_bound == 2 * 8192
    assert vectors({}).max_tokens == 0
