"""For tests: a gateway on a real socket, before services that answer by script."""

import asyncio
import functools
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import httpx
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from joserfc import jwt
from joserfc.jwk import RSAKey

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.identity_pb2 import IntrospectRequest, IntrospectResponse
from vlinders.auth.v1.sessions_pb2 import KeySet
from vlinders_gateway import account_pages, documents, routes, tokens
from vlinders_gateway.admission import Admission
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.edge import Edge, Rules
from vlinders_gateway.identity import Identities
from vlinders_gateway.limits import Limits
from vlinders_gateway.open_connections import OpenConnections
from vlinders_gateway.operations import operations
from vlinders_gateway.rates import UNLIMITED, Rate, Rates, slowest
from vlinders_gateway.server import PublicServer, listen
from vlinders_gateway.shared_log import SharedLog
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import api_keys
from vlinders_kit.callers import Identity, caller
from vlinders_kit.clock import Clock
from vlinders_kit.errors import Unauthenticated
from vlinders_kit.ids import new_id
from vlinders_kit.testing import CALLER_KEY, Served, a_user, an_api_key, served

_IDENTITY = "vlinders.auth.v1.IdentityService"

_PATIENCE = 60.0
"""Seconds for each answer: nothing here is away, and the machine may be busy."""

PLANS = {"free": Rate(10), "pro": Rate(100), "enterprise": Rate(1000), "operator": UNLIMITED}
_BY_PLAN = Rates(slowest(PLANS), anonymous=Rate(100), plans=PLANS, writes=Rate(30))
RATES = {dialect.name: _BY_PLAN for dialect in DIALECTS}
NO_RATES = {dialect.name: Rates(UNLIMITED, anonymous=UNLIMITED) for dialect in DIALECTS}


class CredentialNotFound(Unauthenticated):
    """There is no such credential."""


