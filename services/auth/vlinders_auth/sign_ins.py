"""Sign-ins: from a name and a password to a session."""

from datetime import timedelta

from vlinders_auth import accounts, audit, sessions
from vlinders_auth.accounts import Person
from vlinders_auth.dialects import rules_of
from vlinders_auth.errors import TooManyPasswords
from vlinders_auth.models import Account
from vlinders_auth.password_checks import PasswordChecks
from vlinders_auth.passwords import Passwords
from vlinders_auth.sessions import Renewed
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx

_TRIES = 3
"""Of a sign-in whose account gets another hash while its password is looked at."""


class SignIns:
    """Lets in who knows the password, or has just chosen it, by the rules of his dialect."""

    def __init__(
        self, db: Database, passwords: Passwords, clock: Clock, *, lifetime: timedelta
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._checks = PasswordChecks(db, passwords, clock)
        self._clock = clock
        self._lifetime = lifetime

    async def open(self, name: str, password: str) -> Renewed:
        """Opens a session of the account with this e-mail or username.

        Raises InvalidCredentials, after the same work whether there is such a name or not,
        AccountDisabled to who knows the password, TooManyAttempts and TooManyPasswords.
        """
        with self._passwords.turn():
            for _ in range(_TRIES):
                account = await self._checks.by_name(name, password)
                renewed = await self._renewed(account.password_hash, password)
                async with self._db.begin() as tx:
                    locked = await accounts.lock(tx, account.id)
                    # A password that was changed meanwhile opens nothing any more.
                    if locked.password_hash == account.password_hash:
                        locked.password_hash = renewed or locked.password_hash
                        return await self.admit(tx, locked)
        raise TooManyPasswords

    async def sign_up(self, username: str, email: str, password: str) -> Renewed:
        """Registers an account under a name of its own choice, and opens its first session.

        Raises EmailTaken, UsernameTaken, PasswordTooShort and TooManyPasswords.
        """
        rules_of(caller().dialect).require_long(password, "password")
        with self._passwords.turn():
            password_hash = await self._passwords.hash(password)
            person = Person(email, password_hash, username=username)
            now = self._clock.now()
            async with self._db.begin() as tx:
                account = await accounts.register(tx, person, tenant_name=username, now=now)
                await audit.record_own(tx, "user.register", account, now=now)
                return await self.admit(tx, account)

    async def admit(self, tx: Tx, account: Account, **details: str) -> Renewed:
        """Opens a session of an account that is held and has proved itself, as `details` say."""
        by, now = caller(), self._clock.now()
        opened = await sessions.open(
            tx,
            account,
            rules_of(by.dialect),
            client_address=by.client_address,
            now=now,
            lifetime=self._lifetime,
        )
        await audit.record_own(tx, "user.login", account, now=now, **details)
        return opened

    async def _renewed(self, password_hash: str, password: str) -> str | None:
        """The hash to keep instead, where hashes cost more by now."""
        if not self._passwords.outdated(password_hash):
            return None
        return await self._passwords.hash(password)
