"""Archived requests: out of the database, in files that can be read, and back as they were."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, SecretUnreadable, new_key
from helix.core.db import Connection
from helix.operations.archive import query, restore, unlisted, verify
from helix.operations.archive.errors import ArchiveDamaged, ArchiveNotFound
from helix.operations.archive.types import Filters
from helix.operations.doctor import Finding, Severity, examine
from tests.factories import insert
from tests.operations.retention.conftest import (
    FAMILY,
    TRICKY,
    House,
    call,
    contents,
    months_ago,
)

NOW = datetime.now(UTC)


async def rows_of(house: House, conn: Connection, **filters: Any) -> list[dict[str, Any]]:
    """Return what a query of the archive gives, texts and all."""
    found = query(
        conn, house.settings, house.keyring, Filters(**filters), texts=True, max_count=1_000
    )
    return [row async for row in found]


async def bring_back(house: House, months: int, *, now: datetime = NOW) -> Any:
    month = months_ago(months).date().replace(day=1)
    return await restore(
        house.url, house.settings, house.keyring, from_month=month, to_month=month, now=now
    )


def files_of(house: House) -> list[Path]:
    return sorted(house.settings.archive_path.glob("*/*.hxa"))


async def test_old_requests_leave_the_database_and_come_back_equal(
    house: House, owner: Connection
) -> None:
    before = await contents(owner)
    await house.run()
    assert await owner.fetchval("SELECT array_agg(id) FROM llm_requests") == [house.new]
    assert len(files_of(house)) == 2
    for months, count in ((7, 12), (6, 3)):
        (done,) = await bring_back(house, months)
        assert (done.request_count, done.response_count, done.text_count) == (
            count, count, 2 * count,
        )  # fmt: skip
        assert done.withheld_count == 0
    assert await contents(owner) == before
    month = f"llm_requests_p{months_ago(7):%Y%m}"
    found = await owner.fetchval(
        "SELECT count(*) FROM llm_requests WHERE tableoid = $1::text::regclass", month
    )
    assert found == 12


async def test_ledger_and_sums_stay_when_requests_go(house: House, owner: Connection) -> None:
    await house.run()
    assert await owner.fetchval("SELECT count(*) FROM llm_token_usage") == 16
    assert await owner.fetchval("SELECT sum(call_count) FROM llm_usage_monthly") == 16
    assert await owner.fetchval("SELECT count(*) FROM llm_request_bodies") == 1


async def test_files_hold_at_most_as_many_requests_as_is_set(
    house: House, owner: Connection
) -> None:
    house.settings = house.settings.model_copy(update={"archive_file_requests": 5})
    before = await contents(owner)
    await house.run()
    counts = await owner.fetch("SELECT request_count FROM archive_files ORDER BY first_request_id")
    assert [row["request_count"] for row in counts] == [5, 5, 2, 3]
    await bring_back(house, 7)
    await bring_back(house, 6)
    assert await contents(owner) == before


async def test_a_query_reads_without_bringing_back(house: House, owner: Connection) -> None:
    await house.run()
    everything = await rows_of(house, owner)
    assert [row["id"] for row in everything] == house.old
    first = everything[0]
    assert first["agent_id"] == "agent-0"
    assert bytes(first["request_body"]) == b'{"b": 1,  "a": "\\u0000 \\\\ x", "b": 2}'
    assert first["responses"][0]["content"] == TRICKY
    assert bytes(first["responses"][0]["raw_response"]) == b'{"z":1, "a":\n2}'
    assert first["responses"][0]["cost_usd"] == "0.000123456789"
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (lambda h: {"user_id": h.users[1]}, [1, 3, 5, 7, 9, 11]),
        (lambda h: {"request_id": h.old[4]}, [4]),
        (lambda h: {"from_time": months_ago(6)}, [12, 13, 14]),
        (lambda h: {"to_time": months_ago(7) + timedelta(hours=2)}, [0, 1]),
        (lambda h: {"model": "nothing of that name"}, []),
        (lambda h: {"model": "mock/echo", "user_id": h.users[0], "from_time": months_ago(6)},
         [12, 13, 14]),
    ],
)  # fmt: skip
async def test_a_query_gives_what_its_filters_name(
    house: House,
    owner: Connection,
    filters: Callable[[House], dict[str, Any]],
    expected: list[int],
) -> None:
    await house.run()
    found = await rows_of(house, owner, **filters(house))
    assert [row["id"] for row in found] == [house.old[n] for n in expected]


async def test_a_month_that_was_brought_back_stays_until_its_time_is_over(
    house: House, owner: Connection
) -> None:
    await house.run()
    await bring_back(house, 7)
    await house.run()
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == 13
    later = datetime.now(UTC) + timedelta(days=31)
    await house.run(now=later, only="llm_requests")
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == 1
    assert len(files_of(house)) == 2, "nothing is archived twice"
    assert len(await rows_of(house, owner)) == 15


async def test_bringing_back_twice_doubles_nothing(house: House, owner: Connection) -> None:
    before = await contents(owner)
    await house.run()
    await bring_back(house, 7)
    (again,) = await bring_back(house, 7)
    assert again.request_count == again.response_count == again.text_count == 0
    await bring_back(house, 6)
    assert await contents(owner) == before


async def test_a_call_that_turns_up_in_an_archived_month_is_archived_too(
    house: House, owner: Connection
) -> None:
    await house.run()
    late = await call(owner, house.users[0], months_ago(7) + timedelta(days=3))
    await house.run()
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == 1
    assert late in [row["id"] for row in await rows_of(house, owner)]
    assert len(await rows_of(house, owner)) == 16


async def test_of_an_erased_user_the_numbers_stay_and_nothing_else(
    house: House, owner: Connection
) -> None:
    await house.run()
    gone = house.users[1]
    await owner.execute("DELETE FROM users WHERE id = $1", gone)
    found = await rows_of(house, owner)
    assert len(found) == 15
    theirs = [row for row in found if row["id"] in set(house.old[1:12:2])]
    assert len(theirs) == 6
    for row in theirs:
        assert (row["user_id"], row["withheld"]) == (None, True)
        assert "request_body" not in row
        assert "metadata" not in row
        assert "agent_id" not in row
        assert "content" not in row["responses"][0]
        assert "upstream_id" not in row["responses"][0]
        assert row["responses"][0]["tokens_total"] == 15
    (done,) = await bring_back(house, 7)
    assert (done.request_count, done.text_count, done.withheld_count) == (12, 12, 12)
    kept = await owner.fetch(
        "SELECT user_id, agent_id, metadata, model_params FROM llm_requests WHERE id = ANY ($1)",
        house.old[1:12:2],
    )
    assert [tuple(row) for row in kept] == [(None, None, None, {})] * 6
    texts = "SELECT count(*) FROM llm_request_bodies WHERE request_id = ANY ($1)"
    assert await owner.fetchval(texts, house.old[1:12:2]) == 0
    checks = [one async for one in verify(owner, house.settings, house.keyring)]
    assert [one.fault for one in checks] == [None, None]


async def test_a_text_that_was_deleted_does_not_come_back(house: House, owner: Connection) -> None:
    await house.run()
    await insert(owner, "archive_tombstones", request_id=house.old[0], user_id=house.users[0])
    found = {row["id"]: row for row in await rows_of(house, owner)}
    assert "request_body" not in found[house.old[0]]
    assert found[house.old[0]]["withheld"] is True
    assert "request_body" in found[house.old[2]]
    (done,) = await bring_back(house, 7)
    assert (done.request_count, done.text_count, done.withheld_count) == (12, 22, 2)


async def test_another_users_tombstone_withholds_nothing(house: House, owner: Connection) -> None:
    await house.run()
    await insert(owner, "archive_tombstones", request_id=house.old[0], user_id=house.users[1])
    found = await rows_of(house, owner, request_id=house.old[0])
    assert "request_body" in found[0]


async def test_references_to_what_is_gone_are_let_go_of(house: House, owner: Connection) -> None:
    await house.run()
    await owner.execute("DELETE FROM api_keys WHERE user_id = $1", house.users[0])
    (done,) = await bring_back(house, 7)
    assert done.request_count == 12
    assert await owner.fetchval("SELECT count(api_key_id) FROM llm_requests") == 0


# ---- damage ------------------------------------------------------------------------------------


async def faults(house: House, conn: Connection, keyring: Keyring | None = None) -> list[Any]:
    checks = verify(conn, house.settings, keyring or house.keyring)
    return [one.fault async for one in checks]


async def test_every_flipped_byte_is_found(house: House, owner: Connection) -> None:
    await house.run()
    path = files_of(house)[0]
    whole = path.read_bytes()
    for place in [0, 3, 10, 20, 40, len(whole) // 2, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = await faults(house, owner)
        assert sum(fault is not None for fault in found) == 1, place
    path.write_bytes(whole)
    assert await faults(house, owner) == [None, None]


async def test_a_file_that_is_cut_missing_or_another_is_found(
    house: House, owner: Connection
) -> None:
    await house.run()
    one, other = files_of(house)
    whole = one.read_bytes()
    one.write_bytes(whole[:-1])
    assert [f is None for f in await faults(house, owner)].count(False) == 1
    one.write_bytes(other.read_bytes())
    assert [f is None for f in await faults(house, owner)].count(False) == 1
    one.unlink()
    assert "is missing" in str(await faults(house, owner))
    with pytest.raises(ArchiveDamaged):
        await rows_of(house, owner)


async def test_a_damaged_file_brings_nothing_back(house: House, owner: Connection) -> None:
    house.settings = house.settings.model_copy(update={"archive_file_requests": 100})
    await house.run()
    path = next(p for p in files_of(house) if f"{months_ago(7):%Y-%m}" in p.name)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ArchiveDamaged):
        await bring_back(house, 7)
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == 1


async def test_the_wrong_key_says_so(house: House, owner: Connection) -> None:
    await house.run()
    house.keyring = Keyring([new_key()])
    found = await faults(house, owner)
    assert len(found) == 2
    assert all("which is not configured" in fault for fault in found)
    with pytest.raises(SecretUnreadable, match="which is not configured"):
        await rows_of(house, owner)
    with pytest.raises(SecretUnreadable, match="which is not configured"):
        await bring_back(house, 7)


async def test_a_rotated_key_opens_old_files(house: House, owner: Connection) -> None:
    old = new_key()
    house.keyring = Keyring([old])
    await house.run()
    house.keyring = Keyring([new_key(), old])
    assert await faults(house, owner) == [None, None]


async def test_a_file_of_nobody_is_named_and_left(house: House, owner: Connection) -> None:
    await house.run()
    stranger = files_of(house)[0].with_name("requests-of-somebody-else.hxa")
    stranger.write_bytes(b"theirs")
    assert await unlisted(owner, house.settings) == [stranger]
    await house.run()
    assert stranger.read_bytes() == b"theirs"


async def test_a_place_that_cannot_be_written_to_loses_nothing(
    house: House, owner: Connection, tmp_path: Path
) -> None:
    before = await contents(owner)
    (tmp_path / "taken").write_text("a file where the directory should be")
    house.settings = load_settings(
        {"HELIX_ARCHIVE_DIR": str(tmp_path / "taken")}, home=tmp_path / "home"
    )
    done = await house.run()
    assert len(done.errors) == 1
    assert "cannot be written" in done.errors[0]
    assert await contents(owner) == before
    assert await owner.fetchval(
        "SELECT error_message LIKE '%cannot be written%' FROM retention_runs "
        "WHERE table_name = 'llm_requests'"
    )


async def test_a_month_that_was_never_archived_is_not_found(house: House) -> None:
    with pytest.raises(ArchiveNotFound):
        await bring_back(house, 7)


async def test_files_tell_nothing_without_the_key(house: House, owner: Connection) -> None:
    await house.run()
    for path in files_of(house):
        content = path.read_bytes()
        for word in (b"agent-", b"mock/echo", b"backslash", str(house.users[0]).encode()):
            assert word not in content
        assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0


async def test_texts_of_each_user_have_a_key_of_their_own(house: House, owner: Connection) -> None:
    await house.run()
    keys = await owner.fetch("SELECT user_id, month FROM archive_keys ORDER BY month, user_id")
    months = [months_ago(n).date().replace(day=1) for n in (7, 6)]
    assert sorted((row["month"], row["user_id"]) for row in keys) == sorted(
        [(months[0], house.users[0]), (months[0], house.users[1]), (months[1], house.users[0])]
    )


def test_the_family_is_every_table_of_calls() -> None:
    assert set(FAMILY) == {
        "llm_requests", "llm_request_bodies", "llm_responses", "llm_response_bodies",
    }  # fmt: skip


async def archive_finding(house: House) -> Finding:
    found = await examine(
        house.url, house.settings, clock=SystemClock(), keyring=house.keyring, only={"archive"}
    )
    return found.findings[0]


async def test_the_doctor_counts_the_files_and_names_those_that_cannot_be_used(
    house: House,
) -> None:
    assert (await archive_finding(house)).seen.startswith("0 files of old requests, 0 B, in ")
    await house.run()
    fine = await archive_finding(house)
    assert (fine.severity, fine.todo, fine.value) == (Severity.OK, None, 0)
    assert fine.seen.startswith("2 files of old requests, ")
    first, second = files_of(house)
    kept = first.read_bytes()
    first.write_bytes(kept[:-1])
    second.rename(second.with_suffix(".elsewhere"))
    lost = await archive_finding(house)
    assert (lost.severity, lost.value) == (Severity.CRITICAL, 2)
    assert {row["fault"] for row in lost.details} == {
        f"has {len(kept) - 1} bytes instead of {len(kept)}",
        f"missing from {second.parent}",
    }
    assert f"{months_ago(7):%Y-%m}, {months_ago(6):%Y-%m}" in lost.seen
    assert "helix archive verify" in str(lost.todo)


async def test_the_doctor_tells_that_requests_cannot_be_archived_until_they_can(
    house: House, tmp_path: Path
) -> None:
    place = tmp_path / "taken"
    place.write_text("a file, not a directory")
    right = house.settings
    house.settings = right.model_copy(update={"archive_dir": place / "archive"})
    assert (await house.run()).errors
    failing = await archive_finding(house)
    assert (failing.severity, failing.value) == (Severity.WARNING, 0)
    assert "old requests could not be archived and stay in the database: " in failing.seen
    house.settings = right
    await house.run()
    assert (await archive_finding(house)).severity is Severity.OK
