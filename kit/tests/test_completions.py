"""A stream in one piece says what the stream said."""

import msgspec

from vlinders_kit.completions import Assembly

HEAD = {"id": "c", "created": 1, "model": "m"}


def assembled(*deltas: dict[str, object], **more: object) -> dict[str, object]:
    assembly = Assembly()
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
        assembly.add(msgspec.json.encode({**HEAD, "choices": [choice]}))
    [choice] = assembly.whole({})["choices"]
    message: dict[str, object] = choice["message"]
    return message


def test_texts_are_joined() -> None:
    message = assembled(
        {"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "a"}, {}
    )

    assert message == {"role": "assistant", "content": "a", "reasoning_content": "hm"}


def test_tool_calls_are_joined_by_their_index() -> None:
    def call(index: int, **parts: object) -> dict[str, object]:
        return {"tool_calls": [{"index": index, **parts}]}

    message = assembled(
        call(0, id="1", function={"name": "f", "arguments": ""}),
        call(1, id="2", function={"name": "g", "arguments": "{"}),
        call(0, function={"arguments": '{"a":'}),
        call(0, function={"arguments": "1}"}),
        call(1, function={"arguments": "}"}),
    )

    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_choices_and_their_ends_are_kept_apart() -> None:
    assembly = Assembly()
    for index, text, reason in ((1, "b", None), (0, "a", None), (1, "", "length"), (0, "", "stop")):
        choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
        logprobs = {"content": [{"token": text}]} if text else None
        assembly.add(msgspec.json.encode({**HEAD, "choices": [{**choice, "logprobs": logprobs}]}))

    whole = assembly.whole({"total_tokens": 2})

    assert whole["object"] == "chat.completion"
    assert whole["usage"] == {"total_tokens": 2}
    first, second = whole["choices"]
    assert (first["message"]["content"], first["finish_reason"]) == ("a", "stop")
    assert (second["message"]["content"], second["finish_reason"]) == ("b", "length")
    assert second["logprobs"] == {"content": [{"token": "b"}]}
