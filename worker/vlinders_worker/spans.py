"""The worker's span of a request: what its engine made of it, for traces that are kept."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from vlinders_kit import tracing
from vlinders_worker.generations import Generation, Outcome


@contextmanager
def serving(request: web.Request, generation: Generation) -> Iterator[None]:
    """Continues the trace of `request`, if it is kept, for as long as the block runs."""
    name = "embeddings" if request.path.endswith("embeddings") else "chat"
    with tracing.received(request.headers.get("traceparent", ""), f"{name} worker") as span:
        try:
            yield
        finally:
            if span.kept:
                usage = generation.usage
                span.tell(
                    {
                        "gen_ai.operation.name": name,
                        "gen_ai.usage.input_tokens": usage.prompt_tokens,
                        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                        "gen_ai.usage.output_tokens": usage.completion_tokens,
                        "vlinders.outcome": generation.outcome.value,
                        "vlinders.request_id": generation.request_id,
                        "vlinders.slot_id": generation.slot_id,
                    }
                )
                if generation.outcome is Outcome.FAILED:
                    span.fail("engine failed")
