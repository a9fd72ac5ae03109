"""MassRouter: one envelope for all, numbered codes, keys of its own form, an OpenAI-shaped chat."""

from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects import lacking
from vlinders_gateway.dialects.chinese import chinese
from vlinders_gateway.dialects.codes import Code, Codes
from vlinders_gateway.dialects.dialect import Dialect, Join, Meta
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.dialects.shapes import pick
from vlinders_gateway.dialects.unified import event, failed, succeeded

CODES = Codes(
    Code("ERR_001", 400, "请求参数验证失败", becomes=(409,), keeps=(408, 413, 415, 431)),
    Code("ERR_002", 401, "认证失败"),
    Code("APIKEY_001", 401, "API密钥已过期", reasons=("API_KEY_EXPIRED",)),
    Code("ERR_003", 403, "权限不足"),
    Code("USER_001", 403, "用户已被禁用", reasons=("ACCOUNT_DISABLED",)),
    Code("ERR_004", 404, "资源不存在", keeps=(405,)),
    Code("BILL_001", 402, "余额不足"),
    Code("RATE_001", 429, "请求频率超限"),
    Code("ERR_005", 500, "服务器内部错误"),
)
DONE = "操作成功"

_TOKENS = pick("access_token refresh_token expires_in")
_SIGNED_IN = {"user": pick("account.id account.email account.username"), "tokens": _TOKENS}
_ME = pick("id email username role status avatar_url created_at updated_at")
_KEY = pick("id name key_prefix permissions rate_limit expires_at")


def _listed(items: list[Any], shown: Shown, meta: Meta) -> Any:
    page = {"page": shown.page, "limit": shown.limit, "total": shown.total}
    data = {"items": items, "pagination": page | {"total_pages": shown.pages}}
    return succeeded(data, DONE, meta)


MASSROUTER = Dialect(
    name="massrouter",
    title="MassRouter SaaS API",
    mounts=("/massrouter",),
    codec=Codec(
        names={
            "account_id": "user_id",
            "api_key_id": "key_id",
            "hourly_limit": "rate_limit",
            "Account.operator": "role",
        },
        values={
            "Account.operator": {False: "user", True: "admin"},
            "permissions": {"all:read": "read", "all:write": "write"},
        },
        units={"Wallet.balance_nanos": 2},
        nulls=frozenset({"UpdateMyAccountRequest.avatar_url"}),
        hidden=frozenset(
            {
                "ListAccountsRequest.active",
                "ListAccountsRequest.operator",
                "SetAccountStatusRequest.account_number",
                "UpdateMyAccountRequest.full_name",
            }
        ),
    ),
    paging=Numbers(sort="sort_by", order="order"),
    words=chinese,
    success=lambda answer, meta: succeeded(answer, DONE, meta),
    listed=_listed,
    failure=lambda refusal, meta: failed(CODES, refusal, meta, invalid="ERR_001"),
    event=lambda refusal: event(CODES, refusal),
    bare=frozenset({"CreateChatCompletion"}),
    routes={
        "SignUp": "POST /api/v1/auth/register",
        "Login": "POST /api/v1/auth/login",
        "RotateSession": "POST /api/v1/auth/refresh",
        "BeginOAuth": "GET /api/v1/auth/oauth/{provider}",
        "FinishOAuth": "GET /api/v1/auth/oauth/{provider}/callback",
        "GetMyAccount": "GET /api/v1/users/me",
        "UpdateMyAccount": "PUT /api/v1/users/me",
        "ListApiKeys": "GET /api/v1/users/me/api-keys",
        "CreateApiKey": "POST /api/v1/users/me/api-keys",
        "RevokeApiKey": "DELETE /api/v1/users/me/api-keys/{key_id}",
        "ListAccounts": "GET /api/v1/admin/users",
        "SetAccountStatus": "PUT /api/v1/admin/users/{user_id}/status",
        "CreateChatCompletion": "POST /api/v1/chat/completions",
    },
    credentials={"RotateSession": "refresh_token"},
    joins={
        "ListAccounts": (
            Join("/vlinders.billing.v1.LedgerService/GetWallets", by="tenant_id", name="wallet"),
        )
    },
    shapes={
        "SignIn": _SIGNED_IN,
        "RotateSession": {"tokens": _TOKENS},
        "Account": _ME,
        "ListAccounts": _ME | {"balance": "wallet.balance_nanos"} | pick("last_login_at"),
        "SetAccountStatus": pick("id status updated_at"),
        "ApiKey": _KEY | pick("last_used_at created_at"),
        "CreateApiKey": _KEY | pick("key") | {"last_used_at": None} | pick("created_at"),
        "RevokeApiKey": pick("id") | {"deleted": True},
    },
    without={
        **lacking.PLATFORM,
        "ChangePassword": "It never had this.",
        "GetMyWallet": "Its balance has another shape.",
        "ListTransfers": "Its transactions have another shape.",
        "Logout": "Its clients forget their tokens.",
        "RefreshSession": "Its refresh tokens are rotated: RotateSession.",
        "Register": "Whoever registers is signed in: SignUp.",
        "RegisterByName": "Whoever registers is signed in: SignUp.",
        "RenewMySession": "Its clients have refresh tokens: RotateSession.",
        "SetWalletBalance": "Its administrators set no balances.",
        "UpdateAccount": "Its administrators change the status alone: SetAccountStatus.",
    },
)
