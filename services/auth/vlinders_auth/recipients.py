"""Recipients: whom a mail is for by the time that it is sent, and the link that it brings him."""

import hashlib
from dataclasses import replace
from datetime import datetime

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders_auth import accounts, links
from vlinders_auth.letters import Letter
from vlinders_auth.links import Purpose
from vlinders_auth.models import Account, Invitation, Link, Mail, Tenant
from vlinders_kit.db import Tx
from vlinders_kit.sealing import Sealer


class Recipients:
    """Addresses mails. Their links begin with `public_url`."""

    def __init__(self, sealer: Sealer, *, public_url: str) -> None:
        self._sealer = sealer
        self._public_url = public_url.rstrip("/")

    async def letter_of(self, tx: Tx, mail_id: str, *, now: datetime) -> Letter | None:
        """What the mail says; None where there is nothing to say any more, or nobody to say it to.

        Its link is made the first time: a mail that is sent again brings the same, or, when that
        was used or has expired, is not sent.
        """
        mail = await tx.get_one(Mail, mail_id)
        if mail.link_id is None:
            link = await _new_link(tx, mail, now=now)
            mail.link_id = None if link is None else link.id
        else:
            link = await tx.get(Link, mail.link_id)
        if link is None or link.expires_at <= now:
            return None
        purpose, token = Purpose(link.purpose), links.token_of(link, self._sealer)
        # In the fragment, which browsers tell no server and no page that is linked to.
        url = f"{self._public_url}/account/{purpose}#token={token}"
        letter = Letter(mail.id, mail.email, purpose, url, link.expires_at)
        return await _named(tx, letter, link) if purpose is Purpose.ACCEPT_INVITATION else letter


def mark_of(account: Account) -> bytes:
    """What tells a password of the account from the next."""
    return hashlib.sha256(account.password_hash.encode()).digest()


async def _new_link(tx: Tx, mail: Mail, *, now: datetime) -> Link | None:
    purpose = Purpose(mail.purpose)
    if purpose is Purpose.RESET_PASSWORD:
        account = await accounts.find_by_email(tx, mail.email)
        if account is None or account.status != ACCOUNT_STATUS_ACTIVE:
            return None
        return await links.issue(
            tx, purpose, account.id, mail.email, password_sha256=mark_of(account), now=now
        )
    of: type[Account | Invitation] = Account if purpose is Purpose.VERIFY_EMAIL else Invitation
    subject: Account | Invitation | None = await tx.get(of, mail.subject_id)
    if subject is None or subject.email != mail.email:
        return None
    return await links.issue(tx, purpose, subject.id, mail.email, now=now)


async def _named(tx: Tx, letter: Letter, link: Link) -> Letter | None:
    """An invitation, with where to and by whom; None once another has taken its place."""
    invitation = await tx.get(Invitation, link.subject_id)
    if invitation is None:
        return None
    tenant = await tx.get_one(Tenant, invitation.tenant_id)
    inviter = await tx.get_one(Account, invitation.invited_by)
    return replace(letter, tenant=tenant.name, inviter=inviter.full_name)
