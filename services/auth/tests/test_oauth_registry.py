"""The OAuth registry: what its file may say, and where browsers are sent by it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from vlinders.auth.v1 import oauth_pb2 as pb
from vlinders_auth.errors import OauthProviderNotConfigured, OauthProviderUnknown
from vlinders_auth.oauth_providers import PROVIDERS, Client
from vlinders_auth.oauth_registry import Registry

from .conftest import PUBLIC_URL, Auth, anybody, refused

SECRET = "swordfish"
ROW = {"client_id": "us", "client_secret": SECRET}


def load(folder: Path, told: Any, **over: Any) -> Registry:
    file = folder / "oauth.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return Registry.load(file, **{"public_url": PUBLIC_URL, **over})


def test_a_row_is_a_client_of_the_provider_as_it_is(tmp_path: Path) -> None:
    registry = load(tmp_path, {"github": ROW})

    assert registry.client("github") == Client("us", SECRET)
    assert registry.provider("github") == PROVIDERS["github"]
    with pytest.raises(OauthProviderNotConfigured):
        registry.client("google")
    with pytest.raises(OauthProviderUnknown):
        registry.provider("weibo")


def test_without_a_file_no_provider_has_a_client() -> None:
    registry = Registry.load(None, public_url=PUBLIC_URL)

    assert registry.clients == {}
    assert registry.providers == PROVIDERS


def test_a_provider_may_stand_elsewhere(tmp_path: Path) -> None:
    there = {
        "authorize": "https://git.example/login/oauth/authorize",
        "user": ["https://git.example/api/v3/user", "https://git.example/api/v3/user/emails"],
    }

    moved = load(tmp_path, {"github": {**ROW, **there}}).provider("github")

    assert moved == replace(
        PROVIDERS["github"], authorize=there["authorize"], user=tuple(there["user"])
    )


@pytest.mark.parametrize(
    "told",
    [
        "no JSON",
        "[]",
        {"weibo": ROW},
        {"github": "us"},
        {"github": {"client_id": "us"}},
        {"github": {**ROW, "client_id": ""}},
        {"github": {**ROW, "client_secret": ""}},
        {"github": {**ROW, "scope": "repo"}},
        {"github": {**ROW, "token": "http://git.example/token"}},
        {"github": {**ROW, "authorize": "http://git.example/authorize"}},
        {"github": {**ROW, "token": "ftp://git.example/token"}},
        {"github": {**ROW, "token": "git.example/token"}},
        {"github": {**ROW, "user": ["https://git.example/user"]}},
        {"github": {**ROW, "user": ["https://git.example/user", "http://git.example/emails"]}},
        {"github": {**ROW, "keys": "https://git.example/keys"}},
        {"google": {**ROW, "keys": ""}},
        {"google": {**ROW, "keys": "http://keys.example/"}},
    ],
    ids=str,
)
def test_a_file_that_would_not_do_is_refused_without_its_secrets(tmp_path: Path, told: Any) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused_file:
        load(tmp_path, told)

    assert SECRET not in str(refused_file.value)


def test_a_provider_on_this_machine_needs_no_encryption(tmp_path: Path) -> None:
    load(tmp_path, {"github": {**ROW, "token": "http://127.0.0.1:8080/token"}})


def test_a_secret_is_not_shown_with_its_client() -> None:
    assert SECRET not in repr(Client("us", SECRET))


@pytest.mark.parametrize("public_url", ["https://api.example.com", "https://api.example.com/"])
def test_each_provider_and_dialect_has_one_redirect_uri(public_url: str) -> None:
    registry = Registry.load(None, public_url=public_url)

    assert registry.redirect_uri("github", "vlinders") == (
        "https://api.example.com/vlinders/v1/auth/oauth/github/callback"
    )
    assert registry.redirect_uri("google", "massrouter") == (
        "https://api.example.com/massrouter/api/v1/auth/oauth/google/callback"
    )


async def test_in_the_sandbox_browsers_are_sent_to_every_provider(auth: Auth) -> None:
    object.__setattr__(auth.registry, "sandbox", True)
    massrouter = auth.oauth(anybody(dialect="massrouter"))

    for name, provider in PROVIDERS.items():
        sent = await massrouter.BeginOAuth(pb.BeginOAuthRequest(provider=name))
        assert sent.location.startswith(f"{provider.authorize}?")
        said = parse_qs(urlsplit(sent.location).query)
        assert said["appid" if name == "wechat" else "client_id"] == ["sandbox"]
        assert said["redirect_uri"] == [
            f"{PUBLIC_URL}/massrouter/api/v1/auth/oauth/{name}/callback"
        ]
        back = pb.FinishOAuthRequest(
            provider=name, code="c", state=said["state"][0], browser_token=sent.browser_token
        )
        assert await refused(massrouter.FinishOAuth(back)) == "OAUTH_PROVIDER_NOT_CONFIGURED"
