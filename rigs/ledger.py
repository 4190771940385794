"""What clients know of their calls, kept outside the system under test.

`acked`: the client saw the answer whole. `refused`: it was told no in so many words (429, 503).
`cut`: it was told, after the first content, that the answer broke off.
`unknown`: the connection died; the call may or may not be on record.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

__all__ = ["Entry", "Findings", "Ledger", "compare"]


@dataclass
class Entry:
    """One call as its client knows it; `repeated`: sent again, under its Idempotency-Key."""

    op: str
    stream: bool
    state: str = "unknown"
    request_id: str | None = None
    content: str = ""
    repeated: bool = False


@dataclass
class Ledger:
    """The calls of all clients, by operation name."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def issue(self, op: str, *, stream: bool) -> Entry:
        """Note a call before its first byte is sent."""
        entry = self.entries[op] = Entry(op, stream)
        return entry

    def count(self, state: str) -> int:
        """Return how many calls are in `state`."""
        return sum(entry.state == state for entry in self.entries.values())


@dataclass
class Findings:
    """What a comparison found; `problems` names each violated invariant with its operation."""

    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note a violation."""
        self.problems.append(problem)


_RECORDED = """
SELECT b.request_body -> 'messages' -> -1 ->> 'content' AS op, q.id::text, q.status,
       r.status, rb.content, u.n, r.cost_usd, r.tokens_prompt, r.tokens_completion,
       p.input_cost_per_million, p.output_cost_per_million, u.cost
FROM llm_requests q
JOIN llm_request_bodies b ON b.request_id = q.id
LEFT JOIN llm_responses r ON r.request_id = q.id
LEFT JOIN llm_response_bodies rb ON rb.response_id = r.id
LEFT JOIN llm_pricing p ON p.id = r.pricing_id
LEFT JOIN LATERAL (SELECT count(*) AS n, sum(cost_usd) AS cost FROM llm_token_usage u
                   WHERE u.response_id = r.id) u ON true
WHERE q.model_name = %s
"""


def compare(
    conn: psycopg.Connection[Any], ledger: Ledger, upstream_ops: Counter[str], *, model: str
) -> Findings:
    """Hold the clients' and the provider's ledgers against the rows of calls to `model`.

    Checked: each acknowledged call is exactly one request, response and usage row with equal
    content and exact cost (beside failed ones, if it was repeated); every row was issued; an
    unknown call has at most one row; nothing is left open; every call the provider saw has its
    request row.
    """
    found = Findings()
    rows: dict[str, list[Any]] = {}
    for row in conn.execute(_RECORDED, (model,)).fetchall():
        rows.setdefault(row[0], []).append(row)
    for op, held in rows.items():
        entry = ledger.entries.get(op)
        if entry is None:
            found.add(f"phantom: a row for {op!r}, which nobody issued")
            continue
        if entry.repeated:  # what was refused in so many words may stand there as failed
            held[:] = [row for row in held if row[2] != "failed"] or held
        if len(held) > 1:
            found.add(f"doubled: {len(held)} rows for {op}")
        if held[0][2] not in {"completed", "failed"}:
            found.add(f"open: request of {op} is {held[0][2]}")
    for op, entry in ledger.entries.items():
        if entry.state == "acked":
            _check_acked(found, entry, rows.get(op, []))
    for op in upstream_ops.keys() - rows.keys():
        found.add(f"unrecorded: the provider was called for {op}, which has no request row")
    for op, times in upstream_ops.items():
        if times > 1:
            found.add(f"repeated: the provider was called {times} times for {op}")
    return found


def _check_acked(found: Findings, entry: Entry, held: list[Any]) -> None:
    if not held:
        found.add(f"lost: {entry.op} was acknowledged and has no row")
        return
    row = held[0]
    if row[3] != "completed" or row[2] != "completed":
        found.add(f"wrong state: {entry.op} was acknowledged and is {row[2]}/{row[3]}")
    if row[4] != entry.content:
        found.add(f"content: {entry.op} differs from what the client saw")
    if row[5] != 1:
        found.add(f"usage: {entry.op} has {row[5]} usage rows")
    if entry.request_id is not None and row[1] != entry.request_id:
        found.add(f"identity: {entry.op} was told another request id")
    if row[9] is not None:
        exact = (row[7] * row[9] + row[8] * row[10]) / 1_000_000
        if row[6] != exact or row[11] != exact:
            found.add(f"cost: {entry.op} cost {row[6]}, usage says {row[11]}, exactly {exact}")
