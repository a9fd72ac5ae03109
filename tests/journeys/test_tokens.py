"""Access tokens that auth has not issued, or not so: none of them opens anything."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk

from tests.platform import Platform, User, bearer
from vlinders_auth import signing_keys
from vlinders_kit.db import Database
from vlinders_kit.sealing import Sealer

ME = "/v1/users/me"


@dataclass
class Forger:
    """Has a genuine token, and what nobody outside should have: the key that signed it."""

    token: str
    key: jwk.RSAKey

    @property
    def header(self) -> dict[str, Any]:
        return dict(read(self.token.split(".")[0]))

    @property
    def claims(self) -> dict[str, Any]:
        return dict(read(self.token.split(".")[1]))

    def signed(self, key: jwk.RSAKey | None = None, **claims: Any) -> str:
        """A token by the genuine key, unless another is given; a claim that is None is left out."""
        return self.headed({}, key, **claims)

    def headed(self, header: dict[str, Any], key: jwk.RSAKey | None = None, **claims: Any) -> str:
        said = ".".join(
            part({name: value for name, value in each.items() if value is not None})
            for each in (self.header | header, self.claims | claims)
        )
        private = (key or self.key).private_key
        assert private is not None
        return f"{said}.{coded(private.sign(said.encode(), PKCS1v15(), SHA256()))}"

    def unsigned(self, **header: Any) -> str:
        """The genuine payload and signature under another header."""
        _, payload, signature = self.token.split(".")
        return f"{part(self.header | header)}.{payload}.{signature}"

    def hmac(self, secret: bytes) -> str:
        said = f"{part(self.header | {'alg': 'HS256'})}.{self.token.split('.')[1]}"
        return f"{said}.{coded(hmac.digest(secret, said.encode(), 'sha256'))}"


@pytest.fixture(scope="module")
async def user(platform: Platform) -> User:
    return await platform.sign_up()


@pytest.fixture(scope="module")
async def forger(platform: Platform, user: User) -> Forger:
    sealer = Sealer.load(platform.stack.var / "sealing-auth.json")
    db = Database(platform.database_url("auth"))
    async with db.begin() as tx:
        ring = await signing_keys.load(tx, sealer)
    await db.close()
    [(_, key)] = ring.keys
    return Forger(user.tokens["access_token"], key)


OTHER = jwk.RSAKey.generate_key(2048, private=True)
HOUR = 3600
FORGED: dict[str, Callable[[Forger], str]] = {
    "no algorithm": lambda f: f"{part(f.header | {'alg': 'none'})}.{f.token.split('.')[1]}.",
    "no algorithm, another case": lambda f: f.unsigned(alg="nOnE"),
    "no signature": lambda f: f.token.rpartition(".")[0] + ".",
    "HMAC with the public key": lambda f: f.hmac(f.key.as_pem(private=False)),
    "HMAC with it and other whitespace": lambda f: f.hmac(f.key.as_pem(private=False) + b"\n"),
    "HMAC with the JWK": lambda f: f.hmac(json.dumps(f.key.as_dict(private=False)).encode()),
    "HMAC with nothing": lambda f: f.hmac(b""),
    "another algorithm": lambda f: f.unsigned(alg="RS512"),
    "another key": lambda f: f.signed(OTHER),
    "another key under its own id": lambda f: f.headed({"kid": OTHER.thumbprint()}, OTHER),
    "another key that it brings along": lambda f: f.headed(
        {"jwk": OTHER.as_dict(private=False)}, OTHER
    ),
    "a key that it points to": lambda f: f.headed({"jku": "http://127.0.0.1/keys"}, OTHER),
    "no key id": lambda f: f.headed({"kid": None}),
    "a key id that is a path": lambda f: f.unsigned(kid="../../../../dev/null"),
    "a key id that is SQL": lambda f: f.unsigned(kid="x' UNION SELECT 'y"),
    "a key id that is a number": lambda f: f.unsigned(kid=7),
    "something critical": lambda f: f.headed({"crit": ["exp"], "exp": 1}),
    "compressed": lambda f: f.headed({"zip": "DEF"}),
    "another type": lambda f: f.headed({"typ": "JWT"}),
    "no type": lambda f: f.headed({"typ": None}),
    "expired": lambda f: f.signed(exp=int(time.time()) - HOUR, iat=int(time.time()) - 2 * HOUR),
    "without an end": lambda f: f.signed(exp=None),
    "an end that is a text": lambda f: f.signed(exp="tomorrow"),
    "not valid yet": lambda f: f.signed(nbf=int(time.time()) + HOUR),
    "another issuer": lambda f: f.signed(iss="https://accounts.example.com"),
    "no issuer": lambda f: f.signed(iss=None),
    "another audience": lambda f: f.signed(aud="billing"),
    "no audience": lambda f: f.signed(aud=None),
    "nobody": lambda f: f.signed(sub=None),
    "no session": lambda f: f.signed(sid=None),
    "a session that is none": lambda f: f.signed(sid="session_0"),
    "a session that is a list": lambda f: f.signed(sid=["session_0"]),
    "other claims": lambda f: ".".join(
        (f.token.split(".")[0], part(f.claims | {"sub": "user_0"}), f.token.split(".")[2])
    ),
    "something after it": lambda f: f"{f.token}.e30",
    "a space in it": lambda f: f.token.replace(".", " .", 1),
    "padding": lambda f: f"{f.token}==",
    "very long": lambda f: f.signed(name="x" * 10_000),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_forged_token_opens_nothing(
    platform: Platform, user: User, forger: Forger, forge: Callable[[Forger], str]
) -> None:
    token = forge(forger)

    for path in (ME, "/v1/models"):
        answer = await platform.http.get(path, headers=bearer(token))
        assert answer.status_code == 401, answer.text
    assert (await user.call("GET", ME)).status_code == 200


async def test_a_token_by_the_genuine_key_is_let_in(
    platform: Platform, user: User, forger: Forger
) -> None:
    """Else the others might be refused for another reason."""
    answer = await platform.http.get(ME, headers=bearer(forger.signed(jti="another")))

    assert answer.json()["data"]["id"] == user.account_id


async def test_tokens_are_not_taken_for_each_other(platform: Platform, user: User) -> None:
    refresh = {"refresh_token": user.tokens["access_token"]}
    answer = await platform.http.post("/v1/auth/refresh", json=refresh)
    assert answer.status_code == 401

    answer = await platform.http.get(ME, headers=bearer(user.tokens["refresh_token"]))
    assert answer.status_code == 401


async def test_whose_token_it_is_says_the_session_not_the_claim(
    platform: Platform, user: User, forger: Forger
) -> None:
    other = await platform.sign_up()

    answer = await platform.http.get(ME, headers=bearer(forger.signed(sub=other.account_id)))

    assert answer.status_code == 401 or answer.json()["data"]["id"] == user.account_id


def read(coded_part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(coded_part + "=" * (-len(coded_part) % 4)))


def part(said: dict[str, Any]) -> str:
    return coded(json.dumps(said).encode())


def coded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
