"""Each kind of engine's own words, counted; and what a client gets to see of them."""

import msgspec
import pytest

from vlinders_worker.meters import Body, ContinuousUsage, Deltas, Meter, Timings

LLAMA = [
    b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    b'"id":"c","timings":{"cache_n":4,"prompt_n":3,"predicted_n":0},'
    b'"prompt_progress":{"total":9,"cache":4,"processed":7,"time_ms":0}}',
    b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    b'"id":"c"}',
    b'{"choices":[{"index":0,"delta":{"content":",\\"timings\\":{"}}],"id":"c",'
    b'"timings":{"cache_n":4,"prompt_n":5,"prompt_ms":0.1,"predicted_n":1}}',
    b'{"choices":[{"index":0,"delta":{"content":"b"}}],"id":"c",'
    b'"timings":{"cache_n":4,"prompt_n":5,"predicted_n":3}}',
    b'{"choices":[{"finish_reason":"length","index":0,"delta":{}}],"id":"c"}',
    b'{"choices":[],"id":"c","usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12,'
    b'"prompt_tokens_details":{"cached_tokens":4}},"timings":{"cache_n":4,"predicted_n":3}}',
]


def test_llama_cpp_says_its_counts_in_timings() -> None:
    meter = Timings()
    seen = [(meter.read(event), meter.usage.completion_tokens) for event in LLAMA]

    assert [produced for _, produced in seen] == [0, 0, 1, 3, 3, 3]
    assert (meter.usage.prompt_tokens, meter.usage.cached_tokens) == (9, 4)
    assert not meter.usage.estimated


def test_llama_cpp_s_timings_do_not_reach_clients() -> None:
    meter = Timings()
    passed = [meter.read(event) for event in LLAMA]

    assert passed == [
        None,
        LLAMA[1].replace(b"null}}", b'""}}'),
        b'{"choices":[{"index":0,"delta":{"content":",\\"timings\\":{"}}],"id":"c"}',
        b'{"choices":[{"index":0,"delta":{"content":"b"}}],"id":"c"}',
        LLAMA[4],
        None,
    ]


def test_of_a_prompt_that_is_left_halfway_what_was_computed_counts() -> None:
    meter = Timings()
    meter.read(LLAMA[0])

    assert (meter.usage.prompt_tokens, meter.usage.completion_tokens) == (7, 0)


def test_vllm_says_its_usage_in_each_event() -> None:
    meter = ContinuousUsage()
    passed = [
        meter.read(event)
        for event in (
            b'{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":5,'
            b'"completion_tokens":2,"prompt_tokens_details":null}}',
            b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,'
            b'"prompt_tokens_details":{"cached_tokens":3}}}',
        )
    ]

    assert passed == [b'{"choices":[{"delta":{"content":"a"}}]}', None]
    assert (meter.usage.completion_tokens, meter.usage.cached_tokens) == (4, 3)


@pytest.mark.parametrize(
    ("delta", "counted"),
    [
        (b'{"content":"a"}', 1),
        (b'{"reasoning_content":"hm"}', 1),
        (b'{"tool_calls":[{"index":0}]}', 1),
        (b'{"role":"assistant","content":""}', 0),
        (b"{}", 0),
    ],
)
def test_an_engine_that_says_nothing_is_counted_by_what_it_sends(
    delta: bytes, counted: int
) -> None:
    meter = Deltas()
    event = b'{"choices":[{"delta":%b}]}' % delta

    assert meter.read(event) == event
    assert (meter.usage.completion_tokens, meter.usage.estimated) == (counted, True)


def test_a_count_of_the_engine_replaces_ours() -> None:
    meter = Deltas()
    meter.read(b'{"choices":[{"delta":{"content":"a b c"}}]}')
    meter.read(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}')

    assert (meter.usage.completion_tokens, meter.usage.estimated) == (3, False)


@pytest.mark.parametrize("meter", [Timings(), ContinuousUsage(), Deltas()])
def test_an_engine_is_always_asked_to_stream_with_usage(meter: Meter) -> None:
    messages = msgspec.Raw(b'[{"role" : "user"}]')
    body: Body = {"stream": msgspec.Raw(b"false"), "messages": messages}

    meter.ask(body)
    sent = msgspec.json.encode(body)

    assert b'"stream":true' in sent
    assert b'"include_usage":true' in sent
    assert bytes(messages) in sent  # as it came, not written anew
