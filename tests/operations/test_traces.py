"""One trace from the edge to the engine and the ledger, by the conventions, and without secrets."""

from typing import Any

import pytest

from tests.operations.conftest import Operated
from tests.platform import User, chat
from vlinders_kit import trace_ids
from vlinders_kit.testing.spans import Told

pytestmark = pytest.mark.anyio

CONTENT = "a text that is nobody's business"
THEIRS = "0af7651916cd43dd8448eb211c80319c"


async def trace_of(operated: Operated, request_id: str, *awaited: str) -> list[Told]:
    """The spans of a request, once those that are `awaited` have come, and all above them."""
    trace_id = trace_ids.trace_of(request_id)

    def whole(spans: list[Told]) -> bool:
        mine = [span for span in spans if span.trace_id == trace_id]
        above = {"", *(span.id for span in mine)}
        return set(awaited) <= {s.name for s in mine} and all(s.parent in above for s in mine)

    await operated.collector.until(whole)
    return operated.collector.of(trace_id)


def tree(spans: list[Told]) -> dict[str, Any]:
    """The names of the spans, each with those below it."""

    def below(parent: str) -> dict[str, Any]:
        return {
            f"{span.service.removeprefix('vlinders.')}: {span.name}": below(span.id)
            for span in spans
            if span.parent == parent
        }

    return below("")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_trace_from_the_edge_to_the_engine_and_the_ledger(
    operated: Operated, user: User, stream: bool
) -> None:
    answer = await user.call(
        "POST", "/v1/chat/completions", json=chat("own", stream=stream, max_tokens=20)
    )
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    spans = await trace_of(operated, request_id, "settle", "chat worker", "pick", "admission")
    found = tree(spans)
    below = found["gateway: CreateChatCompletion"]["inference: CreateChatCompletion"]
    assert len(found) == 1
    assert set(below) == {
        "inference: admission",
        "inference: pick",
        "inference: chat own",
        "billing: settle",
    }
    assert below["inference: chat own"] == {"worker: chat worker": {}}

    (worker,) = [span for span in spans if span.service == "vlinders.worker"]
    assert operated.engine.asked["own"][-1].headers["traceparent"] == (
        f"00-{worker.trace_id}-{worker.id}-03"
    )
    record = await user.record_of(request_id)
    (settle,) = [span for span in spans if span.name == "settle"]
    assert record["trace_id"] == worker.trace_id
    assert settle.attributes["vlinders.transfer_id"] == record["transfer_id"]
    assert settle.attributes["vlinders.charged_nanos"] == record["charged_nanos"]


async def test_spans_speak_by_the_conventions_for_generative_ai(
    operated: Operated, user: User
) -> None:
    answer = await user.call("POST", "/v1/chat/completions", json=chat("plain", max_tokens=20))
    spans = await trace_of(operated, answer.headers["x-request-id"], "chat plain")
    (asked,) = [span for span in spans if span.name == "chat plain"]
    (served,) = [span for span in spans if span.name == "CreateChatCompletion" and span.parent]
    (edge,) = [span for span in spans if not span.parent]
    host, _, port = operated.platform.first.base_url[7:].split("/")[0].rpartition(":")
    assert asked.kind == 3  # a client's
    assert asked.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "somebody",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.model": "plain",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.model": "plain",
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "server.address": host,
        "server.port": int(port),
    }
    assert served.attributes["gen_ai.usage.output_tokens"] == 5
    assert served.attributes["vlinders.tenant_id"] == user.tenant_id
    assert edge.attributes["http.request.method"] == "POST"
    assert edge.attributes["http.response.status_code"] == 200


async def test_what_fails_says_so_at_every_level(operated: Operated, user: User) -> None:
    answer = await user.call("POST", "/v1/chat/completions", json=chat("fails"))
    assert answer.status_code == 502
    spans = await trace_of(operated, answer.headers["x-request-id"], "chat fails")
    by_name = {span.name: span for span in spans if span.parent}
    (edge,) = [span for span in spans if not span.parent]
    assert edge.attributes["error.type"] == "502"
    assert by_name["chat fails"].attributes["error.type"] == "status 500"
    assert by_name["CreateChatCompletion"].failed


async def test_a_trusted_proxys_trace_goes_through_to_the_books(
    operated: Operated, user: User
) -> None:
    headers = {"traceparent": f"00-{THEIRS}-b7ad6b7169203331-01"}
    token = {"Authorization": f"Bearer {user.tokens['access_token']}", **headers}
    answer = await operated.platform.http.post(
        "/v1/chat/completions", json=chat("plain"), headers=token
    )
    await user.record_of(answer.headers["x-request-id"])
    await operated.collector.until(
        lambda spans: any(span.trace_id == THEIRS and span.name == "settle" for span in spans)
    )
    found = await user.data("GET", f"/v1/usage/records?trace_id={THEIRS}")
    assert [row["request_id"] for row in found] == [answer.headers["x-request-id"]]

    def of_edge(spans: list[Told]) -> list[Told]:
        return [s for s in spans if s.trace_id == THEIRS and s.service == "vlinders.gateway"]

    (edge,) = of_edge(await operated.collector.until(of_edge))
    assert edge.parent == "b7ad6b7169203331"


async def test_usage_is_found_by_the_trace_that_its_request_names(
    operated: Operated, user: User
) -> None:
    answer = await user.call("POST", "/v1/chat/completions", json=chat("plain"))
    request_id = answer.headers["x-request-id"]
    await user.record_of(request_id)
    trace_id = trace_ids.trace_of(request_id)
    found = await user.data("GET", f"/v1/usage/records?trace_id={trace_id}")
    assert [(row["request_id"], row["trace_id"]) for row in found] == [(request_id, trace_id)]


async def test_no_trace_tells_contents_or_secrets(operated: Operated, user: User) -> None:
    key = (await user.key())["key"]
    operated.platform.first.plays("plain", words=(CONTENT,))
    try:
        body = chat("plain", messages=[{"role": "user", "content": CONTENT}])
        answer = await operated.platform.http.post(
            f"/v1/chat/completions?api_key={key}",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
        )
    finally:
        operated.platform.first.plays("plain")
    await trace_of(operated, answer.headers["x-request-id"], "settle", "chat plain")
    sent = b"".join(operated.collector.raw)
    for secret in (CONTENT, key, *operated.platform.secrets):
        assert secret.encode() not in sent
