"""The platform as its clients see it, and the few things that only its operators can do to it."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import openai
import psutil
from sqlalchemy import text

from vlinders_embedded.running import RunningStack
from vlinders_kit.db import Database

from .upstreams import Upstream

T = TypeVar("T")
PASSWORD = "a password of the journeys"
NOBODYS = "vlinders_sk_live_000000000000000000000000000000014KvK3z"
"""A well-formed API key that nobody has."""
NANOS = 10**9
GRANT = 10 * NANOS
"""What each tenant begins with."""


@dataclass
class User:
    """Somebody who has signed up and in. Calls are made with his access token."""

    http: httpx.AsyncClient
    email: str
    account_id: str
    tenant_id: str
    tokens: dict[str, Any]
    secrets: set[str] = field(default_factory=set)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens['access_token']}"}
        return await self.http.request(method, path, headers=headers, **options)

    async def data(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.call(method, path, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()["data"]

    async def every(self, path: str) -> list[dict[str, Any]]:
        """All of a list, page by page."""
        rows: list[dict[str, Any]] = []
        for page in itertools.count(1):
            answer = await self.call("GET", path, params={"limit": 100, "page": page})
            assert answer.status_code == 200, answer.text
            rows += answer.json()["data"]
            if page >= answer.json()["meta"]["total_pages"]:
                return rows
        raise AssertionError("pages have an end")

    async def key(self, *permissions: str, **over: Any) -> dict[str, Any]:
        """A new API key; with every permission, unless some are named."""
        every = ["inference:read", "inference:write", "usage:read"]
        body = {"name": "journey", "permissions": list(permissions) or every, **over}
        made: dict[str, Any] = await self.data("POST", "/v1/api-keys", json=body)
        self.secrets.add(made["key"])
        return made

    async def balance(self) -> int:
        wallet = await self.data("GET", "/v1/wallet")
        return int(wallet["balance_nanos"])

    async def records(self) -> list[dict[str, Any]]:
        """His requests as they were charged, the newest first."""
        found: list[dict[str, Any]] = await self.data("GET", "/v1/usage/records?limit=100")
        return found

    async def record_of(self, request_id: str) -> dict[str, Any]:
        """The record of one request, once it is there."""

        async def find() -> dict[str, Any] | None:
            path = f"/v1/usage/records?request_id={request_id}"
            return next(iter(await self.data("GET", path)), None)

        return await eventually(find)

    async def spent(self, nanos: int) -> None:
        """Returns when the wallet has lost exactly so much; fails with what it has lost."""
        settled = GRANT - nanos

        async def so_much() -> bool:
            return await self.balance() == settled

        try:
            await eventually(so_much)
        except TimeoutError:
            assert await self.balance() == settled


@dataclass
class Platform:
    stack: RunningStack
    http: httpx.AsyncClient
    first: Upstream
    second: Upstream
    """Two providers; models that both serve are asked of the first."""
    secrets: set[str] = field(default_factory=set)
    """What no log may show."""

    async def sign_up(self, plan: str = "free") -> User:
        name = uuid4().hex
        form = {"email": f"{name}@example.com", "password": PASSWORD}
        asked = {**form, "full_name": "Ada", "tenant_name": "Engines"}
        made = await self.http.post("/v1/auth/register", json=asked)
        assert made.status_code == 201, made.text
        ids = made.json()["data"]
        if plan != "free":
            await self.move_to(plan, ids["tenant_id"])
        signed_in = await self.http.post("/v1/auth/login", json=form)
        assert signed_in.status_code == 200, signed_in.text
        tokens = signed_in.json()["data"]
        self.secrets |= {PASSWORD, tokens["access_token"], tokens["refresh_token"]}
        return User(
            self.http, form["email"], ids["user_id"], ids["tenant_id"], tokens, self.secrets
        )

    @asynccontextmanager
    async def sdk(self, api_key: str) -> AsyncIterator[openai.AsyncOpenAI]:
        """OpenAI's own client, as it comes."""
        url = f"{self.stack.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0) as client:
            yield client

    @asynccontextmanager
    async def on_each_gateway(self) -> AsyncIterator[list[httpx.AsyncClient]]:
        """A client for each gateway, with a connection that stays with it."""
        pids = self.stack.pids("gateway")
        found: dict[int, httpx.AsyncClient] = {}
        spare = []
        try:
            while len(found) < len(pids):
                client = httpx.AsyncClient(base_url=self.stack.url, timeout=30)
                pid = self._served_by(pids, await client.get("/v1/models"))
                spare.append(client)
                found.setdefault(pid, client)
            yield list(found.values())
        finally:
            for client in spare:
                await client.aclose()

    async def move_to(self, plan: str, tenant_id: str) -> None:
        statement = "UPDATE tenant SET plan = :plan WHERE id = :id RETURNING id"
        assert await self.sql("auth", statement, plan=plan, id=tenant_id)

    async def link_to(self, email: str, purpose: str) -> tuple[str, str]:
        """Path of the page and token of the newest link of that kind that was sent to `email`."""

        async def arrived() -> tuple[str, str] | None:
            for file in sorted((self.stack.var / "mails").glob("*.eml"), reverse=True):
                mail = message_from_bytes(file.read_bytes(), policy=policy.default)
                written = mail.get_body(("plain",))
                assert written is not None
                found = re.search(
                    rf"{self.stack.url}(/account/{purpose})#token=(\S+)", written.get_content()
                )
                if mail["To"] == email and found is not None:
                    return found[1], found[2]
            return None

        path, token = await eventually(arrived)
        self.secrets.add(token)
        return path, token

    async def sql(self, database: str, statement: str, **values: Any) -> Sequence[Any]:
        """What a service's database answers to a statement, as only who runs it can ask."""
        db = Database(self.database_url(database))
        try:
            async with db.begin() as tx:
                answer = await tx.execute(text(statement), values)
                return answer.all() if answer.returns_rows else ()
        finally:
            await db.close()

    def database_url(self, name: str) -> str:
        password = json.loads((self.stack.var / "secrets.json").read_text())["databases"][name]
        address = self.stack.access["parts"]["postgres"][0]["tcp"]
        return f"postgresql://{name}:{password}@{address}/{name}"

    async def audit(self) -> dict[str, Any]:
        """What the ledger says of itself."""
        audit: dict[str, Any] = await self.as_operator("/v1/operator/ledger-audit")
        return audit

    async def as_operator(self, path: str, method: str = "GET", **options: Any) -> Any:
        """What the administrator is told there."""
        access = self.stack.access
        form = {"email": access["admin_email"], "password": access["admin_password"]}
        signed_in = (await self.http.post("/v1/auth/login", json=form)).json()["data"]
        headers = {"Authorization": f"Bearer {signed_in['access_token']}"}
        answer = await self.http.request(method, path, headers=headers, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def produced(self, request_id: str) -> dict[str, Any]:
        """What the worker's engine produced for a request, by the worker's own count."""
        address = self.stack.access["parts"]["worker"][0]["http"]

        async def ended() -> dict[str, Any] | None:
            answer = await self.http.get(f"http://{address}/v1/requests/{request_id}")
            told: dict[str, Any] = answer.json()
            return told if told["outcome"] != "running" else None

        return await eventually(ended)

    def logs(self) -> str:
        folders = (self.stack.var / "logs", *self.stack.var.glob("worker-*/logs"))
        files = (file for folder in folders for file in folder.iterdir())
        return "\n".join(file.read_text(errors="replace") for file in files)

    @staticmethod
    def _served_by(pids: list[int], answer: httpx.Response) -> int:
        """Which of the processes has the other end of the answer's connection."""
        _, port = answer.extensions["network_stream"].get_extra_info("client_addr")
        for pid in pids:
            for connection in psutil.Process(pid).net_connections("tcp4"):
                if connection.raddr and connection.raddr.port == port:
                    return pid
        raise AssertionError(f"no gateway has the connection from port {port}")


async def eventually(look: Callable[[], Awaitable[T | None]], seconds: float = 15.0) -> T:
    """The first answer of `look` that is something; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.02)
        return found


def chat(model: str, **over: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **over}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
