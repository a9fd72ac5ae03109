"""The envelope that MassRouter and LYSS have in common."""

from typing import Any

from vlinders_gateway.dialects.codes import Codes
from vlinders_gateway.dialects.dialect import Meta
from vlinders_gateway.failures import Refusal


def succeeded(data: Any, message: str, meta: Meta) -> Any:
    return {"success": True, "data": data, "message": message, "timestamp": meta.timestamp}


def failed(codes: Codes, refusal: Refusal, meta: Meta, *, invalid: str) -> tuple[int, Any]:
    """Status and envelope; details are told of failures whose code is `invalid`."""
    told = codes.of(refusal)
    details = first_fault(refusal) if told.code == invalid else {}
    error = {"code": told.code, "message": told.message, "details": details}
    return told.http, {"success": False, "error": error, "timestamp": meta.timestamp}


def first_fault(refusal: Refusal) -> dict[str, str]:
    """The first field that is wrong, and why; empty where no field is."""
    if not refusal.violations:
        return {}
    broken = refusal.violations[0]
    return {"field": broken.field, "reason": broken.message}


def event(codes: Codes, refusal: Refusal) -> Any:
    """What ends a stream that has failed."""
    told = codes.of(refusal)
    return {"error": {"code": told.code, "message": told.message}}
