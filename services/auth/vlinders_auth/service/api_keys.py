"""ApiKeyService: an account's API keys."""

from datetime import UTC
from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import api_keys_pb2 as pb
from vlinders.auth.v1.api_keys_pb2_grpc import ApiKeyServiceServicer
from vlinders_auth import api_keys
from vlinders_auth.models import ApiKey
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
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
        expires = request.HasField("expires_at")
        async with self.db.begin() as tx:
            key, secret = await api_keys.issue(
                tx,
                caller().account_id,
                request.name,
                request.permissions,
                expires_at=request.expires_at.ToDatetime(tzinfo=UTC) if expires else None,
                limit=self.keys_per_account,
                now=self.clock.now(),
            )
        return to_message(pb.CreateApiKeyResponse, key, key=secret)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListApiKeysResponse:
        name = request.name if request.HasField("name") else None
        keys = api_keys.of_account(caller().account_id, name=name)
        async with self.db.begin() as tx:
            found, page = await paged(tx, keys, request.page, by=ApiKey.id, sorts=api_keys.SORTS)
        return pb.ListApiKeysResponse(
            api_keys=[to_message(pb.ApiKey, key) for key in found], page=page
        )

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: ServicerContext[Any, Any]
    ) -> pb.RevokeApiKeyResponse:
        async with self.db.begin() as tx:
            key = await api_keys.revoke(
                tx, caller().account_id, request.api_key_id, now=self.clock.now()
            )
        return to_message(pb.RevokeApiKeyResponse, key)
