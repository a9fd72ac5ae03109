"""Password checks: whether somebody knows an account's password, each attempt counted."""

from datetime import datetime

from vlinders_auth import accounts, attempts
from vlinders_auth.errors import InvalidCredentials, WrongPassword
from vlinders_auth.models import Account
from vlinders_auth.passwords import Passwords
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database


class PasswordChecks:
    """Looks at passwords that come with the call being served, for those who have taken a turn.

    Its transactions are its own: the one that counts an attempt has ended before the password is
    looked at, which takes long and must count even if the process dies of it.
    """

    def __init__(self, db: Database, passwords: Passwords, clock: Clock) -> None:
        self._db = db
        self._passwords = passwords
        self._clock = clock

    async def by_name(self, name: str, password: str) -> Account:
        """The account with this e-mail or username, and this password.

        Raises InvalidCredentials, after the same work whether there is such a name or not,
        TooManyAttempts and TooManyPasswords.
        """
        now = self._clock.now()
        async with self._db.begin() as tx:
            account = await accounts.find_by_name(tx, name)
            subjects = await attempts.subjects_of(
                tx, name, account, caller().client_address, now=now
            )
            await attempts.admit(tx, subjects.name, now=now)
            looked_at = await attempts.admits(tx, subjects.account, now=now)
        password_hash = account.password_hash if account is not None and looked_at else ""
        counted = (subjects.name, subjects.account) if looked_at else (subjects.name,)
        if not await self._matches(password, password_hash, counted, now) or account is None:
            raise InvalidCredentials
        return account

    async def of(self, account_id: str, password: str) -> Account:
        """The account, whose password this is.

        Raises WrongPassword, also where the account has none, AccountNotFound, TooManyAttempts and
        TooManyPasswords.
        """
        now = self._clock.now()
        async with self._db.begin() as tx:
            account = await accounts.find(tx, account_id)
            subjects = await attempts.subjects_of(
                tx, account.email, account, caller().client_address, now=now
            )
            await attempts.admit(tx, subjects.account, now=now)
        if not await self._matches(password, account.password_hash, (subjects.account,), now):
            raise WrongPassword
        return account

    async def _matches(
        self, password: str, password_hash: str, counted: tuple[bytes, ...], begun_at: datetime
    ) -> bool:
        failed = False  # who leaves before he is told has learnt nothing
        try:
            failed = not await self._passwords.matches(password, password_hash or None)
        finally:
            async with self._db.begin() as tx:
                for subject in counted:
                    await attempts.conclude(tx, subject, begun_at=begun_at, failed=failed)
        return not failed
