"""What is logged, traced, measured, told and kept: what went wrong, and no secret of anybody's."""

import base64
import json
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote
from uuid import uuid4

import httpx
import valkey.asyncio
from sqlalchemy import text

from tests.platform import PASSWORD, Platform, User, bearer, chat
from vlinders_embedded.minted import DATABASES
from vlinders_kit import api_keys
from vlinders_kit.db import Database
from vlinders_kit.testing.figures import Figure
from vlinders_kit.testing.spans import Collector, Told

USERS = 6
SLICE = 8
"""Signs of a secret that may not be shown, wherever they stand in it."""


@dataclass(frozen=True)
class Secret:
    """A planted secret. What is random of it may not be shown in parts either."""

    what: str
    value: str = field(repr=False)
    random: str = field(default="", repr=False)

    def spellings(self) -> set[str]:
        raw = self.value.encode()
        found = {self.value, quote(self.value, safe=""), raw.hex(), raw.hex().upper()}
        found |= {"".join(f"%{byte:02X}" for byte in raw), json.dumps(self.value)[1:-1]}
        for before in range(3):  # it may stand anywhere in what is encoded
            inner = base64.b64encode(bytes(before) + raw)[4 if before else 0 : -4].decode()
            found |= {inner, inner.replace("+", "-").replace("/", "_")}
        return found | self._slices()

    def _slices(self) -> set[str]:
        # Of hex digits so few would be found by chance.
        size = SLICE if set(self.random) - set(string.hexdigits) else 2 * SLICE
        return {self.random[at : at + size] for at in range(len(self.random) - size + 1)}


async def test_no_secret_is_shown_or_kept_anywhere(
    platform: Platform, traces: Collector, figure: Figure
) -> None:
    users = [await platform.sign_up() for _ in range(USERS)]
    planted = [*_minted(platform)]
    told: list[str] = []
    for user in users:
        key = (await user.key())["key"]
        wrong = f"wrong-{uuid4()}"
        told += await provoke(platform, user, key, wrong)
        planted += [*_of(user, key), Secret("wrong password", wrong)]
    planted.append(Secret("password", PASSWORD))
    planted.append(await _mailed(platform, users[0]))

    sinks = {"answers": "\n".join(told), "metrics": await _metrics(platform)}
    sinks["traces"] = await _traces(traces, "CreateChatCompletion", USERS)
    for database in DATABASES:
        sinks[f"database {database}"] = await _dump(platform, database)
    sinks["valkey"] = await _valkey(platform)
    sinks["logs"] = platform.logs()

    assert len(planted) >= 40
    assert '"service": "vlinders.gateway"' in sinks["logs"]
    assert users[0].email in sinks["database auth"]
    assert users[0].tenant_id in sinks["database bus"]
    assert all(sinks.values())
    seen = shown(planted, sinks)
    places = f"{len(sinks)} kinds of places, raw and encoded"
    figure(f"of {len(planted)} planted secrets, seen", len(seen), must="0", condition=places)
    assert seen == set()


async def test_a_planted_secret_is_found_however_it_is_spelled() -> None:
    secret = Secret("key", "vlinders_sk_live_q7/Wz+9bXk2LmNp4", "q7/Wz+9bXk2LmNp4")
    for spelled in (
        secret.value,
        quote(secret.value, safe=""),
        secret.value.encode().hex(),
        base64.b64encode(b"user:" + secret.value.encode()).decode(),
        base64.urlsafe_b64encode(secret.value.encode() + b"@host").decode(),
        "…9bXk2LmN…",
    ):
        assert shown([secret], {"logs": f'{{"error": "refused {spelled}"}}'}) == {("key", "logs")}
    assert not shown([secret], {"logs": "vlinders_sk_live_… q7/Wz+9"})


def shown(planted: list[Secret], sinks: dict[str, str]) -> set[tuple[str, str]]:
    """Which secrets are to be seen, and where."""
    return {
        (secret.what, place)
        for secret in planted
        for spelling in secret.spellings()
        for place, content in sinks.items()
        if spelling in content
    }


async def _mailed(platform: Platform, user: User) -> Secret:
    """The token of a link, used, and shown where it does not belong."""
    await platform.http.post("/v1/auth/password-reset", json={"email": user.email})
    path, token = await platform.link_to(user.email, "reset-password")
    await platform.http.get(path, params={"token": token})
    await platform.http.get(f"/v1/{token}", headers=bearer(token))
    body = {"token": token, "new_password": PASSWORD}
    for place in ("verify-email", "password-reset/confirm", "password-reset/confirm"):
        await platform.http.post(f"/v1/auth/{place}", json=body)
    return Secret("token of a link", token, token[-43:])


def _minted(platform: Platform) -> Iterator[Secret]:
    var = platform.stack.var
    minted = json.loads((var / "secrets.json").read_text())
    for name, password in minted.pop("databases").items():
        yield Secret(f"password of the database {name}", password, password)
        yield Secret(f"DSN of {name}", platform.database_url(name))
    for name, value in minted.items():
        yield Secret(name, value, _hidden(value))
    for file in var.glob("sealing-*.json"):
        for name, key in json.loads(file.read_text())["keys"].items():
            yield Secret(f"{file.name}: {name}", key, key)
    for provider in (platform.first, platform.second):
        yield Secret("key of a provider", provider.api_key)
    yield Secret("wrong key of a provider", "planted-key-that-is-wrong")


