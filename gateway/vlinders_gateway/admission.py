"""Who comes in: rate, credential and policy, in the order that the contracts give them."""

import contextlib
from collections.abc import Mapping

from google.protobuf.message import Message

from vlinders.api.v1.caller_pb2 import Caller
from vlinders_gateway.exchange import Exchange, Quota
from vlinders_gateway.identity import Identities
from vlinders_gateway.limits import Limits, network_of
from vlinders_gateway.operations import Operation
from vlinders_gateway.principals import Principal, anonymous
from vlinders_gateway.rates import MINUTE, Rate, Rates
from vlinders_gateway.refusals import IdentityUnavailable, InvalidCredential, RateLimited
from vlinders_kit.errors import PermissionDenied, Unauthenticated
from vlinders_kit.policies import require


class Admission:
    """The door of every operation, hot or not. `rates` are by name of the dialect."""

    def __init__(self, identities: Identities, limits: Limits, rates: Mapping[str, Rates]) -> None:
        self._identities = identities
        self._limits = limits
        self._rates = rates

    async def admit(self, exchange: Exchange, operation: Operation) -> Principal:
        """Who makes this request, having been counted and found permitted.

        For a known caller with room left it does not wait for anything. Sets the exchange's `quota`
        and `caller`. Raises RateLimited, what `Identities.resolve` raises, and NotPermitted.
        """
        if operation.public:
            return await self._welcome(exchange, operation)
        principal = await self._identify(exchange)
        calls = self._rates[exchange.dialect.name].calls
        if calls.limit and operation.piped:
            await self._count(exchange, f"{principal.bucket}:calls", calls)
        return _permitted(principal, operation)

    def at_once(self, exchange: Exchange, operation: Operation) -> Principal | None:
        """As `admit`, where nobody has to be asked; else None, and nothing has been counted."""
        dialect = exchange.dialect.name
        principal = self._identities.known(exchange.authorization, dialect)
        rates = self._rates[dialect]
        if principal is None or operation.public or rates.calls.limit:
            return None
        rate = rates.of(principal.plan, principal.own_rate)
        if rate.limit:
            quota = self._limits.at_once(principal.bucket, rate)
            if quota is None:
                return None
            exchange.caller = principal.caller
            _apply(exchange, quota, rate)
        exchange.caller = principal.caller
        return _permitted(principal, operation)

    async def count(self, exchange: Exchange) -> None:
        """Counts a request that is for no operation. Raises RateLimited."""
        with contextlib.suppress(Unauthenticated, PermissionDenied):  # counted under its address
            await self._identify(exchange)

    def heed(self, operation: Operation, request: Message, answer: Message, by: Caller) -> None:
        """Takes note that `operation` has succeeded: it may have changed somebody's admission."""
        self._identities.heed(operation.name, request, answer, by)

    async def _welcome(self, exchange: Exchange, operation: Operation) -> Principal:
        """Whoever asks for what is public: somebody known is counted under his own name.

        What he writes is counted under his address all the same, so that nobody who has accounts
        can try passwords, or make more accounts, by as many.
        """
        if operation.writes:
            await self._count_address(exchange, writes=True)
            return anonymous(exchange.dialect.name)
        try:
            return await self._identify(exchange)
        except (Unauthenticated, PermissionDenied):  # counted under its address
            pass
        except IdentityUnavailable:
            await self._count_address(exchange)
        return anonymous(exchange.dialect.name)

    async def _identify(self, exchange: Exchange) -> Principal:
        dialect = exchange.dialect.name
        principal = self._identities.known(exchange.authorization, dialect)
        if principal is None:
            principal = await self._meet(exchange)
        exchange.caller = principal.caller
        rate = self._rates[dialect].of(principal.plan, principal.own_rate)
        await self._count(exchange, principal.bucket, rate)
        return principal

    async def _meet(self, exchange: Exchange) -> Principal:
        """A principal that is not known yet; who guesses credentials is soon not asked about."""
        guess = self._identities.is_guess(exchange.authorization)
        if guess and self._limits.closed(_guesses(exchange)):
            await self._count_guess(exchange)
        try:
            return await self._identities.resolve(exchange.authorization, exchange.dialect.name)
        except (Unauthenticated, PermissionDenied) as error:
            if guess and isinstance(error, InvalidCredential):
                await self._count_guess(exchange)
            await self._count_address(exchange)
            raise

    async def _count_guess(self, exchange: Exchange) -> None:
        """In a bucket of its own: that a neighbour of the same address has used up what is
        anonymous, perhaps for an hour, is no reason not to ask about a key.
        """
        rate = Rate(self._rates[exchange.dialect.name].anonymous.limit, MINUTE)
        await self._count(exchange, _guesses(exchange), rate)

    async def _count_address(self, exchange: Exchange, *, writes: bool = False) -> None:
        rates = self._rates[exchange.dialect.name]
        name, rate = _stranger(exchange), rates.anonymous
        if writes and rates.writes is not None:
            name, rate = f"{name}:writes", rates.writes
        await self._count(exchange, name, rate)

    async def _count(self, exchange: Exchange, name: str, rate: Rate) -> None:
        if rate.limit:
            _apply(exchange, await self._limits.take(name, rate), rate)


def _permitted(principal: Principal, operation: Operation) -> Principal:
    """The principal. Raises NotPermitted."""
    if operation.name not in principal.permitted:
        require(operation.policy, principal.caller)
        principal.permitted.add(operation.name)
    return principal


def _stranger(exchange: Exchange) -> str:
    return f"{exchange.dialect.name}:{network_of(exchange.address)}"


def _guesses(exchange: Exchange) -> str:
    return f"{_stranger(exchange)}:guesses"


def _apply(exchange: Exchange, quota: Quota, rate: Rate) -> None:
    exchange.quota = quota
    if quota.wait:
        window = int(rate.window)
        raise RateLimited(limit=rate.limit, window_seconds=window, wait_seconds=quota.wait)
