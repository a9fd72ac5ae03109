"""IdentityService: what gateways ask about credentials, and tell about their use."""

from datetime import UTC, datetime, timedelta
from typing import Any

from grpc.aio import ServicerContext

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import IdentityServiceServicer
from vlinders_auth import api_keys, identities
from vlinders_auth.identities import Identity
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database

CACHE_FOR = timedelta(seconds=30)
"""How long a gateway may believe an answer. What ends a credential sooner, an event tells."""


class IdentityService(IdentityServiceServicer):
    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self.clock = clock

    async def Introspect(
        self, request: pb.IntrospectRequest, context: ServicerContext[Any, Any]
    ) -> pb.IntrospectResponse:
        now = self.clock.now()
        async with self.db.begin() as tx:
            if request.HasField("api_key_sha256"):
                found = await identities.of_api_key(tx, request.api_key_sha256, now=now)
            else:
                found = await identities.of_session(tx, request.session_id, now=now)
        return _answer(found)

    async def ReportKeyUse(
        self, request: pb.ReportKeyUseRequest, context: ServicerContext[Any, Any]
    ) -> pb.ReportKeyUseResponse:
        uses: dict[str, datetime] = {}
        now = self.clock.now()  # no use is later, whatever a gateway's clock says
        for use in request.uses:
            at = min(now, use.last_used_at.ToDatetime(tzinfo=UTC))
            uses[use.api_key_id] = max(at, uses.get(use.api_key_id, at))
        async with self.db.begin() as tx:
            await api_keys.note_use(tx, uses)
        return pb.ReportKeyUseResponse()


def _answer(found: Identity) -> pb.IntrospectResponse:
    caller = Caller(
        kind=Caller.KIND_API_KEY if found.api_key_id else Caller.KIND_USER,
        account_id=found.account.id,
        tenant_id=found.tenant.id,
        roles=found.account.roles,  # type: ignore[arg-type]
        scopes=sorted(found.scopes),
        api_key_id=found.api_key_id,
        session_id=found.session_id,
        plan=found.tenant.plan,
        hourly_limit=found.hourly_limit or 0,
        dialect=found.dialect,
    )
    answer = pb.IntrospectResponse(caller=caller)
    answer.cache_for.FromTimedelta(CACHE_FOR)
    if found.expires_at is not None:
        answer.expires_at.FromDatetime(found.expires_at)
    return answer