def _of(user: User, key: str) -> Iterator[Secret]:
    access, refresh = user.tokens["access_token"], user.tokens["refresh_token"]
    yield Secret("API key", key, _hidden(key))
    yield Secret("access token", access, access.rpartition(".")[2])
    yield Secret("refresh token", refresh, refresh.rpartition("_")[2])


def _hidden(secret: str) -> str:
    """All of it; of an API key all but its first signs, by which its owner knows it again."""
    is_key = api_keys.is_well_formed(secret)
    return secret.removeprefix(api_keys.prefix_of(secret)) if is_key else secret


async def provoke(platform: Platform, user: User, key: str, wrong: str) -> list[str]:
    """Shows secrets where they do not belong, and has things fail meanwhile; what is answered."""
    http, refresh_token = platform.http, user.tokens["refresh_token"]
    access = user.tokens["access_token"]
    platform.first.plays("fails-2026", status=500, error={"error": platform.first.api_key})
    path, headers = "/v1/chat/completions", bearer(key)
    answers: list[httpx.Response] = [
        await http.post(path, json=chat("fails"), headers=headers),
        await http.post(path, json=chat("locked"), headers=headers),
        await http.post(path, json=chat("plain"), headers=headers),
        await http.post(path, json=chat("plain", stream=True), headers=headers),
        await http.post(path, json=chat(key), headers=headers),
        await http.post(path, content=key.encode(), headers=headers),
        await http.post(path, json={key: access, "messages": [refresh_token]}, headers=headers),
        await http.get("/v1/models", params={"api_key": key}, headers=headers),
        await http.get(f"/v1/models/{key}", headers=headers),
        await http.get(f"/v1/{refresh_token}"),
        await http.get(f"/{access}"),
        await http.get("/v1/models", headers=bearer(f"{key}x")),
        await http.get("/v1/models", headers=bearer(f"{access}x")),
        await http.get("/v1/models", headers={"X-Request-Id": key, "User-Agent": access}),
        await http.get("/v1/models", headers={"Cookie": key, "Referer": refresh_token}),
        await http.get("/v1/models", headers=[("Authorization", key), ("Authorization", access)]),
        await http.get("/v1/models", headers={"traceparent": key, "tracestate": f"a={access}"}),
        await http.request("PUT", "/v1/models", headers=headers, content=key.encode()),
        await user.call("POST", "/v1/api-keys", json={"name": 1, "permissions": [key]}),
        await http.post("/v1/auth/login", json={"email": user.email, "password": wrong}),
        await http.post("/v1/auth/login", json={"email": refresh_token, "password": wrong}),
        await http.post("/v1/auth/refresh", json={"refresh_token": f"{refresh_token}x"}),
        await http.post("/v1/auth/refresh", json={"refresh_token": access}),
    ]
    # An answer may say what its own request said; what was said elsewhere it may not.
    return [each.text.replace(key, "") for each in answers if each.status_code >= 400]


async def _metrics(platform: Platform) -> str:
    parts = platform.stack.access["parts"].values()
    ports = [process["metrics"] for part in parts for process in part if "metrics" in process]
    pages = [await platform.http.get(f"http://{port}/metrics") for port in ports]
    assert all(page.status_code == 200 for page in pages)
    return "\n".join(page.text for page in pages)


async def _traces(traces: Collector, name: str, times: int) -> str:
    """All that was sent to the collector, once so many spans of that name were."""

    def there(spans: list[Told]) -> bool:
        return sum(span.name == name for span in spans) >= times

    await traces.until(there)
    return b"\n".join(traces.raw).decode("latin-1")


async def _dump(platform: Platform, database: str) -> str:
    """All rows of all tables, as whoever steals them reads them."""
    db = Database(platform.database_url(database))
    found = []
    try:
        async with db.begin() as tx:
            names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            for (name,) in (await tx.execute(text(names))).all():
                for row in (await tx.execute(text(f'SELECT * FROM "{name}"'))).all():
                    found += [_readable(value) for value in row]
    finally:
        await db.close()
    return "\n".join(found)


async def _valkey(platform: Platform) -> str:
    """What Valkey would write to its disk: every key with its value."""
    address = platform.stack.access["parts"]["valkey"][0]["tcp"]
    password = json.loads((platform.stack.var / "secrets.json").read_text())["valkey"]
    async with valkey.asyncio.from_url(f"valkey://:{password}@{address}") as client:
        keys = [key async for key in client.scan_iter()]
        dumped = [await client.dump(key) or b"" for key in keys]
    return "\n".join(map(_readable, (*keys, *dumped)))


def _readable(value: object) -> str:
    """Bytes as text where they are text, and as hex digits."""
    if isinstance(value, bytes | memoryview):
        return f"{bytes(value).decode('latin-1')}\n{bytes(value).hex()}"
    return str(value)
