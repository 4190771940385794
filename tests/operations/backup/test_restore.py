"""A restored copy does nothing until it is released, and then everything works."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helix.app import build
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database, Role, connect
from helix.core.instance import HomePaths, make_home, write_private
from helix.core.quarantine import quarantine_of
from helix.operations.backup.create import create_logical
from helix.operations.backup.errors import RestoreTargetTaken
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.restore import fill
from helix.operations.backup.state import release
from helix.operations.backup.targets import into_database, into_home, replace_database
from helix.operations.backup.types import Backup
from helix.operations.backup.verify import compare
from helix.operations.postgres import embedded_postgres
from helix.tasks import NewTask, TaskContext, TaskRegistry, enqueue, run_worker
from tests.conftest import LIMITS
from tests.operations.backup.conftest import NOW, quiet
from tests.tasks.support import make_worker

FAR = 1 << 40
"""A transaction's number that no cluster of a test reaches."""


async def back_up(url: str, settings: Settings, directory: BackupDirectory) -> Backup:
    return await create_logical(url, settings, directory, now=NOW, report=quiet)


def from_afar(backup: Backup) -> Backup:
    """Return the backup as if its cluster had counted far more transactions than any here."""
    return Backup(backup.path, msgspec.structs.replace(backup.manifest, next_xid=FAR))


async def restored_by(url: str) -> str:
    """Return the kind of actor who, says the copy's own audit, restored it."""
    conn = await connect(url)
    try:
        rows = await conn.fetch(
            "SELECT actor_kind FROM audit_log WHERE operation = 'backup.restored'"
        )
    finally:
        await conn.close()
    [row] = rows
    return str(row["actor_kind"])


async def pending_task(url: str, **fields: Any) -> None:
    database = Database(url, LIMITS)
    async with database.transaction(Role.OPERATOR) as conn:
        await enqueue(conn, NewTask("note", {}, **fields))
    await database.close()


async def status_of_tasks(url: str) -> list[str]:
    conn = await connect(url)
    try:
        return [row["status"] for row in await conn.fetch("SELECT status FROM background_tasks")]
    finally:
        await conn.close()


@asynccontextmanager
async def worker_on(url: str, done: asyncio.Event) -> AsyncIterator[None]:
    registry = TaskRegistry()

    @registry.task("note")
    async def note(_: TaskContext, __: dict[str, Any]) -> None:
        done.set()

    database = Database(url, LIMITS)
    worker = make_worker(database, registry)
    work = asyncio.create_task(run_worker(worker))
    try:
        yield
    finally:
        worker.stop()
        await work
        await database.close()


async def test_tasks_of_a_copy_wait_for_its_release_and_then_run(
    database_url: str,
    empty_database_url: str,
    settings: Settings,
    directory: BackupDirectory,
) -> None:
    await pending_task(database_url)
    backup = from_afar(await back_up(database_url, settings, directory))
    url = empty_database_url
    restored = await fill(url, settings, backup, directory.keys, reason="a test", report=quiet)
    assert (restored.feeds_reset, restored.tasks_offered) == (True, 1)
    done = asyncio.Event()
    async with worker_on(url, done):
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=1.5)
        assert await status_of_tasks(url) == ["pending"]
        conn = await connect(url)
        assert await conn.fetchval("SELECT count(*) FROM task_workers") == 0
        await conn.close()
        assert await release(url) == ["a test"]
        async with asyncio.timeout(30):
            await done.wait()
    assert await status_of_tasks(url) == ["completed"]


