"""Killed between any two statements and run again: nothing lost, nothing doubled.

A kill is the connection's end before a statement, as kill -9 of the process is to the server; every
place is tried, in one database that is put back by archiving the same calls anew.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from helix.core.db import Connection, connect
from helix.operations.archive import query, restore, verify
from helix.operations.archive.types import Filters
from tests.factories import make_error, make_usage
from tests.operations.retention.conftest import House, call, contents, months_ago

NOW = datetime.now(UTC)
_STATEMENTS = frozenset({
    "copy_from_query", "copy_records_to_table", "copy_to_table", "execute", "fetch", "fetchrow",
    "fetchval",
})  # fmt: skip


class Killed(Exception):
    """The process is no more."""


DEAD = (Killed, asyncpg.InterfaceError)  # the second: of a transaction whose connection is gone


class Mortal:
    """A connection that is cut before its `dies_at`th statement."""

    def __init__(self, conn: Connection, dies_at: int, killer: Connection) -> None:
        self._conn = conn
        self._left = dies_at
        self._killer = killer

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._conn, name)
        if name not in _STATEMENTS:
            return found

        async def counted(*args: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                pid = self._conn.get_server_pid()
                await self._killer.execute("SELECT pg_terminate_backend($1, 10000)", pid)
                self._conn.terminate()
                raise Killed
            return await found(*args, **named)

        return counted


class Reaper:
    """Opens connections that are cut at one place, and says whether it came to that."""

    def __init__(self, dies_at: int, killer: Connection) -> None:
        self._dies_at = dies_at
        self._killer = killer

    async def __call__(self, url: str) -> Connection:
        return Mortal(await connect(url), self._dies_at, self._killer)


async def killed_at(house: House, owner: Connection, place: int, **given: Any) -> bool:
    """Run until the kill; False when the run came to its end before."""
    try:
        await house.run(opener=Reaper(place, owner), **given)
    except DEAD:
        return True
    return False


async def archived(house: House, conn: Connection) -> Counter[Any]:
    """Return how often each request is in the archive."""
    found = query(conn, house.settings, house.keyring, Filters(), max_count=1_000)
    return Counter([row["id"] async for row in found])


async def errors(conn: Connection) -> tuple[int, int]:
    """Return how many errors there are, one by one or summed up; and how many one by one."""
    row = await conn.fetchrow(
        "SELECT (SELECT count(*) FROM error_log) AS single, "
        "(SELECT coalesce(sum(count), 0)::bigint FROM error_log_summary) AS summed"
    )
    return row["single"] + row["summed"], row["single"]


async def usage(conn: Connection) -> tuple[int, int]:
    """Return how much usage of old months there is: of the ledger, and by the sums of days."""
    row = await conn.fetchrow(
        "SELECT (SELECT count(*) FROM llm_token_usage WHERE timestamp < $1) AS single, "
        "(SELECT coalesce(sum(call_count), 0)::bigint FROM llm_usage_daily WHERE day < $2) "
        "AS summed",
        months_ago(13),
        months_ago(13).date(),
    )
    return row["summed"], row["single"]


@pytest.mark.parametrize("table", ["error_log", "llm_token_usage", "llm_usage_hourly"])
async def test_sums_are_exact_wherever_the_run_was_killed(
    house: House, owner: Connection, table: str
) -> None:
    await owner.execute("DELETE FROM llm_requests")
    place, made, killed = 0, 0, True
    while killed:
        for n in range(2):
            if table == "error_log":
                await make_error(owner, at=months_ago(5) + timedelta(days=n))
            else:
                at = months_ago(14) + timedelta(days=n)
                later = NOW + timedelta(hours=1)  # than the floor that was set before
                await make_usage(owner, at=at, user_id=None, created_at=later)
        made += 2
        for _ in range(2):
            killed = await killed_at(house, owner, place, only=table)
            place += 1
            if table == "error_log":
                assert (await errors(owner))[0] == made, place
        assert (await house.run(only=table)).errors == ()
        if table == "error_log":
            assert await errors(owner) == (made, 0), place
        else:
            await house.run(only="llm_token_usage")
            assert await usage(owner) == (made, 0), place
    assert place > 10


async def test_an_archive_is_whole_wherever_the_run_was_killed(
    house: House, owner: Connection
) -> None:
    house.settings = house.settings.model_copy(update={"archive_file_requests": 5})
    before = await contents(owner)
    places = 0
    while await killed_at(house, owner, places, only="llm_requests"):
        places += 1
        # What is in the database or in a file whose rows have left it: each call once, and no more.
        left = {row["id"] for row in await owner.fetch("SELECT id FROM llm_requests")}
        gone = await owner.fetch("SELECT month FROM archive_files WHERE status = 'archived'")
        found = await archived(house, owner)
        months = {row["month"] for row in gone}
        only_there = {i for i in found if i not in left}
        assert left | only_there == {*house.old, house.new}, places
        assert max(found.values(), default=1) == 1, places
        assert bool(only_there) == bool(months)
    assert places > 40
    assert set(await archived(house, owner)) == set(house.old)
    faults = [one.fault async for one in verify(owner, house.settings, house.keyring)]
    assert faults == [None] * 4
    for months_back in (7, 6):
        month = months_ago(months_back).date().replace(day=1)
        await restore(
            house.url, house.settings, house.keyring, from_month=month, to_month=month, now=NOW
        )
    assert await contents(owner) == before
    files = sorted(p.name for p in house.settings.archive_path.glob("*/*"))
    names = await owner.fetch("SELECT name FROM archive_files")
    assert files == sorted(row["name"].partition("/")[2] for row in names), "nothing is left over"


async def test_a_restore_that_was_killed_is_finished_by_the_next(
    house: House, owner: Connection
) -> None:
    before = await contents(owner)
    await house.run()
    place = 0
    months = [months_ago(n).date().replace(day=1) for n in (7, 6)]
    while True:
        try:
            await restore(
                house.url, house.settings, house.keyring, from_month=months[0],
                to_month=months[1], now=NOW, opener=Reaper(place, owner),
            )  # fmt: skip
            break
        except DEAD:
            place += 7
    assert place > 40
    assert await contents(owner) == before


async def test_a_call_that_comes_while_its_month_is_archived_is_not_lost(
    house: House, owner: Connection
) -> None:
    """It turns up after the files were written, before the month is dropped."""
    late: list[Any] = []

    class Meddler(Mortal):
        def __getattr__(self, name: str) -> Any:
            found = super().__getattr__(name)
            if name != "execute":
                return found

            async def meddled(query: str, *args: Any, **named: Any) -> Any:
                if query.startswith("LOCK TABLE") and not late:
                    late.append(await call(owner, house.users[0], months_ago(7)))
                return await found(query, *args, **named)

            return meddled

    async def opener(url: str) -> Connection:
        return Meddler(await connect(url), 1_000_000, owner)

    done = await house.run(opener=opener, only="llm_requests")
    assert done.errors == ()
    assert len(late) == 1
    found = await archived(house, owner)
    assert set(found) == {*house.old, *late}
    assert set(found.values()) == {1}
