"""Tables of the auth service."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, ForeignKey, Index, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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


class Account(Table):
    """Somebody who can sign in."""

    __tablename__ = "account"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    """In lower case."""
    username: Mapped[str] = mapped_column(unique=True)
    """In lower case; the login name of the dialects that have one."""
    password_hash: Mapped[str]
    full_name: Mapped[str]
    avatar_url: Mapped[str | None]
    email_verified: Mapped[bool]
    roles: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    """Numbers of `vlinders.api.v1.Role`."""
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Session(Table):
    """A sign-in, for as long as its tokens may be renewed."""

    __tablename__ = "session"

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), index=True)
    client_address: Mapped[str]
    """Where it was opened from: an owner is known there (see `attempts`)."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]


class RefreshToken(Table):
    """A token that renews a session.

    A session is the family of its tokens. Where a client cannot be given another token, it has this
    one for life; where it can, each token will name the one that follows it.
    """

    __tablename__ = "refresh_token"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("session.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]


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
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        Index("api_key_listed", "account_id", "id", postgresql_where=text("revoked_at IS NULL")),
    )


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
