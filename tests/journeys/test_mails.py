"""Links that came by mail: from what somebody asks for, through the page, to what it opens."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.platform import Platform, bearer, eventually

NEW_PASSWORD = "another password of the journeys"
AT_ONCE = 1.0
"""Seconds within which a change is to be known on every gateway, while the bus is there."""


async def follow(platform: Platform, path: str, **body: str) -> Any:
    """Opens the page and sends what its script would; the answer's data."""
    page = await platform.http.get(path)
    assert page.status_code == 200, page.text
    place = re.search(r'data-at="([^"]+)"', page.text)
    assert place is not None
    answer = await platform.http.post(place[1], json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()["data"]


async def until_refused(http: httpx.AsyncClient, path: str, token: str, status: int) -> float:
    """Seconds until `path` is refused to the token."""
    began = time.monotonic()
    while (await http.get(path, headers=bearer(token))).status_code != status:
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_who_forgot_his_password_sets_another_and_all_that_were_in_are_out(
    platform: Platform,
) -> None:
    platform.secrets.add(NEW_PASSWORD)
    ada = await platform.sign_up()
    async with platform.on_each_gateway() as gateways:
        for http in gateways:
            known = await http.get("/v1/users/me", headers=bearer(ada.tokens["access_token"]))
            assert known.status_code == 200

        asked = await platform.http.post("/v1/auth/password-reset", json={"email": ada.email})
        other = await platform.http.post("/v1/auth/password-reset", json={"email": "no@b.dy"})
        path, token = await platform.link_to(ada.email, "reset-password")
        await follow(platform, path, token=token, new_password=NEW_PASSWORD)

        token_of = ada.tokens["access_token"]
        took = await asyncio.gather(
            *(until_refused(http, "/v1/users/me", token_of, 401) for http in gateways)
        )

    assert (asked.status_code, asked.json()["data"]) == (other.status_code, other.json()["data"])
    assert max(took) < AT_ONCE
    form = {"email": ada.email, "password": NEW_PASSWORD}
    assert (await platform.http.post("/v1/auth/login", json=form)).status_code == 200


async def test_an_email_is_verified(platform: Platform) -> None:
    ada = await platform.sign_up()
    answer = await ada.call("POST", "/v1/users/me/email-verification", json={})
    assert answer.status_code == 202, answer.text

    path, token = await platform.link_to(ada.email, "verify-email")
    await follow(platform, path, token=token)

    assert (await ada.data("GET", "/v1/users/me"))["email_verified"] is True


async def test_who_is_invited_joins_and_is_known_everywhere_for_what_he_is_at_once(
    platform: Platform,
) -> None:
    platform.secrets.add(NEW_PASSWORD)
    ada = await platform.sign_up()
    email = f"bob-{ada.account_id.lower()}@example.com"
    wanted = {"email": email, "role": "admin"}
    await ada.data("POST", "/v1/members/invitations", json=wanted)
    path, token = await platform.link_to(email, "accept-invitation")
    bob = await follow(platform, path, token=token, full_name="Bob", password=NEW_PASSWORD)
    form = {"email": email, "password": NEW_PASSWORD}
    signed_in = (await platform.http.post("/v1/auth/login", json=form)).json()["data"]
    platform.secrets |= {signed_in["access_token"], signed_in["refresh_token"]}
    assert bob["tenant_id"] == ada.tenant_id

    team = await ada.data("POST", "/v1/organizations", json={"name": "Engineering"})
    at = f"/v1/organizations/{team['id']}"
    async with platform.on_each_gateway() as gateways:
        headers = bearer(signed_in["access_token"])
        for http in gateways:  # an admin of the tenant sees what he is no member of
            assert (await http.get(at, headers=headers)).status_code == 200
        await ada.data("PATCH", f"/v1/members/{bob['user_id']}", json={"role": "viewer"})
        took = await asyncio.gather(
            *(until_refused(http, at, signed_in["access_token"], 404) for http in gateways)
        )

    assert max(took) < AT_ONCE
    await ada.data("POST", f"{at}/members", json={"account_id": bob["user_id"]})
    listed = await ada.data("GET", "/v1/organizations?sort=-member_count")
    assert [(row["name"], row["member_count"]) for row in listed] == [("Engineering", 2)]


async def test_a_mail_that_waits_survives_the_death_of_auth(platform: Platform) -> None:
    ada = await platform.sign_up()
    folder = Path(platform.stack.var) / "mails"
    aside = folder.rename(folder.with_name("mails-aside"))
    folder.touch()  # a file: no mail can be written
    try:
        asked = await platform.http.post("/v1/auth/password-reset", json={"email": ada.email})
        assert asked.status_code == 202

        async def tried() -> bool:
            query = "SELECT tries FROM mail WHERE email = :email AND due_at > now()"
            rows = await platform.sql("auth", query, email=ada.email)
            return [row.tries for row in rows] == [1]

        await eventually(tried)
        [pid] = platform.stack.pids("auth")
        os.kill(pid, signal.SIGKILL)
    finally:
        folder.unlink()
        aside.rename(folder)

    due = "UPDATE mail SET due_at = now() WHERE due_at IS NOT NULL"
    await platform.sql("auth", due)
    path, token = await platform.link_to(ada.email, "reset-password")

    async def there_again() -> bool:
        return (await ada.call("GET", "/v1/users/me")).status_code == 200

    await eventually(there_again)
    platform.secrets.add(NEW_PASSWORD)
    await follow(platform, path, token=token, new_password=NEW_PASSWORD)
