"""Who comes in: rate, credential and policy, in the order that the contracts give them."""

import contextlib

from google.protobuf.message import Message

from vlinders_gateway.exchange import Exchange, Quota
from vlinders_gateway.identity import ANONYMOUS, Identities, Principal
from vlinders_gateway.limits import Limits, Rates, network_of
from vlinders_gateway.operations import Operation
from vlinders_gateway.refusals import RateLimited
from vlinders_kit.errors import PermissionDenied, Unauthenticated
from vlinders_kit.policies import require


class Admission:
    """The door of every operation, hot or not."""

    def __init__(self, identities: Identities, limits: Limits, rates: Rates) -> None:
        self._identities = identities
        self._limits = limits
        self._rates = rates

    async def admit(self, exchange: Exchange, operation: Operation) -> Principal:
        """Who makes this request, having been counted and found permitted.

        For a known caller with room left it does not wait for anything. Sets the exchange's `quota`
        and `caller`. Raises RateLimited, what `Identities.resolve` raises, and NotPermitted.
        """
        if operation.public:
            await self._count_address(exchange, writes=operation.writes)
            return ANONYMOUS
        return _permitted(await self._identify(exchange), operation)

    def at_once(self, exchange: Exchange, operation: Operation) -> Principal | None:
        """As `admit`, where nobody has to be asked; else None, and nothing has been counted."""
        principal = self._identities.known(exchange.authorization)
        if principal is None or operation.public:
            return None
        limit = self._rates.of_plan(principal.caller.plan)
        if limit:
            quota = self._limits.at_once(principal.bucket, limit)
            if quota is None:
                return None
            exchange.caller = principal.caller
            _apply(exchange, quota)
        exchange.caller = principal.caller
        return _permitted(principal, operation)

    async def count(self, exchange: Exchange) -> None:
        """Counts a request that is for no operation. Raises RateLimited."""
        with contextlib.suppress(Unauthenticated, PermissionDenied):  # counted under its address
            await self._identify(exchange)

    def heed(self, operation: Operation, request: Message) -> None:
        """Takes note that `operation` has succeeded: it may have ended somebody's admission."""
        self._identities.heed(operation.name, request)

    async def _identify(self, exchange: Exchange) -> Principal:
        principal = self._identities.known(exchange.authorization)
        if principal is None:
            principal = await self._meet(exchange)
        exchange.caller = principal.caller
        limit = self._rates.of_plan(principal.caller.plan)
        if limit:
            quota = self._limits.at_once(principal.bucket, limit)
            _apply(exchange, quota or await self._limits.take(principal.bucket, limit))
        return principal

    async def _meet(self, exchange: Exchange) -> Principal:
        """A principal that is not known yet; who guesses credentials is soon not asked about."""
        guess = self._identities.is_guess(exchange.authorization)
        if guess and self._limits.closed(_stranger(exchange)):
            await self._count_address(exchange, writes=False)
        try:
            return await self._identities.resolve(exchange.authorization)
        except (Unauthenticated, PermissionDenied):
            await self._count_address(exchange, writes=False)
            raise

    async def _count_address(self, exchange: Exchange, *, writes: bool) -> None:
        limit = self._rates.public if writes else self._rates.strangers
        name = f"public:{network_of(exchange.address)}" if writes else _stranger(exchange)
        if limit:
            _apply(exchange, await self._limits.take(name, limit))


def _permitted(principal: Principal, operation: Operation) -> Principal:
    """The principal. Raises NotPermitted."""
    if operation.name not in principal.permitted:
        require(operation.policy, principal.caller)
        principal.permitted.add(operation.name)
    return principal


def _stranger(exchange: Exchange) -> str:
    return f"stranger:{network_of(exchange.address)}"


def _apply(exchange: Exchange, quota: Quota) -> None:
    exchange.quota = quota
    if quota.wait:
        raise RateLimited(limit=quota.limit, wait_seconds=quota.wait)
