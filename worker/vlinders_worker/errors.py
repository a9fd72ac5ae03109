"""What can go wrong at a worker, as inference sees it."""

from vlinders_kit.errors import (
    Aborted,
    AlreadyExists,
    AppError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)


class TicketMissing(Unauthenticated):
    """The headers vlinders-ticket and x-request-id are needed."""


class TicketNotValid(PermissionDenied):
    """The ticket is not one for this request on this worker."""


class TicketStale(Aborted):
    """The ticket is too old, or from before this worker registered anew: pick again."""


class NotServing(Unavailable):
    """This worker starts no new requests: {why}."""

    why: str


class SlotNotReady(Unavailable):
    """The engine of slot {slot_id} is not ready."""

    slot_id: str


class RequestRuns(AlreadyExists):
    """Request {request_id} has been started here before."""

    request_id: str


class RequestNotFound(NotFound):
    """There is no request {request_id} here."""

    request_id: str


class BodyNotValid(InvalidArgument):
    """The body is not valid: {why}."""

    why: str


class EngineFailed(AppError):
    """The engine of slot {slot_id} failed: {why}."""

    slot_id: str
    why: str


class EngineRefused(Exception):  # passed on as it came, so it is no AppError of ours
    """The engine answered with an error of its own."""

    def __init__(self, status: int, body: bytes, content_type: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.content_type = content_type
