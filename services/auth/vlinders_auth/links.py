"""Links that are sent by e-mail: each opens one thing, once, until it expires.

A link is a row; its token is the row's id with a signature by a key that is derived from the
sealing key, one for each purpose. The token is written into the mail and kept nowhere, so who reads
the database opens nothing, and who makes tokens up is refused without a look into it.
"""

import base64
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import delete

from vlinders_auth.errors import InvalidLink
from vlinders_auth.models import Link
from vlinders_kit.db import Tx
from vlinders_kit.ids import new_id
from vlinders_kit.sealing import Sealer

PREFIX = "vlinders_lt_"
"""Of a token: so that it is found where it should not be, and never logged."""

_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{22}})([\w-]{{43}})", re.ASCII)


class Purpose(StrEnum):
    """What a link opens; also the last part of the address of the page that it leads to."""

    VERIFY_EMAIL = "verify-email"
    RESET_PASSWORD = "reset-password"
    ACCEPT_INVITATION = "accept-invitation"


LIFETIMES: Mapping[Purpose, timedelta] = {
    Purpose.VERIFY_EMAIL: timedelta(hours=24),
    Purpose.RESET_PASSWORD: timedelta(minutes=30),
    Purpose.ACCEPT_INVITATION: timedelta(days=7),
}


async def issue(
    tx: Tx,
    purpose: Purpose,
    subject_id: str,
    email: str,
    *,
    password_sha256: bytes | None = None,
    now: datetime,
) -> Link:
    """A new link of `subject_id`, for who reads the mails of `email`."""
    link = Link(
        id=new_id("link"),
        purpose=purpose,
        subject_id=subject_id,
        email=email,
        password_sha256=password_sha256,
        created_at=now,
        expires_at=now + LIFETIMES[purpose],
    )
    tx.add(link)
    await tx.flush()
    return link


def token_of(link: Link, sealer: Sealer) -> str:
    """What the mail says of it, and `find` takes."""
    signature = sealer.sign(link.id.encode(), _signed_for(link.purpose))
    return (
        PREFIX + link.id.removeprefix("link_") + base64.urlsafe_b64encode(signature)[:43].decode()
    )


async def find(tx: Tx, sealer: Sealer, token: str, purpose: Purpose, *, now: datetime) -> Link:
    """The link of a token, unused; raises InvalidLink, whatever is wrong with it."""
    form = _FORM.fullmatch(token)
    if form is None:
        raise InvalidLink
    id, signature = f"link_{form[1]}", base64.urlsafe_b64decode(form[2] + "=")
    if not sealer.is_signed(id.encode(), signature, _signed_for(purpose)):
        raise InvalidLink
    link = await tx.get(Link, id)
    if link is None or link.purpose != purpose or link.expires_at <= now:
        raise InvalidLink
    return link


async def use(tx: Tx, link: Link) -> None:
    """Takes the link away, and all others of its purpose and subject.

    Of those who use it at the same time one succeeds; the others wait for him, and get InvalidLink.
    """
    used = delete(Link).where(Link.id == link.id).returning(Link.id)
    if await tx.scalar(used) is None:
        raise InvalidLink
    others = (Link.subject_id == link.subject_id, Link.purpose == link.purpose)
    await tx.execute(delete(Link).where(*others))


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes links that have expired."""
    await tx.execute(delete(Link).where(Link.expires_at <= now))


def _signed_for(purpose: str) -> str:
    return f"link:{purpose}"
