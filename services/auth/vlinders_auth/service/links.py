"""LinkService: links that are sent by e-mail, asked for and used."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import links_pb2 as pb
from vlinders.auth.v1.links_pb2_grpc import LinkServiceServicer
from vlinders_auth import recoveries
from vlinders_auth.mails import Mailing
from vlinders_auth.passwords import Passwords
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.sealing import Sealer


class LinkService(LinkServiceServicer):
    def __init__(
        self, db: Database, passwords: Passwords, mailing: Mailing, sealer: Sealer, clock: Clock
    ) -> None:
        self.db = db
        self.passwords = passwords
        self.mailing = mailing
        self.sealer = sealer
        self.clock = clock

    async def RequestEmailVerification(
        self, request: pb.RequestEmailVerificationRequest, context: ServicerContext[Any, Any]
    ) -> pb.RequestEmailVerificationResponse:
        async with self.db.begin() as tx:
            me, now = caller().account_id, self.clock.now()
            await recoveries.ask_to_verify(tx, self.mailing, me, now=now)
        return pb.RequestEmailVerificationResponse()

    async def VerifyEmail(
        self, request: pb.VerifyEmailRequest, context: ServicerContext[Any, Any]
    ) -> pb.VerifyEmailResponse:
        async with self.db.begin() as tx:
            now = self.clock.now()
            account = await recoveries.verify(tx, self.sealer, request.token, now=now)
        return pb.VerifyEmailResponse(email=account.email)

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: ServicerContext[Any, Any]
    ) -> pb.RequestPasswordResetResponse:
        async with self.db.begin() as tx:
            now = self.clock.now()
            await recoveries.ask_to_reset(tx, self.mailing, request.email, now=now)
        return pb.RequestPasswordResetResponse()

    async def ResetPassword(
        self, request: pb.ResetPasswordRequest, context: ServicerContext[Any, Any]
    ) -> pb.ResetPasswordResponse:
        with self.passwords.turn():
            async with self.db.begin() as tx:
                now = self.clock.now()
                await recoveries.require_reset(tx, self.sealer, request.token, now=now)
            password_hash = await self.passwords.hash(request.new_password)
            async with self.db.begin() as tx:
                await recoveries.reset(
                    tx, self.sealer, request.token, password_hash, now=self.clock.now()
                )
        return pb.ResetPasswordResponse()
