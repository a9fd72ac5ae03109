"""Vlinders: the canonical dialect. It renames nothing; it has an envelope and codes of its own."""

import re
from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.codes import Code, Codes
from vlinders_gateway.dialects.dialect import Dialect, Meta
from vlinders_gateway.dialects.english import english
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.failures import Refusal

SCOPES = ("inference:read", "inference:write", "usage:read")
"""What its keys can be allowed."""

_ONE_WAY = "Its clients register with the name of a tenant: Register."

CODES = Codes(
    Code("invalid_request", 400, becomes=(409,), keeps=(408, 413, 415, 431)),
    Code("unauthorized", 401),
    Code("forbidden", 403),
    Code("not_found", 404, keeps=(405,)),
    Code("quota_exceeded", 429, becomes=(402,), reasons=("INSUFFICIENT_CREDIT",)),
    Code("rate_limit_exceeded", 429),
    Code("internal_error", 500),
)


def _success(answer: Any, meta: Meta) -> Any:
    return {"data": answer, "meta": _meta(meta)}


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"page": shown.page, "limit": shown.limit}
    counts = {"total": shown.total, "total_pages": shown.pages}
    return {"data": items, "meta": _meta(meta) | page | counts}


def _failure(refusal: Refusal, meta: Meta) -> tuple[int, Any]:
    told, error = CODES.of(refusal), _event(refusal)["error"]
    if refusal.violations:
        error["details"] = [
            {"field": broken.field, "message": broken.message} for broken in refusal.violations
        ]
    if told.code == "rate_limit_exceeded" and refusal.retry_after is not None:
        error["retry_after"] = refusal.retry_after
    return told.http, {"error": error, "meta": _meta(meta)}


def _event(refusal: Refusal) -> Any:
    told = CODES.of(refusal)
    return {"error": {"code": told.code, "message": told.message}}


def _meta(meta: Meta) -> dict[str, Any]:
    return {"request_id": meta.request_id, "timestamp": meta.timestamp}


def _filter(word: str) -> str | None:
    found = re.fullmatch(r"filter\[(.*)\]", word)
    return found[1] if found else None


VLINDERS = Dialect(
    name="vlinders",
    title="Vlinders Platform API",
    mounts=("/vlinders", ""),
    codec=Codec(
        nulls=frozenset(
            {"UpdateMyAccountRequest.avatar_url", "UpdateOrganizationRequest.description"}
        ),
        values={"permissions": {scope: scope for scope in SCOPES}},
        hidden=frozenset(
            {
                "Account.number",
                "SetAccountStatusRequest.account_number",
                "SignIn.account",
                "UpdateMyAccountRequest.email",
                "UpdateMyAccountRequest.username",
                "hourly_limit",
            }
        ),
    ),
    paging=Numbers(),
    filters=_filter,
    filter_word="filter[{}]".format,
    words=english,
    success=_success,
    listed=_listed,
    failure=_failure,
    event=_event,
    described_at=("/openapi.json", "/v1/openapi.json"),
    schemas={"Account": "User"},
    bare=frozenset(
        {"CreateChatCompletion", "CreateEmbeddings", "GetKeySet", "GetModel", "ListModels"}
    ),
    without={
        "RegisterByName": _ONE_WAY,
        "SignUp": _ONE_WAY,
        "RotateSession": "Its refresh tokens stay as they are: RefreshSession.",
        "RenewMySession": "Its clients have refresh tokens: RefreshSession.",
    },
)
