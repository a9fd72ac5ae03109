"""Sign-ins: from an e-mail and a password to a session."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vlinders_auth import accounts, attempts, sessions
from vlinders_auth.errors import InvalidCredentials
from vlinders_auth.models import Account, Session
from vlinders_auth.passwords import Passwords
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database


@dataclass(frozen=True)
class SignIn:
    """One that succeeded."""

    account: Account
    session: Session
    refresh_token: str


class SignIns:
    """Lets in who knows the password.

    Its transactions are its own: the one that counts an attempt has ended before the password is
    looked at, which takes long and must count even if the process dies of it.
    """

    def __init__(
        self, db: Database, passwords: Passwords, clock: Clock, *, lifetime: timedelta
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._clock = clock
        self._lifetime = lifetime

    async def open(self, email: str, password: str, client_address: str) -> SignIn:
        """Opens a session.

        Raises InvalidCredentials, after the same work whether there is such an e-mail or not,
        AccountDisabled to who knows the password, TooManyAttempts and TooManyPasswords.
        """
        with self._passwords.turn():
            now = self._clock.now()
            account = await self._checked(email, password, client_address, now)
            renewed = await self._renewed(account.password_hash, password)
            async with self._db.begin() as tx:
                locked = await accounts.lock(tx, account.id)
                if renewed is not None and locked.password_hash == account.password_hash:
                    locked.password_hash = renewed
                session, token = await sessions.open(
                    tx, locked, client_address=client_address, now=now, lifetime=self._lifetime
                )
            return SignIn(locked, session, token)

    async def _checked(
        self, email: str, password: str, client_address: str, now: datetime
    ) -> Account:
        """The account that has the e-mail and the password."""
        async with self._db.begin() as tx:
            account = await accounts.find_by_email(tx, email)
            subject = await attempts.subject_of(tx, email, account, client_address, now=now)
            await attempts.admit(tx, subject, now=now)
        password_hash = None if account is None else account.password_hash
        failed = False  # who leaves before he is told has learnt nothing
        try:
            failed = not await self._passwords.matches(password, password_hash)
        finally:
            async with self._db.begin() as tx:
                await attempts.conclude(tx, subject, begun_at=now, failed=failed)
        if account is None or failed:
            raise InvalidCredentials
        return account

    async def _renewed(self, password_hash: str, password: str) -> str | None:
        """The hash to keep instead, where hashes cost more by now."""
        if not self._passwords.outdated(password_hash):
            return None
        return await self._passwords.hash(password)
