"""AccountService: signing up, and one's own account."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1.accounts_pb2_grpc import AccountServiceServicer
from vlinders_auth import accounts, roles
from vlinders_auth.accounts import Person
from vlinders_auth.models import Account
from vlinders_auth.passwords import Passwords
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message


class AccountService(AccountServiceServicer):
    def __init__(self, db: Database, passwords: Passwords, clock: Clock) -> None:
        self.db = db
        self.passwords = passwords
        self.clock = clock

    async def Register(
        self, request: pb.RegisterRequest, context: ServicerContext[Any, Any]
    ) -> pb.RegisterResponse:
        with self.passwords.turn():
            password_hash = await self.passwords.hash(request.password)
            person = Person(request.email, password_hash, request.full_name)
            async with self.db.begin() as tx:
                account = await accounts.register(
                    tx, person, tenant_name=request.tenant_name, now=self.clock.now()
                )
        return to_message(pb.RegisterResponse, account, user_id=account.id)

    async def GetMyAccount(
        self, request: pb.GetMyAccountRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        async with self.db.begin() as tx:
            account = await accounts.find(tx, caller().account_id)
        return _shown(account)

    async def UpdateMyAccount(
        self, request: pb.UpdateMyAccountRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        async with self.db.begin() as tx:
            account = await accounts.update(
                tx,
                caller().account_id,
                full_name=request.full_name if request.HasField("full_name") else None,
                avatar_url=request.avatar_url if request.HasField("avatar_url") else None,
                now=self.clock.now(),
            )
        return _shown(account)


def _shown(account: Account) -> pb.Account:
    return to_message(
        pb.Account,
        account,
        roles=roles.shown(account.roles),
        operator=api.ROLE_OPERATOR in account.roles,
        active=account.status == pb.ACCOUNT_STATUS_ACTIVE,
    )
