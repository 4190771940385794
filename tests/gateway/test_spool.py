"""The spool: what is on disk is read back whole, torn ends are left, every row lands once."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.gateway.errors import CallInterrupted, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.recorder import Recorder
from helix.gateway.settle import chosen, given_up
from helix.gateway.spool import Spool, encode_record, read_records
from helix.gateway.store import Store
from helix.gateway.sweep import Sweep, SweepTimes
from helix.gateway.types import Settlement
from tests.gateway.conftest import make_user
from tests.gateway.test_recorder import LEASE, NOW, OTHER_LEASE, admission, completed, rows

USER = UUID(int=1)


def settled(count: int) -> list[Settlement]:
    return [completed(admission(USER, n), content="x" * n) for n in range(count)]


async def written(directory: Path, ends: list[Settlement]) -> Path:
    spool = Spool(directory, name="one", bytes_max=10_000_000)
    for end in ends:
        assert await spool.append([end])
    path = spool.files()[0]
    assert spool._file is not None
    os.close(spool._file)  # as a crash would
    return path


async def test_settlements_are_read_back_as_they_were(tmp_path: Path) -> None:
    ends = settled(5)
    path = await written(tmp_path, ends)
    other = Spool(tmp_path, name="two", bytes_max=1_000)
    assert other.files() == [path]
    assert other.read(path) == ends


@pytest.fixture(scope="module")
def sample() -> tuple[list[Settlement], bytes, list[int]]:
    ends = settled(4)
    parts = [_bytes_of(end) for end in ends]
    edges = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
    return ends, b"".join(parts), edges


def _bytes_of(end: Settlement) -> bytes:
    return encode_record(end)


@given(cut=st.integers(0, 5_000))
def test_torn_end_costs_only_what_was_not_acknowledged(
    sample: tuple[list[Settlement], bytes, list[int]], cut: int
) -> None:
    ends, data, edges = sample
    torn = data[: min(cut, len(data))]
    whole = sum(edge <= len(torn) for edge in edges)
    assert read_records(torn) == (ends[:whole], edges[whole - 1] if whole else 0)


@given(at=st.integers(0, 5_000), bit=st.integers(0, 7))
def test_changed_byte_is_found(
    sample: tuple[list[Settlement], bytes, list[int]], at: int, bit: int
) -> None:
    ends, data, edges = sample
    broken = bytearray(data)
    broken[at % len(data)] ^= 1 << bit
    found, _ = read_records(bytes(broken))
    before = sum(edge <= at % len(data) for edge in edges)
    assert found == ends[:before]


async def test_full_spool_takes_nothing_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path, name="one", bytes_max=1_000)
    taken = [await spool.append([end]) for end in settled(8)]
    assert taken == sorted(taken, reverse=True)
    assert not taken[-1]
    assert spool.held_bytes <= 1_000


async def test_file_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, name="one", bytes_max=10_000)
    await spool.append(settled(1))
    looking = (
        "import sys; from pathlib import Path; from helix.gateway.spool import Spool;"
        "print(len(Spool(Path(sys.argv[1]), name='two', bytes_max=9).files()))"
    )
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", looking, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await asking.communicate()
    assert told.strip() == b"0"
    spool.close()


# ---- replay


@asynccontextmanager
async def recording(url: str, directory: Path) -> AsyncIterator[Recorder]:
    """A recorder of the home; it has replayed what it found when it writes its first row."""
    recorder = Recorder(
        url,
        clock=SystemClock(),
        metrics=Metrics(),
        lease=LEASE,
        batch_max=64,
        wait_s=10.0,
        spool=Spool(directory, name="next", bytes_max=10_000_000),
    )
    recorder.start(lambda row: given_up(row, error=NotRecorded(), now=NOW))
    unknown = recorder.settle(completed(admission(USER)), keep=False)
    assert [type(told) for told in await asyncio.gather(unknown, return_exceptions=True)] == [
        CallInterrupted
    ]
    yield recorder
    await recorder.stop()


async def test_what_a_dead_process_left_is_recorded_once(
    database_url: str, owner: Connection, tmp_path: Path
) -> None:
    user_id = await make_user(owner)
    requests = [admission(user_id, n) for n in range(5)]
    async with recording(database_url, tmp_path / "elsewhere") as recorder:
        await asyncio.gather(*(recorder.admit(row) for row in requests))
    attempt = completed(requests[0], final=False, selected=False, status="failed")
    candidate = completed(requests[1], final=False, selected=False)
    ends = [attempt, candidate, *map(completed, [requests[0], *requests[2:]])]
    choice = chosen(requests[1], candidate.id, now=NOW, confidence=None)
    unstorable = completed(admission(user_id), raw_response="{")
    path = await written(tmp_path, [*ends, choice, unstorable])
    kept = path.read_bytes()
    for _ in range(2):  # the second time as after a crash between the commit and the removal
        path.write_bytes(kept)
        async with recording(database_url, tmp_path):
            assert not path.exists()
    assert await rows(owner, "llm_responses") == 6
    assert await rows(owner, "llm_token_usage") == 6
    states = await owner.fetch("SELECT DISTINCT status FROM llm_requests")
    assert [state["status"] for state in states] == ["completed"]
    selected = await owner.fetchval("SELECT count(*) FROM llm_responses WHERE selected")
    assert selected == 5


async def test_what_is_on_disk_goes_before_what_the_sweep_presumed(
    database_url: str, db: Database, owner: Connection, tmp_path: Path
) -> None:
    row = admission(await make_user(owner), metadata=f'{{"lease": {OTHER_LEASE}}}')
    times = SweepTimes(grace_s=0, pause_s=0, every_s=60)
    async with recording(database_url, tmp_path / "elsewhere") as recorder:
        await recorder.admit(row)
        await Sweep(db, Store(), recorder, SystemClock(), lease=LEASE, times=times).once()
    assert await owner.fetchval("SELECT status FROM llm_requests") == "failed"
    await written(tmp_path, [completed(row)])
    async with recording(database_url, tmp_path):
        pass
    assert await owner.fetchval("SELECT status FROM llm_requests") == "completed"
    answers = await owner.fetch("SELECT status, selected FROM llm_responses ORDER BY status")
    assert [tuple(one) for one in answers] == [("completed", True), ("interrupted", False)]
