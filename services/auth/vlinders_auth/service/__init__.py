"""The RPCs of auth: open a transaction, call the domain, answer."""

from vlinders_auth.service.accounts import AccountService
from vlinders_auth.service.api_keys import ApiKeyService
from vlinders_auth.service.identity import IdentityService
from vlinders_auth.service.sessions import SessionService, Signing

__all__ = ["AccountService", "ApiKeyService", "IdentityService", "SessionService", "Signing"]
