"""Sealing: what audit tables gained is digested, chained and closed, a batch at a time.

Nothing is added to the hot path: rows are inserted as ever, and sealed a little later. Rows come
in the order of their ids, but may become visible out of it; one that comes late is sealed in a
later batch. Nobody seals what lies more than an hour behind the newest sealed row: such a row can
only have been put there, and `verify` tells of it.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from uuid import UUID

import msgspec

from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.core.ids import time_of, uuid7, uuid_floor
from helix.core.instance import write_private
from helix.core.log import get_log
from helix.operations.audit.rows import (
    AUDITED,
    QUERIES,
    AuditRow,
    digest_row,
    fetch_rows,
    fetch_unsealed,
    loose_columns,
)

__all__ = [
    "LATE",
    "SETTLE",
    "Anchor",
    "Closed",
    "anchor_path",
    "context_of_seal",
    "head_of",
    "month_of",
    "read_anchors",
    "rows_digest_of",
    "seal_tables",
    "write_anchors",
]

_log = get_log(__name__)
BATCH_ROWS = 1_000
SETTLE = timedelta(seconds=10)
"""Rows younger than this are left for the next time, so that most batches are in order."""
LATE = timedelta(hours=1)
"""How long after others of its time a row may still become visible."""
_KEY_BYTES = 32
_NO_HEAD = bytes(32)
_SEALS_PER_RUN_MAX = 10_000


class Closed(msgspec.Struct, frozen=True):
    """What the ciphertext of a seal holds: the key of its digests, its head, and its columns."""

    key: bytes
    head: bytes
    columns: list[str]


class Anchor(msgspec.Struct, frozen=True):
    """The last seal of a table that this home has seen; kept outside the database."""

    number: int
    head: bytes


def month_of(row_id: UUID) -> int:
    """Return the UTC month of an id as yyyymm, as the SQL function uuid_month does."""
    moment = time_of(row_id)
    return moment.year * 100 + moment.month


def context_of_seal(seal_id: UUID) -> str:
    """Return the place a seal is encrypted for."""
    return f"audit_seals.seal:{seal_id}"


def rows_digest_of(ids: Sequence[UUID], digests: bytes) -> bytes:
    """Return what stands for the rows of a batch in its head."""
    return hashlib.sha256(b"".join(i.bytes for i in ids) + digests).digest()


def head_of(
    table: str, *, number: int, month: int, before: bytes, count: int, rows_digest: bytes
) -> bytes:
    """Return the head of a seal: the batch before it, its place, and its rows."""
    place = f"helix audit seal {table} {number} {month} {count} ".encode()
    return hashlib.sha256(place + before + rows_digest).digest()


async def seal_tables(conn: Connection, keyring: Keyring, *, now: datetime) -> dict[str, int]:
    """Seal what every audit table gained; return how many rows of each. Commits batch by batch."""
    done = dict.fromkeys(AUDITED, 0)
    for table in AUDITED:
        for _ in range(_SEALS_PER_RUN_MAX):
            async with conn.transaction():
                count = await _seal_batch(conn, keyring, table, now)
            done[table] += count
            if not count:
                break
    async with conn.transaction():
        await _forget_gone_months(conn, now)
    return done


async def _seal_batch(conn: Connection, keyring: Keyring, table: str, now: datetime) -> int:
    await QUERIES.run(conn, "lock_sealing")
    last = await QUERIES.row(conn, "last_seal", table_name=table)
    newest = await QUERIES.row(conn, "newest_sealed", table_name=table)
    above = UUID(int=0)
    if newest is not None:
        late_ms = int(LATE.total_seconds() * 1_000)
        above = UUID(int=max(0, (newest["last_row_id"].int >> 80) - late_ms) << 80)
    columns = await loose_columns(conn, table)
    found = await fetch_unsealed(conn, table, columns, above, uuid_floor(now - SETTLE), BATCH_ROWS)
    if not found:
        return 0
    month = month_of(found[0].id)
    rows: list[AuditRow] = list(takewhile(lambda row: month_of(row.id) == month, found))
    key = os.urandom(_KEY_BYTES)
    ids = [row.id for row in rows]
    digests = b"".join(digest_row(key, row) for row in rows)
    number, before = (1, _NO_HEAD) if last is None else (last["number"] + 1, last["head"])
    rows_digest = rows_digest_of(ids, digests)
    head = head_of(
        table, number=number, month=month, before=before, count=len(rows), rows_digest=rows_digest
    )
    seal_id = uuid7(int(now.timestamp() * 1_000))
    closed = msgspec.json.encode(Closed(key, head, columns)).decode()
    sealed = keyring.encrypt(closed, context=context_of_seal(seal_id))
    await QUERIES.run(
        conn,
        "insert_seal",
        id=seal_id,
        table_name=table,
        number=number,
        month=month,
        first_row_id=ids[0],
        last_row_id=ids[-1],
        row_count=len(ids),
        row_ids=ids,
        row_digests=digests,
        rows_digest=rows_digest,
        head=head,
        seal=sealed,
        key_id=sealed.split(":")[1],
    )
    _log.info("audit_sealed", table=table, number=number, rows=len(ids), head=head.hex())
    return len(ids)


async def _forget_gone_months(conn: Connection, now: datetime) -> None:
    """Empty the seals of months that retention has dropped; their heads stay."""
    month = month_of(uuid_floor(now))
    rows = await QUERIES.rows(conn, "list_full_seals_of_gone_months", month=month, max_count=1_000)
    gone = [
        row["id"]
        for row in rows
        if not await fetch_rows(conn, row["table_name"], [], row["row_ids"])
    ]
    if gone:
        await QUERIES.run(conn, "empty_seals", ids=gone)


def anchor_path(home: Path) -> Path:
    """Return where a home keeps the last seals it has seen."""
    return home / "audit.anchors"


def read_anchors(home: Path) -> dict[str, Anchor]:
    """Return the last seals this home has seen, by table; nothing when there is no file."""
    try:
        return msgspec.json.decode(anchor_path(home).read_bytes(), type=dict[str, Anchor])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


async def write_anchors(conn: Connection, home: Path, *, reset: bool = False) -> None:
    """Keep the last seals in the home; never go back, unless `reset` after a restore."""
    anchors = {} if reset else read_anchors(home)
    for table in AUDITED:
        last = await QUERIES.row(conn, "last_seal", table_name=table)
        if last is None:
            continue
        known = anchors.get(table)
        if known is None or known.number < last["number"]:
            anchors[table] = Anchor(last["number"], last["head"])
    write_private(anchor_path(home), msgspec.json.encode(anchors))
