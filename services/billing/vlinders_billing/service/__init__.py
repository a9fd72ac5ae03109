"""The RPCs of billing: open a transaction, call the rules, answer. A module a gRPC service."""

from vlinders_billing.service.credit import CreditService
from vlinders_billing.service.ledger import LedgerService
from vlinders_billing.service.prices import PriceService
from vlinders_billing.service.usage import UsageService

__all__ = ["CreditService", "LedgerService", "PriceService", "UsageService"]
