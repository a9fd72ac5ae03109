"""Credential → caller: asked of auth once, believed for a while, forgotten when auth says so."""

import asyncio
import hashlib
import random
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.identity_pb2 import (
    IntrospectRequest,
    IntrospectResponse,
    ReportKeyUseRequest,
)
from vlinders.auth.v1.identity_pb2_grpc import IdentityServiceStub
from vlinders_gateway import tokens, voiding
from vlinders_gateway.principals import Principal
from vlinders_gateway.refusals import (
    AccountDisabled,
    ApiKeyExpired,
    IdentityUnavailable,
    InvalidCredential,
)
from vlinders_gateway.tokens import PATIENCE, Claims, Tokens
from vlinders_kit import api_keys, logs
from vlinders_kit.clock import Clock, SystemClock
from vlinders_kit.errors import AppError, failure_of
from vlinders_kit.policies import CredentialRequired

LIFETIME = 30.0
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

_REASONS: Mapping[str, type[AppError]] = {
    "CREDENTIAL_NOT_FOUND": InvalidCredential,
    "API_KEY_EXPIRED": ApiKeyExpired,
    "ACCOUNT_DISABLED": AccountDisabled,
}
"""Why auth refuses a credential, as it says and as clients are told."""

_KEY_PREFIXES = tuple(form.prefix.encode() for form in api_keys.FORMS)

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """What auth has said of a credential."""

    caller: Caller
    until: float
    ids: tuple[str, ...]
    principals: dict[str, Principal] = field(default_factory=dict)

    def principal(self, dialect: str) -> Principal:
        found = self.principals.get(dialect)
        if found is None:
            found = self.principals[dialect] = Principal.of(self.caller, dialect)
        return found


@dataclass(eq=False)
class _Flight:
    """A question to auth that is under way."""

    task: asyncio.Task[_Held] | None = None
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
        self._refused: OrderedDict[bytes, tuple[type[AppError], float]] = OrderedDict()
        self._by_id: defaultdict[str, set[bytes]] = defaultdict(set)
        self._flights: dict[bytes, _Flight] = {}
        self._uses: dict[str, float] = {}

    def known(self, authorization: bytes | None, dialect: str) -> Principal | None:
        """The principal, where nobody has to be asked: a hash and two lookups. Else None."""
        if authorization is None:
            return None
        digest = _digest(authorization[7:])
        held = self._held.get(digest)
        if held is None or not _is_bearer(authorization):
            return None
        if held.until <= self._clock.monotonic():
            return None
        self._held.move_to_end(digest)
        return self._used(held.principals.get(dialect) or held.principal(dialect))

    def is_guess(self, authorization: bytes | None) -> bool:
        """Whether auth would be asked about a key that it has never called valid.

        Tokens are no guesses: without a genuine signature nobody is asked about them.
        """
        if authorization is None or not _is_bearer(authorization):
            return False
        token = authorization[7:]
        return token.startswith(_KEY_PREFIXES) and _digest(token) not in self._held

    async def resolve(self, authorization: bytes | None, dialect: str) -> Principal:
        """The principal of a credential, in the dialect in which it is shown.

        Raises CredentialRequired without one, InvalidCredential for what is none or is void,
        TokenExpired, ApiKeyExpired, AccountDisabled, and IdentityUnavailable when auth has to be
        asked and does not answer.
        """
        found = self.known(authorization, dialect)
        if found is not None:
            return found
        token = _token(authorization)
        digest = _digest(token)
        refused = self._refused.get(digest)
        if refused is not None and refused[1] > self._clock.monotonic():
            raise refused[0]
        is_key = token.startswith(_KEY_PREFIXES)
        claims = None if is_key else await self._tokens.verify(token)
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight()
            flight.task = asyncio.create_task(self._fly(digest, claims, flight))
            flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert flight.task is not None
        return self._used((await asyncio.shield(flight.task)).principal(dialect))

    def hear(self, kind: str, body: bytes) -> None:
        """Takes an event of auth's topic; forgets at once what is no longer so."""
        if kind not in voiding.BY_EVENT:
            return
        event, name = voiding.BY_EVENT[kind]
        self._void(getattr(event.FromString(body), name), pardons=kind in voiding.PARDONS)

    def heed(self, operation: str, request: Any, answer: Any, caller: Caller) -> None:
        """Takes note that `operation` has succeeded; forgets at once what is no longer so."""
        if operation not in voiding.BY_OPERATION:
            return
        place, name = voiding.BY_OPERATION[operation]
        told = {"request": request, "answer": answer, "caller": caller}[place]
        self._void(getattr(told, name), pardons=operation in voiding.PARDONS)

    def forget(self) -> None:
        """Forgets everybody: nobody can tell which events were missed."""
        self._held.clear()
        self._by_id.clear()
        self._refused.clear()

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

    async def _fly(self, digest: bytes, claims: Claims | None, flight: _Flight) -> _Held:
        try:
            for _ in range(_TRIES):
                flight.voided.clear()
                held = await self._ask(digest, claims)
                if flight.voided.isdisjoint(held.ids):
                    self._keep(digest, held)
                    break
            return held  # true when it was asked for, and not always kept
        except (InvalidCredential, ApiKeyExpired, AccountDisabled) as error:
            self._drop(digest)
            if not flight.voided:
                self._refuse(digest, type(error))
            raise
        finally:
            del self._flights[digest]

    async def _ask(self, digest: bytes, claims: Claims | None) -> _Held:
        """What auth says of an API key, or of the session of a token that says `claims`."""
        asked_at = self._clock.monotonic()
        until = asked_at + self._lifetime
        now = self._clock.now().timestamp()
        if claims is None:
            answer = await self._introspect(IntrospectRequest(api_key_sha256=digest))
        else:
            answer = await self._introspect(IntrospectRequest(session_id=claims.session_id))
            until = min(until, asked_at + claims.expires_at + tokens.LEEWAY - now)
            if answer.caller.account_id != claims.account_id:
                raise InvalidCredential
        if answer.HasField("expires_at"):
            until = min(until, asked_at + answer.expires_at.ToMilliseconds() / 1000 - now)
        if answer.HasField("cache_for"):
            until = min(until, asked_at + answer.cache_for.ToTimedelta().total_seconds())
        caller = answer.caller
        ids = (caller.api_key_id, caller.session_id, caller.account_id, caller.tenant_id)
        return _Held(caller, until, tuple(filter(None, ids)))

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
            if reason in _REASONS:
                raise _REASONS[reason] from None
            log.warning("introspection_failed", code=error.code().name, reason=reason)
            raise IdentityUnavailable from None
        return answer

    def _refuse(self, digest: bytes, error: type[AppError]) -> None:
        """Remembers what auth has said, for a while."""
        self._refused[digest] = error, self._clock.monotonic() + _REFUSED_LIFETIME
        if len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

    def _void(self, id: str, *, pardons: bool) -> None:
        for flight in self._flights.values():
            flight.voided.add(id)
        for digest in list(self._by_id.get(id, ())):
            self._drop(digest)
        if pardons:  # auth did not say whose these are; there are few, and they are asked again
            for digest, (error, _) in list(self._refused.items()):
                if error is AccountDisabled:
                    del self._refused[digest]

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
        if principal.api_key_id:
            self._uses[principal.api_key_id] = time.time()
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
    if token.startswith(_KEY_PREFIXES):
        if token.isascii() and api_keys.is_well_formed(token.decode("ascii")):
            return token
    elif tokens.looks_like_one(token):
        return token
    raise InvalidCredential
