"""OAuth sign-ins: a browser sent to a provider, and a session for whom it comes back as."""

from dataclasses import dataclass

from vlinders_auth import oauth_identities, oauth_states
from vlinders_auth.dialects import rules_of
from vlinders_auth.errors import OauthProviderUnavailable, OauthRefused
from vlinders_auth.oauth_exchange import Exchange, Grant, destination
from vlinders_auth.oauth_providers import Profile
from vlinders_auth.oauth_registry import Registry
from vlinders_auth.sessions import Renewed
from vlinders_auth.sign_ins import SignIns
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.sealing import Sealer

_AT_FAULT = frozenset({"server_error", "temporarily_unavailable"})
"""What providers say of themselves in the place of a code (RFC 6749 4.1.2.1)."""


@dataclass(frozen=True)
class Callback:
    """What a browser comes back with."""

    code: str
    state: str
    error: str
    browser_token: str


class OAuthSignIns:
    """Lets in whom a provider vouches for.

    Its transactions are its own: none is open while a provider is asked.
    """

    def __init__(
        self,
        db: Database,
        registry: Registry,
        exchange: Exchange,
        sign_ins: SignIns,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._db = db
        self._registry = registry
        self._exchange = exchange
        self._sign_ins = sign_ins
        self._sealer = sealer
        self._clock = clock

    async def begin(self, name: str) -> tuple[str, str]:
        """Where to send the browser, and the token that it keeps meanwhile.

        Raises OauthProviderUnknown and OauthProviderNotConfigured.
        """
        provider = self._registry.provider(name)
        client_id = self._registry.client_id(name)
        dialect = rules_of(caller().dialect).name
        now = self._clock.now()
        async with self._db.begin() as tx:
            begun = await oauth_states.begin(tx, self._sealer, name, dialect=dialect, now=now)
        location = destination(
            provider,
            client_id,
            state=begun.state,
            verifier=begun.verifier,
            nonce=begun.nonce,
            redirect_uri=self._registry.redirect_uri(name, dialect),
        )
        return location, begun.browser_token

    async def finish(self, name: str, callback: Callback) -> Renewed:
        """Opens a session of whoever has come back.

        Raises OauthProviderUnknown, OauthStateInvalid, OauthProviderNotConfigured, OauthRefused,
        OauthProviderUnavailable, EmailTaken and AccountDisabled.
        """
        profile = await self._profile(name, callback)
        async with self._db.begin() as tx:
            now = self._clock.now()
            account = await oauth_identities.account_of(tx, name, profile, now=now)
            return await self._sign_ins.admit(tx, account, provider=name)

    async def _profile(self, name: str, callback: Callback) -> Profile:
        provider = self._registry.provider(name)
        dialect = rules_of(caller().dialect).name
        async with self._db.begin() as tx:
            returned = await oauth_states.claim(
                tx,
                self._sealer,
                name,
                state=callback.state,
                browser_token=callback.browser_token,
                dialect=dialect,
                now=self._clock.now(),
            )
        if callback.error in _AT_FAULT:
            raise OauthProviderUnavailable
        if callback.error or not callback.code:
            raise OauthRefused
        redirect_uri = self._registry.redirect_uri(name, dialect)
        grant = Grant(callback.code, returned.verifier, returned.nonce, redirect_uri)
        return await self._exchange.profile(provider, self._registry.client(name), grant)
