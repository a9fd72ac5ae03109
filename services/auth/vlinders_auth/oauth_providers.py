"""OAuth providers: where each one stands, and where it goes a way of its own.

A row says what a provider wants otherwise than RFC 6749 has it; the sources stand beside each. What
differs in shape and not in a name is a pure function.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Object = dict[str, Any]
"""A JSON object that a provider has answered with."""


@dataclass(frozen=True)
class Client:
    """What a provider knows this platform as."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Profile:
    """Who somebody is at a provider."""

    subject: str
    """The same for ever."""
    full_name: str = ""
    handle: str = ""
    """What he is called there, where that could be a username."""
    email: str = ""
    """Empty unless the provider itself has verified it."""
    avatar_url: str = ""


def _rfc_errors(answer: Object) -> tuple[str, ...]:
    """RFC 6749 5.2."""
    return (str(answer["error"]),) if answer.get("error") else ()


@dataclass(frozen=True)
class Provider:
    """One provider: as RFC 6749 has it, where nothing else is said."""

    authorize: str
    """Where the browser is sent."""
    token: str
    """Where a code is traded for an access token."""
    read: Callable[..., Profile]
    """Reads the answer to the code, or the claims of an ID token, then those of `user` in order."""
    user: tuple[str, ...] = ()
    """What tells whose the access token is."""
    scope: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    """RFC 6749's names of parameters → this provider's."""
    both_names: bool = False
    """The browser is sent with RFC 6749's names beside those."""
    fragment: str = ""
    pkce: bool = True
    sends: Literal["form", "json", "query"] = "form"
    """How the code travels."""
    authenticates: Literal["client_secret_post", "client_secret_basic"] = "client_secret_post"
    """How this platform shows who it is, in a form (RFC 6749 2.3.1)."""
    shapes: Callable[[Mapping[str, str], Client, datetime], Mapping[str, str]] | None = None
    """Makes the parameters that trade a code into what the provider wants instead."""
    shows: Callable[[Object, Client], Mapping[str, str]] | None = None
    """The query that carries the access token; None: a header does (RFC 6750 2.1)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of what asks `user`."""
    errors: Callable[[Object], tuple[str, ...]] = _rfc_errors
    """The codes of what went wrong; none where nothing did."""
    refusals: frozenset[str] = frozenset({"invalid_grant"})
    """Codes that are about the code or the person. The others are about us, or the provider."""
    issuers: tuple[str, ...] = ()
    """Where the provider speaks OpenID Connect, its `iss`."""
    keys: str = ""
    """Where the keys are published that sign its ID tokens."""


def _read_github(_: Object, user: Object, emails: list[Object]) -> Profile:
    primary = (row["email"] for row in emails if row.get("primary") and row.get("verified"))
    return Profile(
        str(user["id"]),  # the login can be changed, and then be somebody else's
        full_name=user.get("name") or user["login"],
        handle=user["login"],
        email=next(primary, ""),
        avatar_url=user.get("avatar_url") or "",
    )


def _read_google(claims: Object) -> Profile:
    return Profile(
        claims["sub"],
        full_name=claims.get("name") or "",
        email=claims["email"] if claims.get("email_verified") is True else "",
        avatar_url=claims.get("picture") or "",
    )


def _wechat_errors(answer: Object) -> tuple[str, ...]:
    """It fails with status 200."""
    return (str(answer["errcode"]),) if answer.get("errcode") else ()


def _show_wechat(token: Object, _: Client) -> Mapping[str, str]:
    return {"access_token": token["access_token"], "openid": token["openid"]}


def _read_wechat(_: Object, user: Object) -> Profile:
    # The openid is another one for each of an operator's apps; the unionid is the same for all.
    return Profile(
        user.get("unionid") or user["openid"],
        full_name=user.get("nickname") or "",
        avatar_url=user.get("headimgurl") or "",
    )


def _feishu_errors(answer: Object) -> tuple[str, ...]:
    """RFC 6749's `error` and a number, which is a text in some answers and 0 in good ones."""
    code = str(answer.get("code", 0))
    return () if code == "0" else (code, *_rfc_errors(answer))


def _read_feishu(_: Object, user: Object) -> Profile:
    # The e-mail is what a company's administrator has typed: nobody has verified it.
    told = user["data"]
    return Profile(
        told.get("union_id") or told["open_id"],  # as with wechat
        full_name=told.get("name") or "",
        avatar_url=told.get("avatar_url") or "",
    )


def _read_twitter(_: Object, user: Object) -> Profile:
    told = user["data"]
    return Profile(
        told["id"],
        full_name=told["name"],
        handle=told["username"],
        avatar_url=told.get("profile_image_url") or "",
    )


def _facebook_errors(answer: Object) -> tuple[str, ...]:
    error = answer.get("error")
    if not isinstance(error, dict):
        return ()
    return (f"{error.get('code')}/{error.get('error_subcode', '')}",)


def _show_facebook(token: Object, client: Client) -> Mapping[str, str]:
    access_token: str = token["access_token"]
    proof = hmac.new(client.secret.encode(), access_token.encode(), "sha256").hexdigest()
    return {"access_token": access_token, "appsecret_proof": proof}


def _read_facebook(_: Object, user: Object) -> Profile:
    # It does not say of an e-mail that it is verified, so none is asked for.
    picture = user.get("picture", {}).get("data", {})
    return Profile(
        user["id"],
        full_name=user.get("name") or "",
        avatar_url=picture.get("url") or "",
    )


_XIAOHONGSHU_METHOD = "oauth.getAccessToken"
_XIAOHONGSHU_VERSION = "2.0"


