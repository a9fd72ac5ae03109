"""SessionService: a password for tokens, and the keys that verify them."""

from dataclasses import dataclass
from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders.auth.v1.sessions_pb2_grpc import SessionServiceServicer
from vlinders_auth import sessions, tokens
from vlinders_auth.models import Account, Session
from vlinders_auth.sign_ins import SignIns
from vlinders_auth.upkeep import Upkeep
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database

BEARER = "bearer"
EXPIRES_IN = int(tokens.LIFETIME.total_seconds())


@dataclass(frozen=True)
class Signing:
    """What the access tokens of this platform have in common."""

    upkeep: Upkeep
    issuer: str
    audience: str
    clock: Clock

    def sign(self, session: Session, account: Account) -> str:
        now = self.clock.now()
        key = self.upkeep.ring.signer(now)
        return tokens.issue(
            session, account, key, issuer=self.issuer, audience=self.audience, now=now
        )


class SessionService(SessionServiceServicer):
    def __init__(self, db: Database, sign_ins: SignIns, signing: Signing) -> None:
        self.db = db
        self.sign_ins = sign_ins
        self.signing = signing

    async def Login(
        self, request: pb.LoginRequest, context: ServicerContext[Any, Any]
    ) -> pb.SignIn:
        opened = await self.sign_ins.open(request.email, request.password, caller().client_address)
        return pb.SignIn(
            access_token=self.signing.sign(opened.session, opened.account),
            refresh_token=opened.refresh_token,
            token_type=BEARER,
            expires_in=EXPIRES_IN,
        )

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: ServicerContext[Any, Any]
    ) -> pb.RefreshSessionResponse:
        now = self.signing.clock.now()
        async with self.db.begin() as tx:
            session, account = await sessions.renewed_by(tx, request.refresh_token, now=now)
        return pb.RefreshSessionResponse(
            access_token=self.signing.sign(session, account),
            token_type=BEARER,
            expires_in=EXPIRES_IN,
        )

    async def GetKeySet(
        self, request: pb.GetKeySetRequest, context: ServicerContext[Any, Any]
    ) -> pb.KeySet:
        published = self.signing.upkeep.ring.published()
        return pb.KeySet(keys=[pb.KeySet.Key(**key) for key in published])