async def test_no_number_of_a_transaction_of_the_old_cluster_is_left(
    full_url: str, empty_database_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    backup = from_afar(await back_up(full_url, settings, directory))
    url = empty_database_url
    await fill(url, settings, backup, directory.keys, reason="a test", report=quiet)
    conn = await connect(url)
    try:
        for table, column in (
            ("task_events", "xact"),
            ("conversation_events", "recorded_xid"),
            ("clickhouse_analytics", "recorded_xid"),
            ("distributed_memory_events", "recorded_xid"),
            ("projection_checkpoints", "last_xid"),
            ("memory_sync_status", "last_recorded_xid"),
        ):
            left = await conn.fetch(f"SELECT DISTINCT {column}::text AS xid FROM {table}")
            assert [row["xid"] for row in left] == ["0"], table
        assert await conn.fetchval("SELECT count(last_id) FROM projection_checkpoints") == 0
        assert await conn.fetchval("SELECT count(*) FROM task_claims") == 0
    finally:
        await conn.close()


async def test_a_new_home_counts_on_above_the_old_cluster_and_is_equal(
    full_url: str, settings: Settings, directory: BackupDirectory, tmp_path: Path
) -> None:
    make_home(settings.home_dir)
    write_private(HomePaths(settings.home_dir).keys, f"{new_key()}\n".encode())
    backup = from_afar(await back_up(full_url, settings, directory))
    target = load_settings({}, home=tmp_path / "new")
    restored = await into_home(settings, target, backup, directory.keys, now=NOW, report=quiet)
    assert not restored.feeds_reset
    assert (
        HomePaths(target.home_dir).keys.read_bytes()
        == HomePaths(settings.home_dir).keys.read_bytes()
    )
    async with embedded_postgres(target) as server:
        conn = await connect(server.url)
        assert await conn.fetchval("SELECT pg_current_xact_id()::text::bigint") > FAR
        await conn.close()
        written = [line.partition(":")[0] for line in await compare(server.url, backup)]
        assert written == [f"table audit_log_p{datetime.now(UTC):%Y%m}", "table quarantines"]
        assert await quarantine_of(server.url) == (
            f"restored from {backup.name} into {target.home_dir} at 2026-11-22 02:30:00 UTC"
        )
    with pytest.raises(RestoreTargetTaken):
        await into_home(settings, target, backup, directory.keys, now=NOW, report=quiet)


async def test_a_new_database_is_quarantined_and_one_that_is_there_is_refused(
    database_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    backup = await back_up(database_url, settings, directory)
    name = "copy_" + database_url.partition("/t_")[2][:12]
    arguments = (database_url, settings, name, backup, directory.keys)
    await into_database(*arguments, now=NOW, report=quiet)
    admin = await connect(database_url)
    try:
        with pytest.raises(RestoreTargetTaken):
            await into_database(*arguments, now=NOW, report=quiet)
        copy = database_url.replace(database_url.partition("@/")[2].partition("?")[0], name)
        assert await quarantine_of(copy) is not None
        assert await quarantine_of(database_url) is None
        assert await restored_by(copy) == "system"
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_a_database_is_replaced_only_on_yes_and_while_nobody_uses_it(
    database_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    external = load_settings({"DATABASE_URL": database_url}, home=settings.home_dir)
    backup = await back_up(database_url, settings, directory)
    with pytest.raises(Exception, match="repeat it with --yes"):
        await replace_database(
            external, backup, directory.keys, confirmed=False, now=NOW, report=quiet
        )
    user = await connect(database_url, application_name="a person")
    with pytest.raises(Exception, match="a person"):
        await replace_database(
            external, backup, directory.keys, confirmed=True, now=NOW, report=quiet
        )
    await user.execute("CREATE TABLE only_in_the_old_one ()")
    await user.close()
    said: list[str] = []
    await replace_database(
        external, backup, directory.keys, confirmed=True, now=NOW, report=said.append
    )
    kept = said[-1].partition("database ")[2].partition(":")[0]
    conn = await connect(database_url)
    try:
        assert await conn.fetchval("SELECT to_regclass('only_in_the_old_one')") is None
        assert await conn.fetchval("SELECT count(*) FROM quarantines") == 1
        assert await conn.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", kept) == 1
        await conn.execute(f"DROP DATABASE {kept}")
    finally:
        await conn.close()


class Receiver:
    """Counts who connects to it."""

    def __init__(self) -> None:
        self.hits = 0
        self.hit = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits += 1
        self.hit.set()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()


async def test_a_quarantined_server_answers_503_and_calls_nobody_until_released(
    database_url: str, owner: Connection, tmp_path: Path
) -> None:
    receiver = Receiver()
    listener = await asyncio.start_server(receiver, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    await pending_task(database_url)
    await owner.execute(
        "INSERT INTO webhook_deliveries (task_id, url, event_type, payload)"
        " SELECT id, $1, 'task.completed', '{}' FROM background_tasks",
        f"http://127.0.0.1:{port}/hook",
    )
    await owner.execute("INSERT INTO quarantines (backup_name, reason) VALUES ('b', 'a test')")
    settings = load_settings(
        {
            "DATABASE_URL": database_url,
            "HELIX_WEBHOOK_HOSTS": f"127.0.0.1:{port}",
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "HELIX_WORKER_CONCURRENCY": "2",
        },
        home=tmp_path,
    )
    database = Database(database_url, settings.pool_limits())
    app = build(settings, database, Keyring([new_key()]), SystemClock())
    async with living(app):
        await asyncio.wait([asyncio.create_task(receiver.hit.wait())], timeout=2)
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/api/me"),
            ("POST", "/api/tasks"),
        ):
            status, body = await call(app, method, path)
            assert status == 503
            assert body["error"]["code"] == "quarantined"
        status, body = await call(app, "GET", "/ready")
        assert (status, body["missing"]) == (503, ["quarantined"])
        status, body = await call(app, "GET", "/health")
        assert (status, body["status"]) == (200, "quarantined")
        assert receiver.hits == 0
        assert await status_of_tasks(database_url) == ["pending"]
        await release(database_url)
        async with asyncio.timeout(30):
            await receiver.hit.wait()  # the webhook, at last
            while (await call(app, "GET", "/ready"))[0] != 200:  # noqa: ASYNC110 - polled as by others
                await asyncio.sleep(0.05)
    listener.close()
    await database.close()


async def call(app: Any, method: str, path: str) -> tuple[int, Any]:
    """Send one request without a body and return the status and the JSON of the answer."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], msgspec.json.decode(b"".join(m.get("body", b"") for m in sent[1:]))


@asynccontextmanager
async def living(app: Any) -> AsyncIterator[None]:
    """Run the application's lifespan around the block."""
    into: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    out: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, into.get, out.put))
    await into.put({"type": "lifespan.startup"})
    assert (await out.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await into.put({"type": "lifespan.shutdown"})
        await life
