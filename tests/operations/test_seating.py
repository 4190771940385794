"""How many connections all processes may open, told by each and added up (S126)."""

import asyncio
import os

import pytest

from helix.core.db import Connection, connect
from helix.core.seats import Seat, Seating, SeatRow, seat_of, seating_of
from helix.operations import seating as module
from helix.operations.errors import ConnectionsShort
from helix.operations.seating import check_seating


def test_seat_is_read_from_its_name_and_nothing_else_is_one() -> None:
    assert seat_of("helix seat server 51 host.example:42") == SeatRow(
        "server", 51, "host.example", 42
    )
    for name in ("helix recorder admit", "helix seat server x host:1", "psql", ""):
        assert seat_of(name) is None


def test_name_fits_however_long_the_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 100)
    name = Seat("postgresql://x/y", kind="server", most=123_456).name
    assert len(name) <= 63
    found = seat_of(name)
    assert found is not None
    assert (found.most, found.pid) == (123_456, os.getpid())


async def ours(url: str, most: int) -> list[SeatRow]:
    return [seat for seat in (await seating_of(url)).seats if seat.most == most]


async def until_seated(url: str, most: int, *, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await ours(url, most)) != count:  # noqa: ASYNC110 - a backend tells nobody
            await asyncio.sleep(0.02)


async def test_seat_is_there_while_its_process_is(database_url: str) -> None:
    seat = Seat(database_url, kind="server", most=40_001)
    seat.start()
    await until_seated(database_url, 40_001, count=1)
    await seat.stop()
    await until_seated(database_url, 40_001, count=0)


async def test_seat_that_was_cut_is_taken_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix.core.seats._RETRY_S", 0.01)
    monkeypatch.setattr("helix.core.seats._LOOK_S", 0.01)
    seat = Seat(database_url, kind="server", most=40_002)
    seat.start()
    await until_seated(database_url, 40_002, count=1)
    conn = await connect(database_url)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
        seat.name,
    )
    await until_seated(database_url, 40_002, count=1)
    await conn.close()
    await seat.stop()


async def told(monkeypatch: pytest.MonkeyPatch, seating: Seating, most: int) -> list[str]:
    async def known(_: str) -> Seating:
        return seating

    monkeypatch.setattr(module, "seating_of", known)
    lines: list[str] = []
    await check_seating("postgresql://x/y", most=most, report=lines.append)
    return lines


FOUR = tuple(SeatRow("server", 20, "h", pid) for pid in range(4))


async def test_fifth_server_that_passes_the_limit_is_warned_of_before_it_is_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await told(monkeypatch, Seating(100, 30, FOUR), 20) == []
    [line] = await told(monkeypatch, Seating(100, 30, FOUR), 21)
    assert line.startswith(
        "warning: 5 processes may open 101 connections and the server allows 100"
    )
    assert "DATABASE_POOL_SIZE" in line


async def test_process_that_could_not_serve_a_first_call_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConnectionsShort, match="89 of the 100 connections of the server are in"):
        await told(monkeypatch, Seating(100, 89, FOUR), 51)
    assert len(await told(monkeypatch, Seating(100, 88, FOUR), 51)) == 1


async def test_seats_are_seen_by_the_roles_of_the_application(
    database_url: str, owner: Connection
) -> None:
    seat = Seat(database_url, kind="worker", most=40_003)
    seat.start()
    await until_seated(database_url, 40_003, count=1)
    await owner.execute("SET ROLE helix_operator")
    seen = await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", seat.name
    )
    await seat.stop()
    assert seen == 1
