"""A home, keys, and a database with calls of an old month, of a younger one, and of now."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, connect
from helix.core.ids import IdSource
from helix.operations.retention import run
from helix.operations.retention.types import RunReport
from tests.factories import (
    make_api_key,
    make_request,
    make_request_body,
    make_response,
    make_response_body,
    make_usage,
    make_user,
)

FAMILY = ("llm_requests", "llm_request_bodies", "llm_responses", "llm_response_bodies")
# Everything a COPY in text format must escape, and what jsonb would refuse or reorder.
TRICKY = 'tab\there, line\nthere, backslash \\ and \\N, "quotes", nul \\u0000 as JSON, ünïcode 💡'


def months_ago(count: int, *, day: int = 15) -> datetime:
    """Return noon of a day of the month that was `count` months before this one, in UTC."""
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - count, 12)
    return datetime(year, month + 1, day, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"HELIX_PARTITION_TRIES": "3"}, home=tmp_path / "home")


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([new_key()])


async def no_pause(_: float) -> None:
    """Try again at once."""


@dataclass
class House:
    """Two users and their calls: `old` ones past 90 days, one of now."""

    url: str
    settings: Settings
    keyring: Keyring
    users: tuple[UUID, UUID]
    old: list[UUID]
    new: UUID

    async def run(self, *, now: datetime | None = None, **given: Any) -> RunReport:
        """Run retention at a moment."""
        moment = now or datetime.now(UTC)
        return await run(
            self.url,
            self.settings,
            self.keyring,
            now=moment,
            run_id=IdSource().next(moment),
            pause=no_pause,
            **given,
        )


async def call(conn: Connection, user_id: UUID, at: datetime, **fields: Any) -> UUID:
    """Make a whole call: request, answer, both texts and usage."""
    request = await make_request(
        conn,
        at=at,
        user_id=user_id,
        status="completed",
        completed_at=at + timedelta(seconds=1),
        metadata={"note": TRICKY.replace("\\u0000", "")},
        **fields,
    )
    response = await make_response(
        conn,
        request,
        created_at=at + timedelta(seconds=1),
        upstream_id="up-1",
        cost_usd=Decimal("0.000123456789"),
    )
    await make_request_body(
        conn, request, request_body='{"b": 1,  "a": "\\u0000 \\\\ x", "b": 2}', body_bytes=36
    )
    await make_response_body(conn, response, content=TRICKY, raw_response='{"z":1, "a":\n2}')
    await make_usage(conn, response, at=at + timedelta(seconds=1))
    found: UUID = request["id"]
    return found


@pytest.fixture
async def house(database_url: str, settings: Settings, keyring: Keyring) -> House:
    """The house, with 12 calls of seven months ago, 3 of six months ago, and one of now."""
    conn = await connect(database_url)
    try:
        users = [(await make_user(conn))["id"] for _ in range(2)]
        key = await make_api_key(conn, user_id=users[0])
        old = []
        for n in range(12):
            who = users[n % 2]
            fields: dict[str, Any] = {"api_key_id": key["id"]} if who == users[0] else {}
            at = months_ago(7) + timedelta(hours=n)
            old.append(await call(conn, who, at, agent_id=f"agent-{n}", **fields))
        old += [await call(conn, users[0], months_ago(6) + timedelta(hours=n)) for n in range(3)]
        new = await call(conn, users[1], datetime.now(UTC))
    finally:
        await conn.close()
    return House(database_url, settings, keyring, (users[0], users[1]), old, new)


async def contents(conn: Connection) -> dict[str, list[tuple[str, ...]]]:
    """Return every row of the four tables of calls, as text, in the order of their keys."""
    found = {}
    for table in FAMILY:
        rows = await conn.fetch(f"SELECT t::text AS row FROM {table} AS t ORDER BY 1")
        found[table] = [(row["row"],) for row in rows]
    return found
