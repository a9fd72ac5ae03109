"""Who may do what: docs/security.md, the contracts, every RPC and every address agree."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders_gateway import streams
from vlinders_gateway.admission import Admission
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.testing import NO_RATES, Running, Script, bearer, gateway, token_keys
from vlinders_kit import api_keys
from vlinders_kit.errors import NotFound, PermissionDenied
from vlinders_kit.pipe import PipePool
from vlinders_kit.testing import CALLER_KEY, Served, a_part, a_user, an_api_key, served

from .test_proto import RPCS

pytestmark = pytest.mark.anyio

TABLE = Path(__file__).parents[1] / "docs" / "security.md"
ROW = re.compile(r"\| `([\w.]+)` \| ([\w, -]*) \| (\w*) \| (.*?) \|")

ROLES = {"": 0, "viewer": 1, "developer": 2, "admin": 3, "owner": 4, "operator": 5}
PARTS = ("gateway", "inference", "billing", "auth", "gpu-scheduler", "worker")


class Reached(NotFound):
    """The call has passed everything that stands before its handler."""


class AccountDisabled(PermissionDenied):
    """As auth tells it."""


@dataclass(frozen=True)
class Row:
    """What docs/security.md says of one RPC."""

    who: str
    role: str
    scope: str
    """Empty: no key."""

    def admits(self, who: Caller) -> grpc.StatusCode | None:
        """None, or how the caller is turned away. Written apart from the code that decides it."""
        if self.who in ("anybody", "workers"):  # a worker shows its join token to the RPC itself
            return None
        if self.who != "signed in":
            known = who.kind == Caller.KIND_SERVICE and who.service in self.who.split(", ")
            return None if known else grpc.StatusCode.PERMISSION_DENIED
        if who.kind not in (Caller.KIND_USER, Caller.KIND_API_KEY):
            return grpc.StatusCode.UNAUTHENTICATED
        verb = self.scope.rpartition(":")[2]
        keyed = bool(self.scope) and {self.scope, f"all:{verb}"} & set(who.scopes)
        able = max(who.roles, default=0) >= ROLES[self.role]
        if able and (who.kind == Caller.KIND_USER or keyed):
            return None
        return grpc.StatusCode.PERMISSION_DENIED


def table() -> dict[str, Row]:
    """RPC, as `auth.SessionService.Login` → its row."""
    rows = ROW.findall(TABLE.read_text())
    return {name: Row(who, role, re.sub("`|no key", "", key)) for name, who, role, key in rows}


def name_of(method: Any) -> str:
    return str(method.full_name).removeprefix("vlinders.").replace(".v1.", ".", 1)


CALLERS = {
    "nobody": Caller(kind=Caller.KIND_ANONYMOUS),
    "unspecified": Caller(account_id="user_1", roles=[api.ROLE_OPERATOR]),
    "viewer": a_user(roles=[api.ROLE_VIEWER]),
    "developer": a_user(roles=[api.ROLE_DEVELOPER]),
    "admin": a_user(roles=[api.ROLE_ADMIN]),
    "owner": a_user(roles=[api.ROLE_OWNER, api.ROLE_DEVELOPER]),
    "operator": a_user(roles=[api.ROLE_OPERATOR]),
    "key without permissions": an_api_key(scopes=[]),
    "key that reads": an_api_key(scopes=["inference:read"]),
    "key that infers": an_api_key(scopes=["inference:read", "inference:write"]),
    "key that reads usage": an_api_key(scopes=["usage:read"]),
    "key that reads all": an_api_key(scopes=["all:read"]),
    "key that writes all": an_api_key(scopes=["all:write"]),
    "operator's key": an_api_key(scopes=["all:read", "all:write"], roles=[api.ROLE_OPERATOR]),
    **{part: a_part(part) for part in PARTS},
}


def test_the_table_is_what_the_contracts_declare() -> None:
    accesses = {api.ACCESS_PUBLIC: "anybody", api.ACCESS_CALLER: "signed in"}
    declared = {}
    for _, _, method in RPCS:
        policy: api.Policy = method.GetOptions().Extensions[api.policy]
        who = accesses.get(policy.access) or ", ".join(policy.services) or "workers"
        role = next(role for role, rank in ROLES.items() if rank == policy.role)
        declared[name_of(method)] = Row(who, role, policy.scope)
    assert declared == table()


async def test_every_rpc_admits_exactly_whom_the_table_names(servers: dict[str, Served]) -> None:
    rows, wrong = table(), []
    for who, caller in CALLERS.items():
        channels = {domain: server.channel(caller) for domain, server in servers.items()}
        for _, _, method in RPCS:
            domain = method.containing_service.file.package.removesuffix(".v1")
            told = await outcome(channels[domain], method)
            if told is not rows[name_of(method)].admits(caller):
                wrong.append(f"{who}: {name_of(method)}: {told}")
    assert wrong == []


async def test_no_rpc_but_a_workers_admits_a_call_that_nobody_has_signed(
    servers: dict[str, Served],
) -> None:
    rows, wrong = table(), []
    for domain, server in servers.items():
        async with grpc.aio.insecure_channel(server.address) as channel:
            for _, _, method in RPCS:
                if method.containing_service.file.package.removesuffix(".v1") == domain:
                    open_to_all = rows[name_of(method)].who == "workers"
                    meant = None if open_to_all else grpc.StatusCode.UNAUTHENTICATED
                    told = await outcome(channel, method)
                    if told is not meant:
                        wrong.append(f"{name_of(method)}: {told}")
    assert wrong == []


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_every_address_admits_exactly_whom_the_table_names(
    running: Running, dialect: Any
) -> None:
    credentials = principals(running.script)
    rows, wrong = table(), []
    for operation, verb, path in dialect.places():
        row = rows[name_of(operation.descriptor)]
        url = dialect.mounts[0] + re.sub(r"{\w+}", "1", path)
        running.script.answers[operation.name] = Reached()
        for who, (credential, caller) in credentials.items():
            headers = bearer(credential) if credential else {}
            body = {"json": {}} if verb != "GET" and verb != "DELETE" else {}
            answer = await running.http.request(verb, url, headers=headers, **body)
            if answer.status_code not in expected(
                row, dialect, operation, caller, shown=bool(credential)
            ):
                wrong.append(f"{who}: {verb} {url}: {answer.status_code}")
    assert wrong == []


def expected(
    row: Row, dialect: Any, operation: Any, caller: Caller | None, *, shown: bool
) -> set[int]:
    """HTTP statuses that the table allows; a caller that is None has no valid credential."""
    beyond = {400, 402, 404, 409, 422, 429, 503}  # what came of it, once let in
    if operation.name in dialect.credentials:  # what it is about is shown where others sign in
        return beyond if shown else {401}
    if row.who == "anybody":
        return beyond | {200, 302}
    if caller is None:
        return {401}
    if caller.account_id == DISABLED:
        return {403}
    return beyond if row.admits(caller) is None else {403}


DISABLED = "user_disabled"


def principals(script: Script) -> dict[str, tuple[str, Caller | None]]:
    """Who → the credential that he shows, and whom it stands for; None where for nobody."""
    signing = token_keys(script)
    owner, gone, disabled = a_user(plan="operator"), a_user(), a_user(account_id=DISABLED)
    script.credentials[owner.session_id] = IntrospectResponse(caller=owner)
    script.credentials[disabled.session_id] = AccountDisabled()
    found: dict[str, tuple[str, Caller | None]] = {
        "nobody": ("", None),
        "expired": (signing.sign(owner, exp=1), None),
        "forged": (signing.sign(owner)[:-8] + "AAAAAAAA", None),
        "revoked session": (signing.sign(gone), None),
        "revoked key": (api_keys.new(), None),
        "a worker's token": ("vlinders_join_0123456789", None),
        "a part's name": ("gateway", None),
        "disabled": (signing.sign(disabled), disabled),
        "owner by token": (signing.sign(owner), owner),
    }
    for who, caller in CALLERS.items():
        if caller.kind in (Caller.KIND_USER, Caller.KIND_API_KEY):
            free = Caller()
            free.CopyFrom(caller)
            free.plan = "operator"  # without limits
            found[who] = script.admit(free), free
    return found


@pytest.fixture
async def servers() -> AsyncIterator[dict[str, Served]]:
    """Every service, with handlers that say that they were reached."""
    async with AsyncExitStack() as stack:
        found = {}
        for domain in sorted({file.package.removesuffix(".v1") for file, _, _ in RPCS}):
            services = {
                service: [method for _, name, method in RPCS if name == service]
                for file, service, _ in RPCS
                if file.package.removesuffix(".v1") == domain
            }
            rows = [_reached(service, methods) for service, methods in services.items()]
            found[domain] = await stack.enter_async_context(served(domain, *rows, key=CALLER_KEY))
        yield found


@pytest.fixture
async def running(valkey: str) -> AsyncIterator[Running]:
    async with gateway(Script(), valkey, rates=NO_RATES) as made:
        admission = Admission(made.identities, made.limits, NO_RATES)
        streams.serve_on(made.edge, admission, PipePool((), _nowhere), deadline=10)
        yield made


async def _nowhere(target: str, talker: Any) -> Any:
    raise ConnectionRefusedError


def _reached(service: str, methods: list[Any]) -> Any:
    async def unary(request: Any, context: Any) -> Any:
        raise Reached

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        raise Reached
        yield

    def handler(method: Any) -> Any:
        asks = "stream" if method.client_streaming else "unary"
        tells = "stream" if method.server_streaming else "unary"
        kind = getattr(grpc, f"{asks}_{tells}_rpc_method_handler")
        return kind(stream if method.server_streaming else unary, bytes, bytes)

    handlers = {method.name: handler(method) for method in methods}
    generic = grpc.method_handlers_generic_handler(service, handlers)
    return service, lambda _, server: server.add_generic_rpc_handlers((generic,)), None


async def outcome(channel: grpc.aio.Channel, method: Any) -> grpc.StatusCode | None:
    """None where the call got through to the handler, else how it was turned away."""
    asks = "stream" if method.client_streaming else "unary"
    tells = "stream" if method.server_streaming else "unary"
    path = f"/{method.containing_service.full_name}/{method.name}"
    rpc: Any = getattr(channel, f"{asks}_{tells}")(path, bytes, bytes)
    call = rpc(iter(()) if method.client_streaming else b"", timeout=10)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return None if error.code() is grpc.StatusCode.NOT_FOUND else error.code()
    return None
