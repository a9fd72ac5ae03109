"""MaaS: bare objects, one fault at a time, Chinese messages."""

from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects import lacking
from vlinders_gateway.dialects.chinese import chinese
from vlinders_gateway.dialects.codes import Code, Codes
from vlinders_gateway.dialects.dialect import Dialect, Meta
from vlinders_gateway.dialects.paging import Shown
from vlinders_gateway.dialects.shapes import pick
from vlinders_gateway.dialects.unified import event, first_fault
from vlinders_gateway.failures import Refusal

CODES = Codes(
    Code("INVALID_REQUEST", 400, "请求参数无效", becomes=(409,), keeps=(408, 413, 415, 431)),
    Code("UNAUTHORIZED", 401, "未授权访问"),
    Code("FORBIDDEN", 403, "禁止访问", becomes=(402,)),
    Code("NOT_FOUND", 404, "资源不存在", keeps=(405,)),
    Code("RATE_LIMITED", 429, "请求频率超限"),
    Code("INTERNAL_ERROR", 500, "服务器内部错误"),
)


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"page": shown.page, "limit": shown.limit, "total": shown.total, "pages": shown.pages}
    return {"data": items, "pagination": page}


def _failure(refusal: Refusal, meta: Meta) -> tuple[int, Any]:
    told = CODES.of(refusal)
    details = first_fault(refusal) if told.code == "INVALID_REQUEST" else {}
    error = {"code": told.code, "message": told.message, "details": details}
    return told.http, {"error": error | {"request_id": meta.request_id}}


MAAS = Dialect(
    name="maas",
    title="MaaS 平台 API",
    mounts=("/maas",),
    codec=Codec(
        names={
            "LoginRequest.email": "username",
            "Account.operator": "role",
            "avatar_url": "avatar",
            "last_login_at": "last_login",
        },
        values={
            "Account.operator": {False: "developer", True: "admin"},
            "SignIn.token_type": {"bearer": "Bearer"},
        },
        nulls=frozenset({"UpdateMyAccountRequest.avatar_url"}),
        hidden=frozenset({"RegisterByNameRequest.full_name", "UpdateMyAccountRequest.full_name"}),
    ),
    words=chinese,
    success=lambda answer, meta: answer,
    listed=_listed,
    failure=_failure,
    event=lambda refusal: event(CODES, refusal),
    routes={
        "Login": "POST /api/v1/auth/token",
        "RotateSession": "POST /api/v1/auth/refresh",
        "RegisterByName": "POST /api/v1/auth/register",
        "GetMyAccount": "GET /api/v1/users/profile",
        "UpdateMyAccount": "PUT /api/v1/users/profile",
    },
    shapes={
        "Account": pick("id username email avatar role created_at last_login"),
        "SignIn": pick("access_token token_type expires_in refresh_token"),
    },
    without={
        **lacking.PLATFORM,
        **lacking.NO_KEYS,
        **lacking.NO_OAUTH,
        **lacking.NO_WALLET,
        "AccountAdminService": "It has no administration of accounts.",
        "ChangePassword": "It never had this.",
        "CreateChatCompletion": "Its clients chat with applications.",
        "Logout": "Its clients forget their tokens.",
        "RefreshSession": "Its refresh tokens are rotated: RotateSession.",
        "Register": "Its clients register under a name: RegisterByName.",
        "RenewMySession": "Its clients have refresh tokens: RotateSession.",
        "SignUp": "Whoever registers signs in afterwards: RegisterByName.",
    },
)
