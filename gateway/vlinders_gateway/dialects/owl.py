"""Owl Factory: ids are UUIDs, every fault of a request is told, lists count pages in `data`."""

from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects import lacking
from vlinders_gateway.dialects.chinese import chinese
from vlinders_gateway.dialects.codes import Code, Codes
from vlinders_gateway.dialects.dialect import Besides, Dialect, Join, Meta
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.dialects.shapes import pick
from vlinders_gateway.dialects.unified import event
from vlinders_gateway.failures import Refusal
from vlinders_gateway.spelling import UUIDS

CODES = Codes(
    Code("INVALID_CREDENTIALS", 401, "无效的认证凭据"),
    Code("ACCESS_DENIED", 403, "访问被拒绝"),
    Code("RESOURCE_NOT_FOUND", 404, "资源不存在", keeps=(405,)),
    Code("VALIDATION_ERROR", 422, "请求参数验证失败", (400, 409), keeps=(408, 413, 415, 431)),
    Code("INSUFFICIENT_BALANCE", 400, "余额不足", (402,), reasons=("INSUFFICIENT_CREDIT",)),
    Code("RATE_LIMITED", 429, "请求频率超限"),
    Code("SERVER_UNAVAILABLE", 503, "服务器不可用"),
    Code("INTERNAL_ERROR", 500, "服务器内部错误"),
)

_WALLET = Join("/vlinders.billing.v1.LedgerService/GetWallets", by="tenant_id", name="wallet")
_NAMES = pick("id email username full_name role")
_TIMES = pick("created_at last_login")
_PROFILE = _NAMES | {"balance": "wallet.balance_nanos", "total_tasks": 0} | _TIMES


def _success(answer: Any, meta: Meta) -> Any:
    return {"success": True, "message": "操作成功", "data": answer, "error_code": None}


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"total": shown.total, "page": shown.page, "page_size": shown.limit}
    return _success({"items": items, **page, "total_pages": shown.pages}, meta)


def _failure(refusal: Refusal, meta: Meta) -> tuple[int, Any]:
    told = CODES.of(refusal)
    faults: dict[str, list[str]] = {}
    for broken in refusal.violations if told.code == "VALIDATION_ERROR" else ():
        faults.setdefault(broken.field, []).append(broken.message)
    error = {"message": told.message, "error_code": told.code}
    return told.http, {
        "success": False,
        **error,
        "details": {"field_errors": faults} if faults else {},
    }


OWL = Dialect(
    name="owl",
    title="猫头鹰工厂 API",
    mounts=("/owl", ""),
    root=("/api",),
    codec=Codec(
        names={
            "account_id": "user_id",
            "operator": "role",
            "active": "is_active",
            "last_login_at": "last_login",
            "SetWalletBalanceRequest.balance_nanos": "balance",
        },
        ids=UUIDS,
        values={"operator": {False: "user", True: "admin"}},
        units={"balance_nanos": 2},
        nulls=frozenset({"Account.full_name"}),
        hidden=frozenset(
            {
                "ListAccountsRequest.status",
                "UpdateAccountRequest.reason",
                "UpdateMyAccountRequest.avatar_url",
                "UpdateMyAccountRequest.email",
            }
        ),
    ),
    paging=Numbers(size="page_size", sort="sort_by", order="sort_order"),
    words=chinese,
    success=_success,
    listed=_listed,
    failure=_failure,
    event=lambda refusal: event(CODES, refusal),
    empty=None,
    routes={
        "Login": "POST /api/auth/login",
        "RegisterByName": "POST /api/auth/register",
        "GetMyAccount": "GET /api/users/me",
        "UpdateMyAccount": "PUT /api/users/me",
        "ChangePassword": "POST /api/users/change-password",
        "ListAccounts": "GET /api/admin/users",
        "UpdateAccount": "PUT /api/admin/users/{user_id}",
    },
    besides={"UpdateAccount": Besides("SetWalletBalance", by="tenant_id")},
    joins=dict.fromkeys(
        ("GetMyAccount", "UpdateMyAccount", "ListAccounts", "UpdateAccount"), (_WALLET,)
    ),
    shapes={
        "Account": _PROFILE,
        "RegisterByName": _NAMES | {"balance": 0, "total_tasks": 0} | _TIMES,
        "ListAccounts": _PROFILE | pick("is_active"),
        "UpdateAccount": _PROFILE | pick("is_active"),
        "SignIn": pick("access_token token_type expires_in")
        | {"user": pick("account.id account.email account.username account.role")},
    },
    without={
        **lacking.PLATFORM,
        **lacking.NO_KEYS,
        **lacking.NO_OAUTH,
        **lacking.NO_WALLET,
        "CreateChatCompletion": "Its clients run tasks.",
        "Logout": "Its clients forget their tokens.",
        "RefreshSession": "Its clients sign in again.",
        "Register": "Its clients register under a name: RegisterByName.",
        "RenewMySession": "Its clients sign in again.",
        "RotateSession": "Its clients sign in again.",
        "SetAccountStatus": "Its administrators change the status in UpdateAccount.",
        "SignUp": "Whoever registers signs in afterwards: RegisterByName.",
    },
)
