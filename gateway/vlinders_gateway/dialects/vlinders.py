"""Vlinders: the canonical dialect. It renames nothing; it has an envelope and codes of its own."""

import re
from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.dialect import Dialect, Meta
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.failures import Refusal
from vlinders_kit.errors import invalid

STATUSES = {402: 429, 409: 400}
"""Where its clients know another HTTP status: money is a quota, a conflict an invalid request."""

CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "not_found",
    408: "invalid_request",
    413: "invalid_request",
    415: "invalid_request",
    429: "rate_limit_exceeded",
    431: "invalid_request",
}
"""Code of an HTTP status. Any other, and that is every 5xx, is an `internal_error`."""

CODES_BY_REASON = {"INSUFFICIENT_CREDIT": "quota_exceeded"}


def _success(answer: Any, meta: Meta) -> Any:
    return {"data": answer, "meta": _meta(meta)}


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"page": shown.page, "limit": shown.limit}
    counts = {"total": shown.total, "total_pages": shown.pages}
    return {"data": items, "meta": _meta(meta) | page | counts}


def _failure(refusal: Refusal, meta: Meta) -> tuple[int, Any]:
    error = _event(refusal)["error"]
    if refusal.violations:
        error["details"] = [
            {"field": broken.field, "message": broken.message} for broken in refusal.violations
        ]
    if error["code"] == "rate_limit_exceeded" and refusal.retry_after is not None:
        error["retry_after"] = refusal.retry_after
    return STATUSES.get(refusal.http, refusal.http), {"error": error, "meta": _meta(meta)}


def _event(refusal: Refusal) -> Any:
    http = STATUSES.get(refusal.http, refusal.http)
    code = CODES_BY_REASON.get(refusal.reason) or CODES.get(http, "internal_error")
    return {"error": {"code": code, "message": refusal.message}}


def _meta(meta: Meta) -> dict[str, Any]:
    return {"request_id": meta.request_id, "timestamp": meta.timestamp}


def _filter(word: str) -> str | None:
    found = re.fullmatch(r"filter\[(.*)\]", word)
    return found[1] if found else None


def _picture(ask: dict[str, Any]) -> dict[str, Any]:
    """Here null takes the picture away; the contract's word for that is an empty text."""
    if ask.get("avatar_url") == "":
        raise invalid("avatar_url", "must be an absolute URL or null")
    return ask | {"avatar_url": ""} if "avatar_url" in ask and ask["avatar_url"] is None else ask


VLINDERS = Dialect(
    name="vlinders",
    title="Vlinders Platform API",
    mounts=("/vlinders", ""),
    codec=Codec(),
    paging=Numbers(),
    filters=_filter,
    filter_word="filter[{}]".format,
    success=_success,
    listed=_listed,
    failure=_failure,
    event=_event,
    described_at=("/openapi.json", "/v1/openapi.json"),
    schemas={"Account": "User"},
    bare=frozenset(
        {"CreateChatCompletion", "CreateEmbeddings", "GetKeySet", "GetModel", "ListModels"}
    ),
    asks={"UpdateMyAccount": _picture},
)