def _shape_xiaohongshu(
    asked: Mapping[str, str], client: Client, now: datetime
) -> Mapping[str, str]:
    """Its gateway takes every call at one address, signed over those parts that are not its own."""
    timestamp = str(int(now.timestamp()))
    signed = f"appId={client.id}&timestamp={timestamp}&version={_XIAOHONGSHU_VERSION}"
    said = f"{_XIAOHONGSHU_METHOD}?{signed}{client.secret}"
    return {
        "method": _XIAOHONGSHU_METHOD,
        "appId": client.id,
        "timestamp": timestamp,
        "version": _XIAOHONGSHU_VERSION,
        "sign": hashlib.md5(said.encode()).hexdigest(),  # its choice, not ours
        "code": asked["code"],
    }


def _xiaohongshu_errors(answer: Object) -> tuple[str, ...]:
    code = answer.get("error_code", 0)
    return () if answer.get("success") is True else (str(code),)


def _read_xiaohongshu(token: Object) -> Profile:
    told = token["data"]
    return Profile(told["sellerId"], full_name=told.get("sellerName") or "")


PROVIDERS: Mapping[str, Provider] = {
    # docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps; PKCE:
    # github.blog/changelog/2025-07-14. It fails with status 200, and answers in JSON when asked to.
    "github": Provider(
        authorize="https://github.com/login/oauth/authorize",
        token="https://github.com/login/oauth/access_token",
        user=("https://api.github.com/user", "https://api.github.com/user/emails"),
        scope="read:user user:email",
        headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
        refusals=frozenset({"bad_verification_code", "unverified_user_email"}),
        read=_read_github,
    ),
    # developers.google.com/identity/openid-connect/reference, with the values of
    # accounts.google.com/.well-known/openid-configuration. Older tokens name the issuer bare.
    "google": Provider(
        authorize="https://accounts.google.com/o/oauth2/v2/auth",
        token="https://oauth2.googleapis.com/token",
        scope="openid email profile",
        issuers=("https://accounts.google.com", "accounts.google.com"),
        keys="https://www.googleapis.com/oauth2/v3/certs",
        read=_read_google,
    ),
    # developers.weixin.qq.com/doc/oplatform/Website_App/WeChat_Login/Wechat_Login.html. There is no
    # PKCE and no e-mail. Who declines comes back with a state and no code.
    "wechat": Provider(
        authorize="https://open.weixin.qq.com/connect/qrconnect",
        token="https://api.weixin.qq.com/sns/oauth2/access_token",
        user=("https://api.weixin.qq.com/sns/userinfo",),
        scope="snsapi_login",
        names={"client_id": "appid", "client_secret": "secret"},
        fragment="#wechat_redirect",
        pkce=False,
        sends="query",
        shows=_show_wechat,
        errors=_wechat_errors,
        refusals=frozenset({"40029", "40163", "41008", "42003"}),
        read=_read_wechat,
    ),
    # open.feishu.cn/document/authentication-management/access-token/get-user-access-token and
    # …/reference/authen-v1/user_info/get. (Lark is the same at larksuite.com.)
    "feishu": Provider(
        authorize="https://accounts.feishu.cn/open-apis/authen/v1/authorize",
        token="https://open.feishu.cn/open-apis/authen/v2/oauth/token",
        user=("https://open.feishu.cn/open-apis/authen/v1/user_info",),
        sends="json",
        errors=_feishu_errors,
        # 20010: he may not use the app.
        refusals=frozenset({"invalid_grant", "20003", "20004", "20010", "20049"}),
        read=_read_feishu,
    ),
    # docs.x.com/fundamentals/authentication/oauth-2-0/user-access-token. A bad code is an
    # `invalid_request`. E-mails are for apps that X has allowed them: none is asked for.
    "twitter": Provider(
        authorize="https://x.com/i/oauth2/authorize",
        token="https://api.x.com/2/oauth2/token",
        user=("https://api.x.com/2/users/me?user.fields=profile_image_url",),
        scope="users.read tweet.read",
        authenticates="client_secret_basic",
        refusals=frozenset({"invalid_grant", "invalid_request"}),
        read=_read_twitter,
    ),
    # developers.facebook.com/documentation/facebook-login/guides/advanced/manual-flow and
    # …/docs/graph-api/guides/secure-requests. Versions last two years (v26.0: from July 2026).
    # PKCE is there for OpenID Connect only, "still in testing".
    "facebook": Provider(
        authorize="https://www.facebook.com/v26.0/dialog/oauth",
        token="https://graph.facebook.com/v26.0/oauth/access_token",
        user=("https://graph.facebook.com/v26.0/me?fields=id,name,picture",),
        scope="public_profile",
        pkce=False,
        shows=_show_facebook,
        errors=_facebook_errors,
        refusals=frozenset({"100/", "100/36007", "100/36009"}),  # no such code, too late, used
        read=_read_facebook,
    ),
    # xiaohongshu.apifox.cn/doc-2810928 (its open platform's guide). What is public signs in the
    # owner of a shop (`sellerId`); a sign-in for everybody is not documented, nor are codes of
    # errors: each one counts as a failure. Our API promises RFC 6749's names of this address.
    "xiaohongshu": Provider(
        authorize="https://ark.xiaohongshu.com/ark/authorization",
        token="https://ark.xiaohongshu.com/ark/open_api/v3/common_controller",
        names={"client_id": "appId", "redirect_uri": "redirectUri"},
        both_names=True,
        pkce=False,
        sends="json",
        shapes=_shape_xiaohongshu,
        errors=_xiaohongshu_errors,
        refusals=frozenset(),
        read=_read_xiaohongshu,
    ),
}
