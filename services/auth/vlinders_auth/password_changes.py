"""Password changes: from the current password to the next, which ends what the old one opened."""

from vlinders_auth import accounts, audit, sessions
from vlinders_auth.dialects import rules_of
from vlinders_auth.errors import WrongPassword
from vlinders_auth.password_checks import PasswordChecks
from vlinders_auth.passwords import Passwords
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database


class PasswordChanges:
    """Gives the caller another password if he knows the one that he has."""

    def __init__(self, db: Database, passwords: Passwords, clock: Clock) -> None:
        self._db = db
        self._passwords = passwords
        self._checks = PasswordChecks(db, passwords, clock)
        self._clock = clock

    async def make(self, current: str, new: str) -> None:
        """Replaces the password and ends all sessions but the caller's.

        Who has none, since he signs in elsewhere, cannot know it: he has a link sent that sets one.
        Raises WrongPassword, PasswordTooShort, AccountDisabled, TooManyAttempts and
        TooManyPasswords.
        """
        by = caller()
        rules_of(by.dialect).require_long(new, "new_password")
        with self._passwords.turn():
            account = await self._checks.of(by.account_id, current)
            password_hash = await self._passwords.hash(new)
            now = self._clock.now()
            async with self._db.begin() as tx:
                locked = await accounts.lock(tx, account.id)
                if locked.password_hash != account.password_hash:
                    raise WrongPassword  # by now: of two changes at the same time, one is first
                locked.password_hash = password_hash
                locked.updated_at = now
                await sessions.revoke_all(tx, account.id, but=by.session_id, now=now)
                await audit.record_own(tx, "user.password", locked, now=now)