@dataclass
class Script:
    """What the services answer, and what they were asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    """Name of an RPC → the message that it answers, what it raises, or its body."""

    asked: list[tuple[str, Message, Caller]] = field(default_factory=list)
    credentials: dict[bytes | str, IntrospectResponse | Exception] = field(default_factory=dict)
    """SHA-256 of a key, or id of a session → what auth says of it."""

    def requests(self, name: str) -> list[Any]:
        return [request for asked, request, _ in self.asked if asked == name]

    def key(self, **over: Any) -> str:
        """A new API key that auth knows, of a tenant without limits unless told otherwise."""
        return self.admit(an_api_key(**{"plan": "operator", **over}))

    def user_key(self, **over: Any) -> str:
        """A key that stands for a signed-in user, which spares a test its token."""
        return self.admit(a_user(**{"plan": "operator", **over}))

    def admit(self, who: Caller, **more: Any) -> str:
        key = api_keys.new()
        self.credentials[api_keys.digest(key)] = IntrospectResponse(caller=who, **more)
        return key

    async def introspect(self, request: IntrospectRequest) -> IntrospectResponse:
        known = self.credentials.get(request.api_key_sha256 or request.session_id)
        if known is None:
            raise CredentialNotFound
        if isinstance(known, Exception):
            raise known
        return known


@dataclass
class Running:
    """A gateway that runs."""

    url: str
    port: int
    http: httpx.AsyncClient
    script: Script
    identities: Identities
    limits: Limits
    edge: Edge
    connections: OpenConnections


@asynccontextmanager
async def services(script: Script) -> AsyncIterator[dict[str, Served]]:
    """Every service that the gateway calls, on real channels, answering as `script` says."""
    names: defaultdict[str, set[str]] = defaultdict(set, {"vlinders.auth": {_IDENTITY}})
    for operation in operations():
        names[operation.domain].add(operation.path.split("/")[1])
    async with AsyncExitStack() as stack:
        running = {}
        for domain, services in names.items():
            rows = [_scripted(service, script) for service in sorted(services)]
            running[domain] = await stack.enter_async_context(served(domain, *rows))
        yield running


@asynccontextmanager
async def gateway(
    script: Script,
    valkey: str,
    *,
    rules: Rules = Rules(trusted=("127.0.0.0/8",), origins=("http://localhost:*",)),  # noqa: B008
    bodies: BodyLimits | None = None,
    rates: Mapping[str, Rates] = RATES,
    clock: Clock | None = None,
    connections: OpenConnections | None = None,
) -> AsyncIterator[Running]:
    async with services(script) as parts, AsyncExitStack() as stack:
        me = Identity("gateway", CALLER_KEY)
        channels = {domain: part.channel() for domain, part in parts.items()}
        auth = channels["vlinders.auth"]
        verifier = Tokens(Keys(auth, patience=_PATIENCE), issuer="vlinders", audience="vlinders")
        identities = Identities(auth, verifier, clock=clock, patience=_PATIENCE)
        shared = SharedLog(valkey, patience=_PATIENCE)
        stack.push_async_callback(shared.close)
        limits = Limits(shared)
        admission = Admission(identities, limits, rates)
        app = routes.assemble(admission, channels, me, deadline=5)
        documents.add_to(app, ready=lambda: True)
        account_pages.add_to(app)
        edge = Edge(routes.behind(app), rules, bodies or BodyLimits())
        listener = listen("127.0.0.1", 0, shared=False)
        port = listener.getsockname()[1]
        connections = connections or OpenConnections(1000, 0)
        server = PublicServer(edge, listener, timedelta(seconds=2), connections)
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(limits.run())
            serving = group.create_task(server.run())
            await server.up.wait()
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http:
                yield Running(url, port, http, script, identities, limits, edge, connections)
            server.end()
            await serving
            beside.cancel()


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def _scripted(full_name: str, script: Script) -> Any:
    """Full name, adder and servicer of a service whose RPCs answer as `script` says."""
    service = descriptor_pool.Default().FindServiceByName(full_name)
    handlers = {}
    for method in service.methods:
        if method.client_streaming or method.server_streaming:
            continue
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            _answering(method.name, script),
            GetMessageClass(method.input_type).FromString,
            GetMessageClass(method.output_type).SerializeToString,
        )
    generic = grpc.method_handlers_generic_handler(full_name, handlers)
    return full_name, lambda _, server: server.add_generic_rpc_handlers((generic,)), None


def _answering(name: str, script: Script) -> Any:
    async def answer(request: Any, context: Any) -> Message:
        script.asked.append((name, request, caller()))
        if name == "Introspect":
            return await script.introspect(request)
        told = script.answers[name]
        if isinstance(told, Exception):
            raise told
        found: Message = await told(request, context) if callable(told) else told
        return found

    return answer


@dataclass(frozen=True)
class TokenKeys:
    """Auth's signing key, for tests that need access tokens."""

    key: RSAKey
    kid: str = "k1"

    def sign(self, who: Caller, **over: Any) -> str:
        """An access token as auth issues them."""
        now = int(time.time())
        claims = {
            "iss": "vlinders",
            "aud": "vlinders",
            "sub": who.account_id,
            "sid": who.session_id,
            "tid": who.tenant_id,
            "iat": now,
            "exp": now + 900,
            "jti": new_id("jti"),
        }
        header = {"alg": tokens.ALGORITHM, "typ": tokens.TYPE, "kid": self.kid}
        return jwt.encode(header, claims | over, self.key)

    def rotate(self, script: Script, *, keep: bool = True) -> "TokenKeys":
        """A new key that auth signs with from now on; with `keep` it still tells the old one."""
        new = TokenKeys(RSAKey.generate_key(2048), "k2")
        told = [self, new] if keep else [new]
        script.answers["GetKeySet"] = KeySet(keys=[keys.public() for keys in told])
        return new

    def public(self) -> KeySet.Key:
        told = self.key.as_dict(private=False)
        return KeySet.Key(
            kty="RSA", kid=self.kid, use="sig", alg="RS256", n=str(told["n"]), e=str(told["e"])
        )


def token_keys(script: Script) -> TokenKeys:
    """The keys of the run, which auth then tells."""
    keys = _token_keys()
    script.answers.setdefault("GetKeySet", KeySet(keys=[keys.public()]))
    return keys


@functools.cache
def _token_keys() -> TokenKeys:
    return TokenKeys(RSAKey.generate_key(2048))


async def spoken(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back for `pieces`, until the gateway closes or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await answer_on(reader)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def answer_on(reader: asyncio.StreamReader) -> bytes:
    """The next answer that comes, head and body; what has come when the connection ends."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await reader.read(65536)
        if not piece:
            return head
        head += piece
    length = re.search(rb"content-length: (\d+)", head)
    while length and len(head.partition(b"\r\n\r\n")[2]) < int(length[1]):
        piece = await reader.read(65536)
        if not piece:
            return head
        head += piece
    return head


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def assert_refused(answer: Any, status: int, code: str) -> None:
    """The documented envelope, whatever was refused and wherever."""
    if isinstance(answer, bytes):
        assert status_of(answer) == status
        head, _, body = answer.partition(b"\r\n\r\n")
        told, request_id = json.loads(body), re.search(rb"x-request-id: (\S+)", head)
        assert request_id is not None
        assert told["meta"]["request_id"] == request_id[1].decode()
    else:
        assert answer.status_code == status
        told = answer.json()
        assert told["meta"]["request_id"] == answer.headers["x-request-id"]
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    assert set(told) == {"error", "meta"}
