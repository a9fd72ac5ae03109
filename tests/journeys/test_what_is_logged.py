"""What is logged: everything that went wrong, and no secret of anybody's."""

import base64
import json

from tests.platform import PASSWORD, Platform, bearer, chat


async def test_no_secret_is_in_any_log(platform: Platform) -> None:
    user = await platform.sign_up()
    key = (await user.key())["key"]
    await provoke(platform, key, user.tokens["refresh_token"])
    minted = json.loads((platform.stack.var / "secrets.json").read_text())
    databases = minted.pop("databases")
    secrets = platform.secrets | set(minted.values()) | set(databases.values())

    logs = platform.logs()

    assert '"service": "vlinders.gateway"' in logs
    shown = {
        secret
        for secret in secrets
        for spelt in (secret, base64.b64encode(secret.encode()).decode())
        if spelt in logs
    }
    assert not shown, f"{len(shown)} secrets are in the logs"


async def provoke(platform: Platform, key: str, refresh_token: str) -> None:
    """Shows secrets where they do not belong, and has things fail while they are shown."""
    http = platform.http
    platform.first.plays("fails-2026", status=500, error={"error": platform.first.api_key})
    await http.post("/v1/chat/completions", json=chat("fails"), headers=bearer(key))
    await http.post("/v1/chat/completions", json=chat(key), headers=bearer(key))
    await http.post("/v1/chat/completions", content=key.encode(), headers=bearer(key))
    await http.get(f"/v1/models?api_key={key}", headers=bearer(key))
    await http.get(f"/v1/models/{key}", headers=bearer(key))
    await http.get(f"/v1/{refresh_token}")
    await http.get("/v1/models", headers=bearer(f"{key}x"))
    await http.get("/v1/models", headers={"X-Request-Id": key, "User-Agent": key})
    for secret in (PASSWORD, refresh_token):
        await http.post("/v1/auth/login", json={"email": secret, "password": PASSWORD})
        await http.post("/v1/auth/refresh", json={"refresh_token": f"{secret}x"})
