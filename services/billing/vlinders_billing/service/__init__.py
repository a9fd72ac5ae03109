"""The RPCs of billing: open a transaction, call the rules, answer. A module a gRPC service."""

from collections.abc import Callable, Sequence
from typing import Any

from vlinders.billing.v1.credit_pb2_grpc import add_CreditServiceServicer_to_server
from vlinders.billing.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from vlinders.billing.v1.prices_pb2_grpc import add_PriceServiceServicer_to_server
from vlinders.billing.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server
from vlinders_billing.recalls import Recalls
from vlinders_billing.service.credit import CreditService
from vlinders_billing.service.ledger import LedgerService
from vlinders_billing.service.prices import PriceService
from vlinders_billing.service.usage import UsageService
from vlinders_billing.settings import BillingSettings
from vlinders_kit.db import Database

Served = tuple[str, Callable[[Any, Any], None], Any]
"""Full name, how it is added to a server, servicer."""


def services(db: Database, told: Recalls, settings: BillingSettings) -> Sequence[Served]:
    """All that billing serves."""
    credit = CreditService(db, told, settings)
    ledger = LedgerService(db, settings)
    return (
        ("vlinders.billing.v1.CreditService", add_CreditServiceServicer_to_server, credit),
        ("vlinders.billing.v1.LedgerService", add_LedgerServiceServicer_to_server, ledger),
        ("vlinders.billing.v1.PriceService", add_PriceServiceServicer_to_server, PriceService(db)),
        ("vlinders.billing.v1.UsageService", add_UsageServiceServicer_to_server, UsageService(db)),
    )
