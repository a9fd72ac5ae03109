"""Tables of the auth service."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, ForeignKey, Identity, Index, SmallInteger, Text, func, select, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    mapped_column,
    relationship,
)

from vlinders_kit import events
from vlinders_kit.db import TYPES


class Table(DeclarativeBase):
    type_annotation_map = TYPES


events.attach(Table.metadata)


class Tenant(Table):
    """Who pays: one account, or several that share a wallet and see each other's things."""

    __tablename__ = "tenant"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    plan: Mapped[str]
    operator: Mapped[bool]
    """The tenant of those who run the platform. There is one."""
    created_at: Mapped[datetime]

    __table_args__ = (
        Index("tenant_operator", "operator", unique=True, postgresql_where=text("operator")),
    )


USERNAMES = "account_username"
"""The index that has each username once, in whatever case."""


class Account(Table):
    """Somebody who can sign in."""

    __tablename__ = "account"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    """In lower case."""
    username: Mapped[str]
    """As its owner writes it; no two differ in case only."""
    number: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    """Counts accounts, for dialects that know them by a number."""
    password_hash: Mapped[str]
    """Empty where nobody has set a password: who signs in elsewhere has none here."""
    full_name: Mapped[str]
    avatar_url: Mapped[str | None]
    email_verified: Mapped[bool]
    roles: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    """Numbers of `vlinders.api.v1.Role`."""
    status: Mapped[int] = mapped_column(SmallInteger)
    """Number of `vlinders.auth.v1.AccountStatus`; who is not ACTIVE may do nothing."""
    status_reason: Mapped[str | None]
    last_login_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (Index(USERNAMES, text("lower(username)"), unique=True),)


class Session(Table):
    """A sign-in, for as long as its tokens may be renewed."""

    __tablename__ = "session"

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), index=True)
    client_address: Mapped[str]
    """Where it was opened from: an owner is known there (see `attempts`)."""
    dialect: Mapped[str]
    """Of the API that it was opened through, whose rules hold for its tokens (see `dialects`)."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]


class RefreshToken(Table):
    """A token that renews a session.

    A session is the family of its tokens. Where a client cannot be given another token, it has this
    one for life; where it can, each token is traded for the one that follows it.
    """

    __tablename__ = "refresh_token"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("session.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]
    traded_at: Mapped[datetime | None]
    sealed_successor: Mapped[bytes | None]
    """The token that followed it, sealed for `refresh-token:<session id>`: who lost the answer gets
    it again. Kept as short as that is granted."""

    __table_args__ = (
        Index(
            "refresh_token_sealed",
            "traded_at",
            postgresql_where=text("sealed_successor IS NOT NULL"),
        ),
    )


class Attempts(Table):
    """Passwords that were lately tried on one e-mail: found wrong, or being looked at."""

    __tablename__ = "attempts"

    subject: Mapped[bytes] = mapped_column(primary_key=True)
    failed_at: Mapped[list[datetime]] = mapped_column(ARRAY(TIMESTAMP(timezone=True)))
    begun_at: Mapped[list[datetime]] = mapped_column(ARRAY(TIMESTAMP(timezone=True)))
    """Those without an outcome."""
    last_at: Mapped[datetime] = mapped_column(index=True)


class ApiKey(Table):
    """An API key, without the key."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"))
    name: Mapped[str]
    sha256: Mapped[bytes] = mapped_column(unique=True)
    key_prefix: Mapped[str]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    dialect: Mapped[str]
    """Of the API that it was issued through, whose clients it is for."""
    hourly_limit: Mapped[int | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        Index("api_key_listed", "account_id", "id", postgresql_where=text("revoked_at IS NULL")),
    )


class Membership(Table):
    """An account in an organization."""

    __tablename__ = "membership"

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organization.id", ondelete="CASCADE"))
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), index=True)
    role: Mapped[int] = mapped_column(SmallInteger)
    """Number of `vlinders.auth.v1.MemberRole`."""
    joined_at: Mapped[datetime]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True, viewonly=True)
    """Whose it is; comes with every row that is read."""

    __table_args__ = (
        Index("membership_account", "organization_id", "account_id", unique=True),
        Index("membership_listed", "organization_id", "id"),
    )


class Organization(Table):
    """A group of people inside a tenant."""

    __tablename__ = "organization"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"), index=True)
    name: Mapped[str]
    description: Mapped[str | None]
    created_at: Mapped[datetime]
    member_count: Mapped[int] = column_property(
        select(func.count())
        .where(Membership.organization_id == id)
        .correlate_except(Membership)
        .scalar_subquery()
    )
    """Counted when it is read: what is kept beside would have to be right at every moment."""


class Invitation(Table):
    """Somebody who was asked to join a tenant, and has not answered."""

    __tablename__ = "invitation"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    email: Mapped[str]
    """In lower case."""
    role: Mapped[int] = mapped_column(SmallInteger)
    invited_by: Mapped[str] = mapped_column(ForeignKey("account.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (Index("invitation_email", "tenant_id", "email", unique=True),)


class Link(Table):
    """A link that was sent by e-mail and has not been used. What signs it is not kept."""

    __tablename__ = "link"

    id: Mapped[str] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    """What it opens, for example "verify-email"."""
    subject_id: Mapped[str]
    """Whose it is: an account, or an invitation."""
    email: Mapped[str]
    """Where it was sent. It opens nothing once the account has another."""
    password_sha256: Mapped[bytes | None]
    """Of the hash of the password that it may replace. It opens nothing once there is another."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (Index("link_subject", "subject_id", "purpose"),)


class Mail(Table):
    """A mail that was asked for: to be sent, or counted among those that were sent lately.

    The link in it is made when it is sent for the first time, its token each time anew: nothing
    here opens anything.
    """

    __tablename__ = "mail"

    id: Mapped[str] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    """Of its link."""
    email: Mapped[str]
    """Where to, in lower case."""
    subject_id: Mapped[str | None]
    """Whose link it brings; without, that of whoever has the e-mail, if anybody."""
    asked_by: Mapped[str | None]
    """The account that asked for it; nobody who has forgotten his password is known."""
    link_id: Mapped[str | None]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    """When it is to be sent, or sent again; NULL when it is done with."""
    tries: Mapped[int] = mapped_column(SmallInteger)

    __table_args__ = (
        Index("mail_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("mail_email", "email", "created_at"),
        Index("mail_asked_by", "asked_by", "created_at"),
        Index("mail_created_at", "created_at"),
    )


class OAuthIdentity(Table):
    """Somebody's account at a provider, by which an account here is signed in."""

    __tablename__ = "oauth_identity"

    provider: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    """Who it is there."""
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), index=True)
    created_at: Mapped[datetime]


class OAuthState(Table):
    """A sign-in at a provider that was begun and has not come back."""

    __tablename__ = "oauth_state"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    """Of the `state`."""
    provider: Mapped[str]
    browser_sha256: Mapped[bytes]
    """Of the token that the browser keeps."""
    sealed_verifier: Mapped[bytes]
    """PKCE's, sealed for `oauth-state:<sha256>`."""
    nonce: Mapped[str]
    dialect: Mapped[str]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SigningKey(Table):
    """A key that signs access tokens from `signs_from` until the next one's `signs_from`."""

    __tablename__ = "signing_key"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[dict[str, Any]]
    """A JSON Web Key (RFC 7517)."""
    sealed_private_key: Mapped[bytes]
    """PKCS #8 in DER, sealed for `signing-key:<kid>`."""
    created_at: Mapped[datetime]
    signs_from: Mapped[datetime]
