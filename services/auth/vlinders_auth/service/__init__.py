"""The RPCs of auth: open a transaction, call the domain, answer."""

from typing import Any

from vlinders.auth.v1.accounts_pb2_grpc import add_AccountServiceServicer_to_server
from vlinders.auth.v1.api_keys_pb2_grpc import add_ApiKeyServiceServicer_to_server
from vlinders.auth.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from vlinders.auth.v1.sessions_pb2_grpc import add_SessionServiceServicer_to_server
from vlinders_auth.passwords import Passwords
from vlinders_auth.service.accounts import AccountService
from vlinders_auth.service.api_keys import ApiKeyService
from vlinders_auth.service.identity import IdentityService
from vlinders_auth.service.sessions import SessionService, Signing
from vlinders_auth.sign_ins import SignIns
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database

__all__ = ["Signing", "services"]


def services(
    db: Database,
    passwords: Passwords,
    sign_ins: SignIns,
    signing: Signing,
    clock: Clock,
    *,
    keys_per_account: int,
) -> list[tuple[str, Any, Any]]:
    """All of them, as `Process.serve` takes each."""
    package = "vlinders.auth.v1"
    keys = ApiKeyService(db, clock, keys_per_account=keys_per_account)
    return [
        (
            f"{package}.AccountService",
            add_AccountServiceServicer_to_server,
            AccountService(db, passwords, clock),
        ),
        (
            f"{package}.SessionService",
            add_SessionServiceServicer_to_server,
            SessionService(db, sign_ins, signing),
        ),
        (f"{package}.ApiKeyService", add_ApiKeyServiceServicer_to_server, keys),
        (
            f"{package}.IdentityService",
            add_IdentityServiceServicer_to_server,
            IdentityService(db, clock),
        ),
    ]
