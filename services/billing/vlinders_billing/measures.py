"""What is measured of money: charges and their flags, what is lent, the proof of the ledger."""

import time
from collections.abc import Iterable, Mapping
from functools import partial

from sqlalchemy import text

from vlinders_billing.audit import Audit
from vlinders_billing.charges import Charge, Flag
from vlinders_kit.db import Tx
from vlinders_kit.metrics import Counts, Labels, gauge

_SETTLED = Counts("vlinders_billing_requests_settled", "Requests that were charged.")
_CHARGED = Counts("vlinders_billing_charged_nanos", "What tenants were charged.")
_LOST = Counts("vlinders_billing_lost_nanos", "What was due, and the platform bears.")
_ESTIMATED = Counts(
    "vlinders_billing_requests_estimated", "Settled requests whose tokens were estimated."
)
_FLAGGED = Counts(
    "vlinders_billing_requests_flagged",
    "Settled requests that were not simply charged as reported.",
    ("flag",),
)
_LENT = text("SELECT count(*), coalesce(sum(open_nanos), 0) FROM lease WHERE over_at IS NULL")

_now: dict[str, float] = {}
"""What the gauges tell: figures of the whole database, as this replica saw them last."""


def _seen(name: str) -> Mapping[Labels, float]:
    return {(): _now[name]} if name in _now else {}


for _name, _text in (
    ("vlinders_billing_leases_open", "Credit leases that are not over."),
    ("vlinders_billing_credit_lent_nanos", "Credit that is out in leases, and not used yet."),
    ("vlinders_billing_settle_delay_seconds", "From a request's end to its charge, the last time."),
    ("vlinders_billing_ledger_findings", "Faults that the last proof of the ledger has found."),
    ("vlinders_billing_ledger_proved_timestamp_seconds", "When the ledger was proved last."),
):
    gauge(_name, _text, partial(_seen, _name))


def settled(charges: Iterable[Charge]) -> None:
    """Counts what a transaction has charged, once it has committed."""
    number = charged = lost = estimated = 0
    ended = 0.0
    for charge in charges:
        number += 1
        charged += charge.charged_nanos
        lost += charge.lost_nanos
        estimated += charge.event.estimated
        ended = max(ended, charge.finished_at.timestamp())
        if charge.flags:
            for flag in Flag:
                if charge.flags & flag:
                    _FLAGGED.add((str(flag.name).lower(),))
    _SETTLED.add(number=number)
    _CHARGED.add(number=charged)
    _LOST.add(number=lost)
    _ESTIMATED.add(number=estimated)
    _now["vlinders_billing_settle_delay_seconds"] = max(0.0, time.time() - ended)


async def lent(tx: Tx) -> None:
    """Looks at what is lent."""
    leases, nanos = (await tx.execute(_LENT)).one()
    _now["vlinders_billing_leases_open"] = leases
    _now["vlinders_billing_credit_lent_nanos"] = float(nanos)


def proved(found: Audit) -> None:
    """Notes how a proof of the ledger ended."""
    _now["vlinders_billing_ledger_findings"] = len(found.findings) + (not found.sound)
    _now["vlinders_billing_ledger_proved_timestamp_seconds"] = time.time()
