"""SessionService: a password for tokens, and the keys that verify them."""

from dataclasses import dataclass
from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders.auth.v1.sessions_pb2_grpc import SessionServiceServicer
from vlinders_auth import audit, sessions, tokens
from vlinders_auth.dialects import rules_of
from vlinders_auth.errors import InvalidRefreshToken
from vlinders_auth.service.accounts import shown
from vlinders_auth.sessions import Renewed
from vlinders_auth.sign_ins import SignIns
from vlinders_auth.upkeep import Upkeep
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message
from vlinders_kit.sealing import Sealer

BEARER = "bearer"


@dataclass(frozen=True)
class Signing:
    """What the access tokens of this platform have in common."""

    upkeep: Upkeep
    issuer: str
    audience: str
    clock: Clock

    def sign(self, renewed: Renewed) -> pb.SignIn:
        """The session with its tokens, as whoever has opened or renewed it is told."""
        now = self.clock.now()
        lifetime = rules_of(renewed.session.dialect).access_lifetime
        token = tokens.issue(
            renewed.session,
            renewed.account,
            self.upkeep.ring.signer(now),
            issuer=self.issuer,
            audience=self.audience,
            lifetime=lifetime,
            now=now,
        )
        return pb.SignIn(
            access_token=token,
            refresh_token=renewed.refresh_token,
            token_type=BEARER,
            expires_in=int(lifetime.total_seconds()),
            account=shown(renewed.account),
        )


class SessionService(SessionServiceServicer):
    def __init__(self, db: Database, sign_ins: SignIns, signing: Signing, sealer: Sealer) -> None:
        self.db = db
        self.sign_ins = sign_ins
        self.signing = signing
        self.sealer = sealer

    async def Login(
        self, request: pb.LoginRequest, context: ServicerContext[Any, Any]
    ) -> pb.SignIn:
        return self.signing.sign(await self.sign_ins.open(request.email, request.password))

    async def SignUp(
        self, request: pb.SignUpRequest, context: ServicerContext[Any, Any]
    ) -> pb.SignIn:
        opened = await self.sign_ins.sign_up(request.username, request.email, request.password)
        return self.signing.sign(opened)

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: ServicerContext[Any, Any]
    ) -> pb.RefreshSessionResponse:
        now = self.signing.clock.now()
        async with self.db.begin() as tx:
            renewed = await sessions.renewed_by(tx, request.refresh_token, now=now)
        return to_message(pb.RefreshSessionResponse, self.signing.sign(renewed))

    async def RotateSession(
        self, request: pb.RotateSessionRequest, context: ServicerContext[Any, Any]
    ) -> pb.SignIn:
        now = self.signing.clock.now()
        async with self.db.begin() as tx:
            renewed = await sessions.rotate(tx, request.refresh_token, self.sealer, now=now)
        if renewed is None:
            raise InvalidRefreshToken
        return self.signing.sign(renewed)

    async def RenewMySession(
        self, request: pb.RenewMySessionRequest, context: ServicerContext[Any, Any]
    ) -> pb.SignIn:
        now = self.signing.clock.now()
        async with self.db.begin() as tx:
            found = await sessions.find(tx, caller().session_id, now=now)
        return self.signing.sign(found)

    async def Logout(
        self, request: pb.LogoutRequest, context: ServicerContext[Any, Any]
    ) -> pb.LogoutResponse:
        by, now = caller(), self.signing.clock.now()
        async with self.db.begin() as tx:
            await sessions.revoke(tx, by.session_id, now=now)
            await audit.record(
                tx, "user.logout", "user", by.account_id, tenant_id=by.tenant_id, now=now
            )
        return pb.LogoutResponse()

    async def GetKeySet(
        self, request: pb.GetKeySetRequest, context: ServicerContext[Any, Any]
    ) -> pb.KeySet:
        published = self.signing.upkeep.ring.published()
        return pb.KeySet(keys=[pb.KeySet.Key(**key) for key in published])
