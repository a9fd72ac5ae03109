"""The RPCs of auth: open a transaction, call the domain, answer."""

from dataclasses import dataclass
from typing import Any

from vlinders.auth.v1.accounts_pb2_grpc import (
    add_AccountAdminServiceServicer_to_server,
    add_AccountServiceServicer_to_server,
)
from vlinders.auth.v1.api_keys_pb2_grpc import add_ApiKeyServiceServicer_to_server
from vlinders.auth.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from vlinders.auth.v1.links_pb2_grpc import add_LinkServiceServicer_to_server
from vlinders.auth.v1.members_pb2_grpc import add_MemberServiceServicer_to_server
from vlinders.auth.v1.oauth_pb2_grpc import add_OAuthServiceServicer_to_server
from vlinders.auth.v1.organizations_pb2_grpc import add_OrganizationServiceServicer_to_server
from vlinders.auth.v1.sessions_pb2_grpc import add_SessionServiceServicer_to_server
from vlinders_auth.mails import Mailing
from vlinders_auth.oauth import OAuthSignIns
from vlinders_auth.passwords import Passwords
from vlinders_auth.service.accounts import AccountService
from vlinders_auth.service.admin import AccountAdminService
from vlinders_auth.service.api_keys import ApiKeyService
from vlinders_auth.service.identity import IdentityService
from vlinders_auth.service.links import LinkService
from vlinders_auth.service.members import MemberService
from vlinders_auth.service.oauth import OAuthService
from vlinders_auth.service.organizations import OrganizationService
from vlinders_auth.service.sessions import SessionService, Signing
from vlinders_auth.sign_ins import SignIns
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.sealing import Sealer

__all__ = ["Bounds", "Signing", "services"]


@dataclass(frozen=True)
class Bounds:
    """How much of each thing there may be."""

    keys_per_account: int
    organizations_per_tenant: int
    members_per_organization: int
    invitations_per_tenant: int


def services(
    db: Database,
    passwords: Passwords,
    sign_ins: SignIns,
    signing: Signing,
    clock: Clock,
    sealer: Sealer,
    *,
    bounds: Bounds,
    mailing: Mailing,
    oauth: OAuthSignIns,
) -> list[tuple[str, Any, Any]]:
    """All of them, as `Process.serve` takes each."""
    package = "vlinders.auth.v1"
    keys = ApiKeyService(db, clock, keys_per_account=bounds.keys_per_account)
    organizations = OrganizationService(
        db,
        clock,
        most=bounds.organizations_per_tenant,
        most_members=bounds.members_per_organization,
    )
    members = MemberService(
        db, passwords, mailing, sealer, clock, most_invitations=bounds.invitations_per_tenant
    )
    links = LinkService(db, passwords, mailing, sealer, clock)
    return [
        (
            f"{package}.AccountService",
            add_AccountServiceServicer_to_server,
            AccountService(db, passwords, clock),
        ),
        (
            f"{package}.AccountAdminService",
            add_AccountAdminServiceServicer_to_server,
            AccountAdminService(db, clock),
        ),
        (
            f"{package}.SessionService",
            add_SessionServiceServicer_to_server,
            SessionService(db, sign_ins, signing, sealer),
        ),
        (f"{package}.ApiKeyService", add_ApiKeyServiceServicer_to_server, keys),
        (
            f"{package}.OrganizationService",
            add_OrganizationServiceServicer_to_server,
            organizations,
        ),
        (f"{package}.MemberService", add_MemberServiceServicer_to_server, members),
        (f"{package}.LinkService", add_LinkServiceServicer_to_server, links),
        (
            f"{package}.OAuthService",
            add_OAuthServiceServicer_to_server,
            OAuthService(oauth, signing),
        ),
        (
            f"{package}.IdentityService",
            add_IdentityServiceServicer_to_server,
            IdentityService(db, clock),
        ),
    ]
