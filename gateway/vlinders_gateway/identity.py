"""Credential → caller: asked of auth once, believed for a minute, forgotten when auth says so."""

import asyncio
import hashlib
import random
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import events_pb2 as events
from vlinders.auth.v1.identity_pb2 import (
    IntrospectRequest,
    IntrospectResponse,
    ReportKeyUseRequest,
)
from vlinders.auth.v1.identity_pb2_grpc import IdentityServiceStub
from vlinders_gateway import tokens
from vlinders_gateway.refusals import AccountDisabled, IdentityUnavailable, InvalidCredential
from vlinders_gateway.tokens import PATIENCE, Tokens
from vlinders_kit import api_keys, logs
from vlinders_kit.clock import Clock, SystemClock
from vlinders_kit.errors import AppError, failure_of
from vlinders_kit.policies import CredentialRequired

LIFETIME = 60.0
"""Seconds that an answer of auth is believed at most: how long a revocation may go unnoticed while
the bus is down, and how long known credentials work while auth is."""

_REFUSED_LIFETIME = 10.0
_MOST_KNOWN = 100_000
_MOST_REFUSED = 10_000
_AGAIN_SECONDS = (0.02, 0.1)
"""Bounds of the pause before auth is asked once more that could not be reached."""

_TRIES = 3
_REPORT_SECONDS = 3.0
_REPORT_MOST = 10_000

TOPICS = ("vlinders.auth",)

VOIDS: Mapping[str, tuple[type[Message], str]] = {
    kind.DESCRIPTOR.full_name: (kind, name)
    for kind, name in (
        (events.ApiKeyRevoked, "api_key_id"),
        (events.AccountDisabled, "account_id"),
        (events.RolesChanged, "account_id"),
        (events.SessionRevoked, "session_id"),
        (events.TenantPlanChanged, "tenant_id"),
    )
}
"""Events that make what is known void, and the field that says of whom."""

VOIDED_BY: Mapping[str, str] = {"RevokeApiKey": "api_key_id"}
"""Operations that void a credential, and the field that says which: whoever is told that his key is
revoked finds it so with his next request, before the event has come."""

