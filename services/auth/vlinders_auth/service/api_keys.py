"""ApiKeyService: an account's API keys."""

from datetime import UTC, datetime
from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import api_keys_pb2 as pb
from vlinders.auth.v1.api_keys_pb2_grpc import ApiKeyServiceServicer
from vlinders_auth import api_keys, audit
from vlinders_auth.dialects import rules_of
from vlinders_auth.models import ApiKey
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged


class ApiKeyService(ApiKeyServiceServicer):
    def __init__(self, db: Database, clock: Clock, *, keys_per_account: int) -> None:
        self.db = db
        self.clock = clock
        self.keys_per_account = keys_per_account

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateApiKeyResponse:
        by, now = caller(), self.clock.now()
        expires = request.HasField("expires_at")
        async with self.db.begin() as tx:
            key, secret = await api_keys.issue(
                tx,
                by.account_id,
                request.name,
                request.permissions,
                rules_of(by.dialect),
                expires_at=request.expires_at.ToDatetime(tzinfo=UTC) if expires else None,
                hourly_limit=request.hourly_limit if request.HasField("hourly_limit") else None,
                limit=self.keys_per_account,
                now=now,
            )
            await _record(tx, "api_key.create", key, now)
        return to_message(pb.CreateApiKeyResponse, key, key=secret)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListApiKeysResponse:
        name = request.name if request.HasField("name") else None
        keys = api_keys.listed(caller().account_id, rules_of(caller().dialect), name=name)
        async with self.db.begin() as tx:
            found, page = await paged(tx, keys, request.page, by=ApiKey.id, sorts=api_keys.SORTS)
        return pb.ListApiKeysResponse(
            api_keys=[to_message(pb.ApiKey, key) for key in found], page=page
        )

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: ServicerContext[Any, Any]
    ) -> pb.RevokeApiKeyResponse:
        by, now = caller(), self.clock.now()
        async with self.db.begin() as tx:
            key = await api_keys.revoke(
                tx, by.account_id, request.api_key_id, rules_of(by.dialect), now=now
            )
            await _record(tx, "api_key.revoke", key, now)
        return to_message(pb.RevokeApiKeyResponse, key)


async def _record(tx: Tx, action: str, key: ApiKey, now: datetime) -> None:
    """For the record; a caller has no keys but of his own tenant."""
    tenant_id = caller().tenant_id
    await audit.record(tx, action, "api_key", key.id, tenant_id=tenant_id, now=now, name=key.name)
