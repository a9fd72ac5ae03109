"""AccountService: signing up, and one's own account."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1.accounts_pb2_grpc import AccountServiceServicer
from vlinders_auth import accounts, audit, roles
from vlinders_auth.accounts import Changes, Person
from vlinders_auth.dialects import rules_of
from vlinders_auth.models import Account
from vlinders_auth.password_changes import PasswordChanges
from vlinders_auth.passwords import Passwords
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.messages import said, to_message


class AccountService(AccountServiceServicer):
    def __init__(self, db: Database, passwords: Passwords, clock: Clock) -> None:
        self.db = db
        self.passwords = passwords
        self.changes = PasswordChanges(db, passwords, clock)
        self.clock = clock

    async def Register(
        self, request: pb.RegisterRequest, context: ServicerContext[Any, Any]
    ) -> pb.RegisterResponse:
        account = await self._registered(request, tenant_name=request.tenant_name)
        return to_message(pb.RegisterResponse, account, user_id=account.id)

    async def RegisterByName(
        self, request: pb.RegisterByNameRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        rules_of(caller().dialect).require_long(request.password, "password")
        account = await self._registered(
            request, tenant_name=request.username, username=request.username
        )
        return shown(account)

    async def GetMyAccount(
        self, request: pb.GetMyAccountRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        async with self.db.begin() as tx:
            account = await accounts.find(tx, caller().account_id)
        return shown(account)

    async def UpdateMyAccount(
        self, request: pb.UpdateMyAccountRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        by = caller()
        changes = Changes(**said(request, "full_name", "avatar_url", "username", "email"))
        async with self.db.begin() as tx:
            account = await accounts.update(
                tx, by.account_id, changes, rules_of(by.dialect), now=self.clock.now()
            )
        return shown(account)

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: ServicerContext[Any, Any]
    ) -> pb.ChangePasswordResponse:
        await self.changes.make(request.current_password, request.new_password)
        return pb.ChangePasswordResponse()

    async def _registered(
        self,
        request: pb.RegisterRequest | pb.RegisterByNameRequest,
        *,
        tenant_name: str,
        username: str | None = None,
    ) -> Account:
        with self.passwords.turn():
            password_hash = await self.passwords.hash(request.password)
            person = Person(request.email, password_hash, request.full_name, username)
            now = self.clock.now()
            async with self.db.begin() as tx:
                account = await accounts.register(tx, person, tenant_name=tenant_name, now=now)
                await audit.record_own(tx, "user.register", account, now=now)
        return account


def shown(account: Account) -> pb.Account:
    """The account as its owner, and who runs the platform, sees it."""
    return to_message(
        pb.Account,
        account,
        roles=roles.shown(account.roles),
        operator=api.ROLE_OPERATOR in account.roles,
        active=account.status == pb.ACCOUNT_STATUS_ACTIVE,
    )
