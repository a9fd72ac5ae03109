"""Recoveries: an e-mail verified, or a forgotten password replaced, by a link that came by mail."""

from datetime import datetime

from vlinders_auth import accounts, api_keys, attempts, audit, links, oauth_identities, sessions
from vlinders_auth.errors import EmailAlreadyVerified, InvalidLink
from vlinders_auth.links import Purpose
from vlinders_auth.mails import Asked, Mailing
from vlinders_auth.models import Account, Link
from vlinders_auth.recipients import mark_of
from vlinders_kit.db import Tx
from vlinders_kit.sealing import Sealer


async def ask_to_verify(tx: Tx, mailing: Mailing, account_id: str, *, now: datetime) -> None:
    """Has a link be sent to the account's e-mail.

    Raises EmailAlreadyVerified, AccountNotFound, and what `Mailing.ask` does.
    """
    account = await accounts.find(tx, account_id)
    if account.email_verified:
        raise EmailAlreadyVerified
    mail = Asked(Purpose.VERIFY_EMAIL, account.email, subject_id=account.id, asked_by=account.id)
    await mailing.ask(tx, mail, now=now)


async def verify(tx: Tx, sealer: Sealer, token: str, *, now: datetime) -> Account:
    """Notes that the e-mail is its owner's.

    Raises InvalidLink, also once the account has another e-mail, and AccountDisabled.
    """
    link = await links.find(tx, sealer, token, Purpose.VERIFY_EMAIL, now=now)
    account = await accounts.lock(tx, link.subject_id)
    if account.email != link.email:
        raise InvalidLink
    await links.use(tx, link)
    account.email_verified = True
    account.updated_at = now
    await audit.record_own(tx, "user.verify", account, now=now)
    return account


async def ask_to_reset(tx: Tx, mailing: Mailing, email: str, *, now: datetime) -> None:
    """Has a link be sent to whoever has the e-mail, if anybody.

    The postman looks that up, so nothing here depends on it. Raises what `Mailing.ask` does.
    """
    await mailing.ask(tx, Asked(Purpose.RESET_PASSWORD, email), now=now)


async def require_reset(tx: Tx, sealer: Sealer, token: str, *, now: datetime) -> None:
    """Raises InvalidLink unless a password can be set by the token: before one is hashed."""
    link = await links.find(tx, sealer, token, Purpose.RESET_PASSWORD, now=now)
    _require_same(link, await accounts.find(tx, link.subject_id))


async def reset(tx: Tx, sealer: Sealer, token: str, password_hash: str, *, now: datetime) -> None:
    """Sets the password, ends every session, and forgets the wrong ones that were tried.

    Who reads the mails of an e-mail has it: it is verified as well. Raises InvalidLink, also once
    the account has another e-mail or password, and AccountDisabled.
    """
    link = await links.find(tx, sealer, token, Purpose.RESET_PASSWORD, now=now)
    account = await accounts.lock(tx, link.subject_id)
    _require_same(link, account)
    await links.use(tx, link)
    if not account.email_verified:  # whoever linked a provider or made a key may be somebody else
        await oauth_identities.forget(tx, account.id)
        await api_keys.revoke_all(tx, account.id, now=now)
    account.password_hash = password_hash
    account.email_verified = True
    account.updated_at = now
    await sessions.revoke_all(tx, account.id, now=now)
    await attempts.forget(tx, account)
    await audit.record_own(tx, "user.password", account, now=now, by="link")


def _require_same(link: Link, account: Account) -> None:
    if account.email != link.email or mark_of(account) != link.password_sha256:
        raise InvalidLink
