"""The audit: proves the books from their rows alone, and says what is wrong with them.

Every check is one statement over whole tables, all in one snapshot, so that it can run while money
moves. The chains prove that no posting was changed, taken out or put in, and no transfer changed;
whoever can write the last hash into the account as well is found by `digest` alone, if an earlier
one was kept elsewhere: the nightly run logs it.
"""

from dataclasses import dataclass, field

from sqlalchemy import text

from vlinders_kit.db import Tx

MOST_FINDINGS = 100

TIMEOUT_SECONDS = 900
"""What one check may take. A million postings take about seven."""

MEMORY_MB = 64
"""What one sort of a check may take before it goes to disk."""

_CHECKS = {
    "posting {0} of {1} {2}": """
        SELECT seq::text, account_id, CASE
            WHEN NOT sided THEN 'is not a side of its transfer'
            WHEN seq <> place OR balance_nanos <> balance THEN 'is not where the last one leads'
            ELSE 'does not carry the hash of the last one and its own content' END
        FROM (
            SELECT p.account_id, p.seq, p.balance_nanos, p.hash, coalesce(
                (p.account_id = t.source_id AND p.amount_nanos = -t.amount_nanos)
                OR (p.account_id = t.target_id AND p.amount_nanos = t.amount_nanos), false
            ) AS sided,
            row_number() OVER chain AS place,
            coalesce(lag(p.balance_nanos) OVER chain, 0)::numeric + p.amount_nanos AS balance,
            sha256(
                coalesce(lag(p.hash) OVER chain, ''::bytea) || convert_to(json_build_array(
                    p.account_id, p.seq, t.id, t.kind, t.source_id, t.target_id,
                    p.amount_nanos, p.balance_nanos,
                    (extract(epoch FROM t.created_at) * 1000000)::bigint
                )::text, 'UTF8')
            ) AS expected
            FROM posting p LEFT JOIN transfer t ON t.id = p.transfer_id
            WINDOW chain AS (PARTITION BY p.account_id ORDER BY p.seq)
        ) AS links
        WHERE NOT sided OR seq <> place OR balance_nanos <> balance OR hash <> expected
    """,
    "transfer {0} has {1} postings": """
        SELECT t.id, count(p.seq)::text FROM transfer t
        LEFT JOIN posting p ON p.transfer_id = t.id
        -- Looked for only where one is missing: every posting is known to be a side already.
        WHERE (SELECT 2 * count(*) FROM transfer) <> (SELECT count(*) FROM posting)
        GROUP BY t.id HAVING count(p.seq) <> 2
    """,
    "account {0} says {1}, and its postings {2}": """
        SELECT a.id, concat_ws(' ', a.balance_nanos, a.postings, encode(a.head, 'hex')),
            concat_ws(' ', coalesce(p.total, 0), coalesce(p.links, 0), encode(l.hash, 'hex'))
        FROM account a
        LEFT JOIN (
            SELECT account_id, sum(amount_nanos) AS total, count(*) AS links, max(seq) AS last
            FROM posting GROUP BY account_id
        ) AS p ON p.account_id = a.id
        LEFT JOIN posting l ON l.account_id = a.id AND l.seq = p.last
        WHERE a.balance_nanos <> coalesce(p.total, 0) OR a.postings <> coalesce(p.links, 0)
            OR a.head <> coalesce(l.hash, ''::bytea)
    """,
    "account {0} holds {1}, and its open leases {2}": """
        SELECT a.id, a.held_nanos::text, coalesce(l.open, 0)::text FROM account a
        LEFT JOIN (SELECT account_id, sum(open_nanos) AS open FROM lease GROUP BY account_id) AS l
            ON l.account_id = a.id
        WHERE a.held_nanos <> coalesce(l.open, 0)
    """,
    "wallet {0} has {1} available": """
        SELECT id, (balance_nanos - held_nanos)::text FROM account
        WHERE tenant_id IS NOT NULL AND balance_nanos < held_nanos
    """,
    "transfer {0} moves {1}, and its requests were charged {2}": """
        SELECT coalesce(t.id, u.transfer_id), coalesce(t.amount_nanos, 0)::text,
            coalesce(u.charged, 0)::text
        FROM (SELECT * FROM transfer WHERE kind = 'usage') AS t
        FULL JOIN (
            SELECT transfer_id, sum(charged_nanos) AS charged FROM usage_record
            WHERE charged_nanos <> 0 GROUP BY transfer_id
        ) AS u ON u.transfer_id = t.id
        WHERE t.amount_nanos IS DISTINCT FROM u.charged
    """,
    "losses were posted of {0}, and requests lost {1}": """
        SELECT posted::text, lost::text FROM
            (SELECT coalesce(sum(amount_nanos), 0) FROM transfer WHERE kind = 'loss') AS a(posted),
            (SELECT coalesce(sum(lost_nanos), 0) FROM usage_record) AS b(lost)
        WHERE posted <> lost
    """,
    "request {0} was charged {1}, and its price makes {2}": """
        SELECT request_id, taken::text, owed::text FROM (
            SELECT r.request_id, r.charged_nanos + r.lost_nanos AS taken, least(
                r.reported_nanos, r.ceiling_nanos,
                r.input_tokens::numeric * p.input_nanos
                + r.cached_input_tokens::numeric * p.cached_input_nanos
                + r.output_tokens::numeric * p.output_nanos
            ) AS owed
            FROM usage_record r LEFT JOIN price_version p ON p.version = r.price_version
        ) AS rated WHERE taken <> owed
    """,
    "request {0} is not both settled and kept, once": """
        SELECT coalesce(s.request_id, r.request_id) FROM settled_request s
        FULL JOIN (
            SELECT request_id, count(*) AS times, max(finished_at) AS at
            FROM usage_record GROUP BY request_id
        ) AS r ON r.request_id = s.request_id
        WHERE r.times IS DISTINCT FROM 1
            -- That an older one was settled may be forgotten: see `usage.KEPT`.
            OR (s.request_id IS NULL AND r.at > now() - interval '29 days')
    """,
}
"""What would be wrong → where it is. Empty answers prove that it is not."""

_COUNT = text("""
    SELECT (SELECT count(*) FROM account), count(*), coalesce(sum(amount_nanos), 0)::text
    FROM posting
""")
_DIGEST = text("""
    SELECT encode(sha256(coalesce(
        string_agg(sha256(convert_to(id, 'UTF8')) || head, ''::bytea ORDER BY id), ''::bytea
    )), 'hex') FROM account WHERE postings > 0
""")


@dataclass(frozen=True)
class Audit:
    """What was counted, and one sentence for each thing that is wrong."""

    accounts: int
    postings: int
    sum_nanos: int
    digest: str
    """SHA-256 over the last hash of every chain, in hex: equal books have equal digests."""
    findings: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.findings


async def audit(tx: Tx) -> Audit:
    """Proves the books. Must be the first thing that `tx` does."""
    await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    await tx.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT_SECONDS}s'"))
    await tx.execute(text(f"SET LOCAL work_mem = '{MEMORY_MB}MB'"))
    accounts, postings, sum_nanos = (await tx.execute(_COUNT)).one()
    digest = await tx.scalar(_DIGEST) or ""
    findings = [] if int(sum_nanos) == 0 else [f"all postings add up to {sum_nanos}, not 0"]
    for sentence, query in _CHECKS.items():
        rows = await tx.execute(text(f"{query} LIMIT {MOST_FINDINGS}"))
        findings += [sentence.format(*row) for row in rows]
    return Audit(accounts, postings, int(sum_nanos), digest, findings[:MOST_FINDINGS])
