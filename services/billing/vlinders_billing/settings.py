"""Settings of the billing service. Each is a `VLINDERS_BILLING_…` variable of the environment."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import Field

from vlinders_billing.prices import nanos_of
from vlinders_billing.wallets import Grants
from vlinders_kit.settings import ServiceSettings

Amount = Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=9)]
"""Units of the currency, exact to the billionth."""


class BillingSettings(ServiceSettings):
    prefix: ClassVar = "VLINDERS_BILLING"

    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of the one currency that all amounts are in."""

    signup_grant: Amount = Decimal(10)
    """What a new tenant is given, in units of the currency, as `10` or `0.5`; 0 gives nothing."""

    operator_grant: Amount = Decimal(1_000_000)
    """What the operator's own tenant is given besides, in units of the currency."""

    lease_lifetime: timedelta = Field(timedelta(seconds=60), gt=timedelta(0))
    """How long a credit lease is good for without being renewed, as `PT60S`."""

    lease_grace: timedelta = Field(timedelta(seconds=60), ge=timedelta(0))
    """How long after that its money waits for late usage before it goes back to the wallet."""

    recall_wait: timedelta = Field(timedelta(seconds=1), ge=timedelta(0))
    """How long a request for credit waits for money that is idle elsewhere to come back."""

    sweep_interval: timedelta = Field(timedelta(seconds=5), gt=timedelta(0))
    """How often leases that have expired are looked for."""

    audit_interval: timedelta = Field(timedelta(hours=24), gt=timedelta(0))
    """How often the whole ledger is proved."""

    @property
    def grants(self) -> Grants:
        return Grants(nanos_of(self.signup_grant), nanos_of(self.operator_grant))
