"""Verifying: every sealed row against its digest, every seal against the chain, the chain's end.

What is found names the table and the row: edited, removed, added behind the seals, seals changed,
removed or put in another order, the newest seals cut off. What cannot be found is what happened to
a row before it was sealed, some minutes at most, and a cut-off end that no home remembers.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection
from helix.operations.audit.rows import (
    AUDITED,
    DIGEST_BYTES,
    QUERIES,
    AuditRow,
    all_ids,
    digest_row,
    fetch_rows,
)
from helix.operations.audit.seal import (
    LATE,
    Anchor,
    Closed,
    context_of_seal,
    head_of,
    rows_digest_of,
)

__all__ = ["Finding", "Verdict", "verify_tables"]

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was sealed; `row_id` None when a seal itself is at fault."""

    table: str
    kind: str
    row_id: UUID | None
    what: str


@dataclass(slots=True)
class Verdict:
    """What a table looks like: rows that agree, emptied values, rows not sealed yet, findings."""

    table: str
    seals: int = 0
    rows: int = 0
    emptied: int = 0
    unsealed: int = 0
    dropped: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, what: str, row_id: UUID | None = None) -> None:
        """Take a finding down."""
        self.findings.append(Finding(self.table, kind, row_id, what))


async def verify_tables(
    conn: Connection, keyring: Keyring, anchors: Mapping[str, Anchor]
) -> list[Verdict]:
    """Verify every audit table as of one moment: the connection is in a REPEATABLE READ one."""
    return [await _verify(conn, keyring, table, anchors.get(table)) for table in AUDITED]


async def _verify(conn: Connection, keyring: Keyring, table: str, anchor: Anchor | None) -> Verdict:
    verdict = Verdict(table)
    sealed: set[UUID] = set()
    number, before, newest = 0, bytes(32), UUID(int=0)
    heads: dict[int, bytes] = {}
    while seals := await QUERIES.rows(
        conn, "list_seals", table_name=table, after=number, max_count=_PAGE
    ):
        for seal in seals:
            follows: bytes | None = before
            if seal["number"] != number + 1:
                missing = f"{number + 1} to {seal['number'] - 1}"
                verdict.add("seal_removed", f"seals {missing} are missing from the chain")
                follows = None
            await _verify_seal(conn, keyring, verdict, seal, follows, sealed)
            number, before = seal["number"], seal["head"]
            newest = max(newest, seal["last_row_id"])
            heads[number] = before
            verdict.seals += 1
    _verify_end(verdict, anchor, heads)
    await _verify_rest(conn, verdict, sealed, newest)
    return verdict


async def _verify_seal(  # noqa: PLR0917 - its one caller names them all
    conn: Connection,
    keyring: Keyring,
    verdict: Verdict,
    seal: Any,
    before: bytes | None,
    sealed: set[UUID],
) -> None:
    table, number, ids = verdict.table, seal["number"], seal["row_ids"]
    if before is not None and seal["head"] != head_of(
        table,
        number=number,
        month=seal["month"],
        before=before,
        count=seal["row_count"],
        rows_digest=seal["rows_digest"],
    ):
        verdict.add("seal_changed", f"seal {number} does not follow from the one before it")
    try:
        opened = keyring.decrypt(seal["seal"], context=context_of_seal(seal["id"]))
        closed = msgspec.json.decode(opened, type=Closed)
    except (SecretUnreadable, msgspec.DecodeError) as exc:
        verdict.add("seal_changed", f"seal {number} does not open: {exc}")
        return
    if closed.head != seal["head"]:
        verdict.add("seal_changed", f"seal {number} is not the one that was closed")
    if ids is None:
        verdict.dropped[seal["month"]] += seal["row_count"]
        if not seal["month_gone"]:
            verdict.add("seal_changed", f"seal {number} lists no rows, and its month is there")
        return
    sealed.update(ids)
    if rows_digest_of(ids, seal["row_digests"]) != seal["rows_digest"]:
        verdict.add("seal_changed", f"the rows listed in seal {number} were changed")
        return
    found = await fetch_rows(conn, table, closed.columns, ids)
    if not found and seal["month_gone"]:
        verdict.dropped[seal["month"]] += len(ids)
        return
    size = DIGEST_BYTES * (1 + len(closed.columns))
    for i, row_id in enumerate(ids):
        row = found.get(row_id)
        if row is None:
            verdict.add("row_removed", f"sealed in seal {number}, and gone", row_id)
        else:
            _verify_row(verdict, closed, row, seal["row_digests"][i * size : (i + 1) * size])


def _verify_row(verdict: Verdict, closed: Closed, row: AuditRow, expected: bytes) -> None:
    made = digest_row(closed.key, row)
    edited = []
    for place, name in enumerate(["what never changes", *closed.columns]):
        part = slice(place * DIGEST_BYTES, (place + 1) * DIGEST_BYTES)
        if made[part] == expected[part]:
            continue
        if place and row.loose[place - 1] is None:
            verdict.emptied += 1
        else:
            edited.append(name)
    if edited:
        verdict.add("row_edited", f"changed: {', '.join(edited)}", row.id)
    else:
        verdict.rows += 1


def _verify_end(verdict: Verdict, anchor: Anchor | None, heads: Mapping[int, bytes]) -> None:
    if anchor is None:
        return
    head = heads.get(anchor.number)
    if head is None:
        verdict.add(
            "tail_removed",
            f"seal {anchor.number}, which this home has seen, is gone; the last is "
            f"{max(heads, default=0)}",
        )
    elif head != anchor.head:
        verdict.add("seal_changed", f"seal {anchor.number} is not the one this home has seen")


async def _verify_rest(conn: Connection, verdict: Verdict, sealed: set[UUID], newest: UUID) -> None:
    """Look for rows that no seal has: new ones are to come, old ones were put there."""
    late_ms = int(LATE.total_seconds() * 1_000)
    limit = UUID(int=max(0, (newest.int >> 80) - late_ms) << 80)
    async for row_id in all_ids(conn, verdict.table):
        if row_id in sealed:
            continue
        if row_id < limit:
            verdict.add("row_added", "lies behind sealed rows, and no seal has it", row_id)
        else:
            verdict.unsealed += 1
