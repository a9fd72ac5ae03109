"""Jobs: one admitted request each, from its hold to its record."""

import time

from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import Struct, field

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_inference.leases import Hold
from vlinders_inference.prices import NONE, Price, Tokens
from vlinders_inference.requests import Ask
from vlinders_kit import tracing
from vlinders_kit.tracing import Span


class Job(Struct, eq=False):
    """What is known of a request that was admitted; its end is what `record` makes of it."""

    request_id: str
    operation: str
    caller: Caller
    ask: Ask
    price: Price
    hold: Hold
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    served_by: str = ""
    picked: bool = False
    """The scheduler counts it as outstanding."""
    asked: bool = False
    """An engine was sent the request."""
    tokens: Tokens = NONE
    outcome: "UsageRecorded.Outcome" = UsageRecorded.OUTCOME_FAILED
    """Failed, until it is something better."""
    first_token: float = 0.0
    """When the first token came, on the clock of `began`; 0.0: none did."""
    finish_reason: str = ""
    """Why a whole answer ended, in OpenAI's words; embeddings have none."""
    span: Span | None = field(default_factory=tracing.running)
    """Of the request, where its trace is kept."""
    asking: Span | None = None
    """Of the attempt that is being made."""

    def token_came(self) -> None:
        if not self.first_token:
            self.first_token = time.monotonic()

    @property
    def charge(self) -> int:
        return self.price.charge(self.tokens, self.hold.ceiling)

    def record(self, charged: int) -> UsageRecorded:
        """The one record of the request, as it is now."""
        total = time.monotonic() - self.began
        caller, tokens = self.caller, self.tokens
        event = UsageRecorded(
            request_id=self.request_id,
            tenant_id=caller.tenant_id,
            account_id=caller.account_id,
            api_key_id=caller.api_key_id,
            model=self.ask.model.id,
            served_by=self.served_by,
            price_version=self.price.version,
            input_tokens=tokens.input,
            cached_input_tokens=tokens.cached,
            output_tokens=tokens.output,
            estimated=tokens.estimated,
            lease_id=self.hold.lease_id,
            ceiling_nanos=self.hold.ceiling,
            charged_nanos=charged,
            outcome=self.outcome,
            total_ms=round(total * 1000),
            operation=self.operation,
            stream=self.ask.stream,
        )
        if self.first_token:
            event.first_token_ms = max(1, round((self.first_token - self.began) * 1000))
        _set(event.started_at, self.started_at)
        _set(event.finished_at, self.started_at + total)
        return event


def _set(moment: Timestamp, seconds: float) -> None:
    whole = int(seconds)
    moment.seconds = whole
    moment.nanos = int((seconds - whole) * 1e9)
