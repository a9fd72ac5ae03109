"""LYSS AI: MassRouter's envelope with a message for each operation; accounts are numbers."""

from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects import lacking
from vlinders_gateway.dialects.chinese import chinese
from vlinders_gateway.dialects.codes import Code, Codes
from vlinders_gateway.dialects.dialect import Dialect, Join, Meta
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.dialects.shapes import pick
from vlinders_gateway.dialects.unified import event, failed, succeeded
from vlinders_gateway.failures import Refusal

CODES = Codes(
    Code("VALIDATION_ERROR", 400, "请求参数验证失败", keeps=(408, 413, 415, 431)),
    Code("UNAUTHORIZED", 401, "未授权访问"),
    Code("INVALID_CREDENTIALS", 401, "用户名或密码错误", reasons=("INVALID_CREDENTIALS",)),
    Code("TOKEN_EXPIRED", 401, "Token已过期", reasons=("TOKEN_EXPIRED",)),
    Code("FORBIDDEN", 403, "权限不足"),
    Code("INSUFFICIENT_QUOTA", 403, "配额不足", (402,), reasons=("INSUFFICIENT_CREDIT",)),
    Code("NOT_FOUND", 404, "资源不存在", keeps=(405,)),
    Code("CONFLICT", 409, "资源冲突"),
    Code("USER_ALREADY_EXISTS", 409, "用户已存在", reasons=("EMAIL_TAKEN", "USERNAME_TAKEN")),
    Code("RATE_LIMITED", 429, "请求频率超限"),
    Code("INTERNAL_ERROR", 500, "服务器内部错误"),
)
MESSAGES = {
    "SignUp": "注册成功",
    "Login": "登录成功",
    "GetMyAccount": "获取用户信息成功",
    "RenewMySession": "Token刷新成功",
    "Logout": "登出成功",
    "ListAccounts": "获取用户列表成功",
    "SetAccountStatus": "用户状态更新成功",
}
"""Operation → what is said of its success."""

_TOKEN = pick("access_token token_type expires_in")
_USER = "id username email role is_active"
_HERE = pick(" ".join(f"account.{name}" for name in _USER.split()))


def _success(answer: Any, meta: Meta) -> Any:
    return succeeded(answer, MESSAGES.get(meta.operation, "操作成功"), meta)


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"page": shown.page, "page_size": shown.limit, "total": shown.total}
    more = {"has_next": shown.page < shown.pages, "has_prev": shown.page > 1}
    return _success(
        {"items": items, "pagination": page | {"total_pages": shown.pages} | more}, meta
    )


def _event(refusal: Refusal) -> Any:
    return {"type": "error", **event(CODES, refusal)["error"]}


LYSS = Dialect(
    name="lyss",
    title="LYSS AI API",
    mounts=("/lyss",),
    codec=Codec(
        names={
            "Account.number": "id",
            "Account.operator": "role",
            "ListAccountsRequest.operator": "role",
            "Account.active": "is_active",
            "ListAccountsRequest.active": "is_active",
            "SetAccountStatusRequest.account_number": "user_id",
            "SetAccountStatusRequest.status": "is_active",
            "LoginRequest.email": "username",
        },
        values={
            "operator": {False: "user", True: "admin"},
            "SetAccountStatusRequest.status": {"active": True, "inactive": False},
        },
        units={"UsageTotals.charged_nanos": 6},
        hidden=frozenset(
            {"Account.id", "ListAccountsRequest.status", "SetAccountStatusRequest.account_id"}
        ),
    ),
    paging=Numbers(size="page_size"),
    words=chinese,
    success=_success,
    listed=_listed,
    failure=lambda refusal, meta: failed(CODES, refusal, meta, invalid="VALIDATION_ERROR"),
    event=_event,
    empty=None,
    routes={
        "SignUp": "POST /api/v1/auth/register",
        "Login": "POST /api/v1/auth/login",
        "GetMyAccount": "GET /api/v1/auth/me",
        "RenewMySession": "POST /api/v1/auth/refresh",
        "Logout": "POST /api/v1/auth/logout",
        "ListAccounts": "GET /api/v1/admin/users",
        "SetAccountStatus": "PUT /api/v1/admin/users/{user_id}/status",
    },
    joins={
        "ListAccounts": (
            Join("/vlinders.billing.v1.UsageService/GetUsageTotals", by="tenant_id", name="usage"),
        )
    },
    shapes={
        "SignUp": {"user": _HERE | pick("account.created_at"), **_TOKEN},
        "Login": {"user": _HERE, **_TOKEN},
        "RenewMySession": _TOKEN,
        "Account": pick(f"{_USER} created_at updated_at"),
        "SetAccountStatus": pick(f"{_USER} updated_at"),
        "ListAccounts": pick(f"{_USER} created_at")
        | {
            "statistics": {
                "total_conversations": 0,
                "total_messages": 0,
                "total_tokens": "usage.tokens",
                "total_cost": "usage.charged_nanos",
            }
        },
    },
    without={
        **lacking.PLATFORM,
        **lacking.NO_KEYS,
        **lacking.NO_OAUTH,
        **lacking.NO_WALLET,
        "ChangePassword": "It never had this.",
        "CreateChatCompletion": "Its clients chat through providers of their own.",
        "RefreshSession": "It has no refresh tokens: RenewMySession.",
        "Register": "Whoever registers is signed in: SignUp.",
        "RegisterByName": "Whoever registers is signed in: SignUp.",
        "RotateSession": "It has no refresh tokens: RenewMySession.",
        "UpdateAccount": "Its administrators change the status alone: SetAccountStatus.",
        "UpdateMyAccount": "It never had this.",
    },
)
