"""The oracle: what clients saw, engines produced and billing charged, held against each other.

An operation may have come to one of two ends where nobody can say which, but never to both. Rules:

- An answer that came whole is charged its engine's tokens, to the nano, once.
- So is one whose client left: what the engine had produced by the time it stopped.
- One that broke is charged at most what its engines produced, and at least what its client saw.
- One whose end nobody knows is charged at most what its engines produced.
- Nothing else is charged, nothing stays held, and the books prove themselves.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.load import Operation
from tests.chaos.stack import CACHED, INPUT, OUTPUT, Chaos
from tests.platform import User, eventually

Record = dict[str, Any]
SETTLED_SECONDS = 60.0
"""How long settling may take: a killed replica's leases have to end first."""


@dataclass
class Verdict:
    """A sentence for each thing that is wrong; no sentence at all is what must be."""

    lost: list[str] = field(default_factory=list)
    """Produced and received, and not charged."""
    double: list[str] = field(default_factory=list)
    """Charged twice."""
    unexplained: list[str] = field(default_factory=list)
    """Charged otherwise than its engine's count and its price say, or for no operation at all."""
    holds_left: list[str] = field(default_factory=list)
    """Money that is held though nothing runs."""

    @property
    def findings(self) -> list[str]:
        return [*self.lost, *self.double, *self.unexplained, *self.holds_left]


async def settle(chaos: Chaos, *users: User, seconds: float = SETTLED_SECONDS) -> None:
    """Returns when no event is under way any more, and nothing of the users' wallets is held; at
    the latest after `seconds`, for the verdict to say what is wrong."""

    async def settled() -> bool:
        for database in ("inference", "billing"):
            rows = await chaos.platform.sql(database, "SELECT 1 FROM outbox LIMIT 1")
            if rows:
                return False
        wallets = [await user.data("GET", "/v1/wallet") for user in users]
        return not any(int(wallet["held_nanos"]) for wallet in wallets)

    try:
        await eventually(settled, seconds)
    except TimeoutError:
        return


async def judge(chaos: Chaos, user: User, operations: Sequence[Operation]) -> Verdict:
    """What is wrong with the user's money, all of whose calls were `operations`."""
    verdict = Verdict()
    records = await user.every("/v1/usage/records")
    found = _matched(operations, records, verdict)
    for operation in operations:
        _compare(operation, found[operation.name], chaos.produced(operation.name), verdict)
    await _prove(chaos, user, records, verdict)
    return verdict


def _matched(
    operations: Iterable[Operation], records: Iterable[Record], verdict: Verdict
) -> defaultdict[str, list[Record]]:
    """The records of each operation: by the request's id, or else by the prompt's length."""
    by_id = {each.request_id: each.name for each in operations if each.request_id}
    by_prompt = {
        (each.prompt - each.cached, each.cached): each.name
        for each in operations
        if not each.request_id
    }
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        prompt = record["input_tokens"], record["cached_input_tokens"]
        name = by_id.get(record["request_id"]) or by_prompt.get(prompt)
        if name is not None:
            found[name].append(record)
        elif record["charged_nanos"]:
            verdict.unexplained.append(f"{record['request_id']} is charged, and nobody asked it")
    return found


def _compare(
    operation: Operation, records: list[Record], attempts: list[int], verdict: Verdict
) -> None:
    what = f"{operation.request_id or operation.name} ({operation.outcome})"
    charged = [record for record in records if record["charged_nanos"]]
    if len(charged) > 1:
        verdict.double.append(f"{what} has {len(charged)} charges")
        return
    if not charged:
        if operation.outcome == "ok" or (operation.left and any(attempts)):
            verdict.lost.append(f"{what} saw {operation.seen} tokens and is not charged")
        return
    (record,) = charged
    output, produced = record["output_tokens"], max(attempts, default=0)
    exact = operation.outcome == "ok" or operation.left
    least = produced if exact else operation.seen if operation.outcome == "failed" else 0
    if not least <= output <= produced:
        verdict.unexplained.append(
            f"{what} is charged {output} tokens; the engine produced {produced},"
            f" {operation.seen} came"
        )
    cost = record["input_tokens"] * INPUT + record["cached_input_tokens"] * CACHED + output * OUTPUT
    if record["charged_nanos"] != cost:
        verdict.unexplained.append(f"{what} costs {cost}, and {record['charged_nanos']} is charged")


async def _prove(chaos: Chaos, user: User, records: list[Record], verdict: Verdict) -> None:
    """The wallet is what was put in less what was charged; the ledger proves itself."""
    wallet = await user.data("GET", "/v1/wallet")
    if held := int(wallet["held_nanos"]):
        verdict.holds_left.append(f"{held} of {user.tenant_id} are held")
    given = sum(
        int(row["amount_nanos"])
        for row in await user.every("/v1/wallet/transfers")
        if row["kind"] != "usage"
    )
    left = given - sum(int(record["charged_nanos"]) for record in records)
    if int(wallet["balance_nanos"]) != left:
        verdict.unexplained.append(f"the wallet has {wallet['balance_nanos']}, not {left}")
    audit = await chaos.platform.audit()
    verdict.unexplained += [f"the ledger: {finding}" for finding in audit["findings"]]
    if int(audit["sum_nanos"]):
        verdict.unexplained.append(f"all postings add up to {audit['sum_nanos']}, not 0")
