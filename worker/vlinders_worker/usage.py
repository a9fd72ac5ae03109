"""Usage: what an engine has produced for a request so far, and how that is told."""

from dataclasses import dataclass

import msgspec
from prometheus_client import Counter

_TOKENS = Counter("vlinders_worker_tokens_total", "Tokens that engines produced.", ["slot", "kind"])


@dataclass
class Usage:
    """Token counts. They grow as the engine works, and are true at each moment."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the engine did not have to compute again."""
    completion_tokens: int = 0
    estimated: bool = False
    """Counted by this agent from pieces of text, because the engine did not say."""

    def as_json(self) -> dict[str, object]:
        """In OpenAI's shape; `estimated` is there only when true."""
        told: dict[str, object] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.estimated:
            told["estimated"] = True
        return told

    def count(self, slot_id: str) -> None:
        """Adds the final counts of a request to the metrics."""
        _TOKENS.labels(slot_id, "prompt").inc(self.prompt_tokens)
        _TOKENS.labels(slot_id, "cached").inc(self.cached_tokens)
        _TOKENS.labels(slot_id, "completion").inc(self.completion_tokens)


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class UsageTold(msgspec.Struct):
    """`usage` as an engine writes it."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None

    def put(self, usage: Usage) -> None:
        """Makes `usage` say what the engine said."""
        details = self.prompt_tokens_details or PromptDetails()
        usage.prompt_tokens = self.prompt_tokens
        usage.cached_tokens = details.cached_tokens or 0
        usage.completion_tokens = self.completion_tokens or 0
        usage.estimated = False