log = logs.get(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Principal:
    """A caller as the edge keeps it, for as long as it is believed."""

    caller: Caller
    wire: bytes
    """The caller serialized, as PipeOpen carries it: without request id and client address."""

    bucket: str
    """What its requests are counted under: the API key, or the account with all its sessions."""

    permitted: set[str] = field(default_factory=set)
    """Names of operations that its policy was found to permit."""

    @staticmethod
    def of(caller: Caller) -> "Principal":
        return Principal(caller, caller.SerializeToString(), caller.api_key_id or caller.account_id)


ANONYMOUS = Principal.of(Caller(kind=Caller.KIND_ANONYMOUS))


@dataclass(frozen=True, slots=True)
class _Held:
    principal: Principal
    until: float
    ids: tuple[str, ...]


@dataclass(eq=False)
class _Flight:
    """A question to auth that is under way."""

    task: asyncio.Task[Principal] | None = None
    voided: set[str] = field(default_factory=set)
    """Ids whose voiding was told meanwhile: the answer may be of before."""


class Identities:
    """Who shows which credential. `run` reports the use of keys; `hear` takes auth's events."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        verifier: Tokens,
        *,
        clock: Clock | None = None,
        lifetime: float = LIFETIME,
        patience: float = PATIENCE,
    ) -> None:
        self._stub: Any = IdentityServiceStub(channel)  # type: ignore[no-untyped-call]
        self._tokens = verifier
        self._clock = clock or SystemClock()
        self._lifetime = lifetime
        self._patience = patience
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[AppError, float]] = OrderedDict()
        self._by_id: defaultdict[str, set[bytes]] = defaultdict(set)
        self._flights: dict[bytes, _Flight] = {}
        self._uses: dict[str, float] = {}

    def known(self, authorization: bytes | None) -> Principal | None:
        """The principal, where nobody has to be asked: a hash and a lookup. Else None."""
        if authorization is None:
            return None
        digest = _digest(authorization[7:])
        held = self._held.get(digest)
        if held is None or not _is_bearer(authorization):
            return None
        if held.until <= self._clock.monotonic():
            return None
        self._held.move_to_end(digest)
        return self._used(held.principal)

    def is_guess(self, authorization: bytes | None) -> bool:
        """Whether auth would be asked about a key that it has never called valid.

        Tokens are no guesses: without a genuine signature nobody is asked about them.
        """
        if authorization is None or not _is_bearer(authorization):
            return True
        token = authorization[7:]
        return not tokens.looks_like_one(token) and _digest(token) not in self._held

    async def resolve(self, authorization: bytes | None) -> Principal:
        """The principal of a credential.

        Raises CredentialRequired without one, InvalidCredential for what is none or is void,
        AccountDisabled, and IdentityUnavailable when auth has to be asked and does not answer.
        """
        found = self.known(authorization)
        if found is not None:
            return found
        token = _token(authorization)
        digest = _digest(token)
        refused = self._refused.get(digest)
        if refused is not None and refused[1] > self._clock.monotonic():
            raise refused[0]
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight()
            flight.task = asyncio.create_task(self._fly(digest, token, flight))
            flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert flight.task is not None
        return self._used(await asyncio.shield(flight.task))

    def hear(self, kind: str, body: bytes) -> None:
        """Takes an event of auth's topic; forgets at once what it makes void."""
        if kind not in VOIDS:
            return
        event, name = VOIDS[kind]
        self._void(getattr(event.FromString(body), name))

    def heed(self, operation: str, request: Any) -> None:
        """Takes note that `operation` has succeeded; forgets at once what it makes void."""
        if operation in VOIDED_BY:
            self._void(getattr(request, VOIDED_BY[operation]))

    def forget(self) -> None:
        """Forgets everybody: nobody can tell which events were missed."""
        self._held.clear()
        self._by_id.clear()

    async def run(self) -> None:
        """Reports which keys were used, for as long as it runs."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Tells auth which keys were used; what it does not take is told again later."""
        uses, self._uses = self._uses, {}
        rest = list(uses.items())
        while rest:
            part, rest = rest[:_REPORT_MOST], rest[_REPORT_MOST:]
            request = ReportKeyUseRequest()
            for key_id, at in part:
                request.uses.add(api_key_id=key_id).last_used_at.FromMilliseconds(int(at * 1000))
            try:
                await self._stub.ReportKeyUse(request)
            except grpc.aio.AioRpcError as error:
                log.warning("key_use_not_reported", keys=len(part), code=error.code().name)
                self._uses = dict([*part, *rest]) | self._uses
                return

    async def _fly(self, digest: bytes, token: bytes, flight: _Flight) -> Principal:
        try:
            for _ in range(_TRIES):
                flight.voided.clear()
                asked_at = self._clock.monotonic()
                answer, until = await self._ask(token, asked_at)
                caller = answer.caller
                ids = (caller.api_key_id, caller.session_id, caller.account_id, caller.tenant_id)
                principal = Principal.of(caller)
                if flight.voided.isdisjoint(ids):
                    self._keep(digest, _Held(principal, until, tuple(filter(None, ids))))
                    return principal
            return principal  # true when it was asked for, and not kept
        except (InvalidCredential, AccountDisabled) as error:
            self._drop(digest)
            self._refused[digest] = error, self._clock.monotonic() + _REFUSED_LIFETIME
            if len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
            raise
        finally:
            del self._flights[digest]

    async def _ask(self, token: bytes, asked_at: float) -> tuple[IntrospectResponse, float]:
        """Auth's answer, and until when on the monotonic clock it is believed."""
        until = asked_at + self._lifetime
        now = self._clock.now().timestamp()
        if token.startswith(api_keys.PREFIX.encode()):
            claims = None
            request = IntrospectRequest(api_key_sha256=_digest(token))
        else:
            claims = await self._tokens.verify(token)
            until = min(until, asked_at + claims.expires_at + tokens.LEEWAY - now)
            request = IntrospectRequest(session_id=claims.session_id)
        answer = await self._introspect(request)
        if claims is not None and answer.caller.account_id != claims.account_id:
            raise InvalidCredential
        if answer.HasField("expires_at"):
            until = min(until, asked_at + answer.expires_at.ToMilliseconds() / 1000 - now)
        if answer.HasField("cache_for"):
            until = min(until, asked_at + answer.cache_for.ToTimedelta().total_seconds())
        return answer, until

    async def _introspect(
        self, request: IntrospectRequest, *, again: bool = True
    ) -> IntrospectResponse:
        try:
            answer: IntrospectResponse = await self._stub.Introspect(
                request, timeout=self._patience
            )
        except grpc.aio.AioRpcError as error:
            if again and error.code() is grpc.StatusCode.UNAVAILABLE:
                # A connection that broke just then; another replica may have one that holds.
                await asyncio.sleep(random.uniform(*_AGAIN_SECONDS))
                return await self._introspect(request, again=False)
            reason = failure_of(error).reason
            if reason == "CREDENTIAL_NOT_FOUND":
                raise InvalidCredential from None
            if reason == "ACCOUNT_DISABLED":
                raise AccountDisabled from None
            log.warning("introspection_failed", code=error.code().name, reason=reason)
            raise IdentityUnavailable from None
        return answer

    def _void(self, id: str) -> None:
        for flight in self._flights.values():
            flight.voided.add(id)
        for digest in list(self._by_id.get(id, ())):
            self._drop(digest)

    def _keep(self, digest: bytes, held: _Held) -> None:
        self._drop(digest)
        self._held[digest] = held
        for id in held.ids:
            self._by_id[id].add(digest)
        if len(self._held) > _MOST_KNOWN:
            self._drop(next(iter(self._held)))

    def _drop(self, digest: bytes) -> None:
        held = self._held.pop(digest, None)
        for id in held.ids if held is not None else ():
            digests = self._by_id[id]
            digests.discard(digest)
            if not digests:
                del self._by_id[id]

    def _used(self, principal: Principal) -> Principal:
        if principal.caller.api_key_id:
            self._uses[principal.caller.api_key_id] = time.time()
        return principal


def _digest(token: bytes) -> bytes:
    """What a credential is known by here: all of it goes in, and it cannot be read out again."""
    return hashlib.sha256(token).digest()


def _is_bearer(authorization: bytes) -> bool:
    return authorization[:7] == b"Bearer " or authorization[:7].lower() == b"bearer "


def _token(authorization: bytes | None) -> bytes:
    """The token of a header; raises for what cannot be one, whatever auth would say."""
    if not authorization:
        raise CredentialRequired
    if not _is_bearer(authorization):
        raise InvalidCredential
    token = authorization[7:]
    if token.startswith(api_keys.PREFIX.encode()):
        if token.isascii() and api_keys.is_well_formed(token.decode("ascii")):
            return token
    elif tokens.looks_like_one(token):
        return token
    raise InvalidCredential
