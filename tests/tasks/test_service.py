"""Enqueueing in the caller's transaction, tenancy, schedules, feed, webhooks."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp.web
import pytest

from helix.core.db import Connection, Database, Role, connect
from helix.core.errors import NotFound
from helix.tasks import (
    BadPayload,
    BadTask,
    DependencyEnded,
    EventFeed,
    PayloadTooLarge,
    Schedule,
    Status,
    TaskId,
    TaskNotFound,
    TaskRegistry,
    Unique,
    WebhookRefused,
    WebhookSender,
    cancel,
    enqueue,
    enqueue_many,
    get_task,
    list_tasks,
    redrive,
    stats,
)
from helix.tasks.feed import BATCH_MAX, BEGINNING, Mark
from helix.tasks.keeper import deliver_due, fire_schedules, sync_schedules
from helix.tasks.policy import sign_webhook
from tests.factories import make_user
from tests.tasks.support import end, events, new_type, operator, plain, register, status_of, take


async def user(db: Database) -> UUID:
    async with operator(db) as conn:
        found: UUID = (await make_user(conn))["id"]
        return found


async def test_rolled_back_transaction_enqueues_nothing(db: Database) -> None:
    async with db.connection(Role.OPERATOR) as conn:
        transaction = conn.transaction()
        await transaction.start()
        made = await enqueue(conn, plain("x"))
        await transaction.rollback()
    async with operator(db) as conn:
        with pytest.raises(TaskNotFound):
            await get_task(conn, task_id=made.id)


async def test_many_are_enqueued_in_the_order_given(db: Database) -> None:
    async with operator(db) as conn:
        tasks = [plain("x", payload={"n": n}) for n in range(300)]
        made = await enqueue_many(conn, tasks)
        claimed = await take(conn, await register(conn), "x", count=300)
        payloads = {t.id: t.payload for t in claimed}
    assert [payloads[e.id] for e in made] == [f'{{"n": {n}}}' for n in range(300)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"payload": {"text": "a\0b"}}, BadPayload),
        ({"payload": "x" * 1_000_001}, PayloadTooLarge),
        ({"max_retries": 1_001}, BadTask),
        ({"webhook_url": "http://169.254.169.254/latest"}, WebhookRefused),
        ({"after": (TaskId(uuid4()),)}, TaskNotFound),
        ({"unique": Unique("k", period_s=5)}, BadTask),
    ],
)
async def test_bad_task_is_refused(db: Database, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        async with operator(db) as conn:
            await enqueue(conn, plain("x", **options))


async def test_waiting_for_a_cancelled_task_is_refused_and_waiting_ones_go_with_it(
    db: Database,
) -> None:
    async with operator(db) as conn:
        first = await enqueue(conn, plain("x"))
        second = await enqueue(conn, plain("x", after=(first.id,)))
        third = await enqueue(conn, plain("x", after=(second.id,)))
        await cancel(conn, task_id=first.id)
        assert await status_of(conn, third.id) == "cancelled"
        with pytest.raises(DependencyEnded):
            await enqueue(conn, plain("x", after=(first.id,)))


async def test_two_at_once_with_one_unique_key_make_one_task(db: Database) -> None:
    async def put() -> Any:
        async with operator(db) as conn:
            return await enqueue(conn, plain("x", unique=Unique("only")))

    made = await asyncio.gather(*(put() for _ in range(5)))
    assert sum(e.created for e in made) == 1
    assert len({e.id for e in made}) == 1


async def test_tenant_sees_and_steers_only_its_own_tasks(db: Database) -> None:
    mine, theirs = await user(db), await user(db)
    async with db.transaction(Role.APP, tenant=mine) as conn:
        made = await enqueue(conn, plain("x", unique=Unique("k")))
        assert [t.id for t in await list_tasks(conn)] == [made.id]
    async with db.transaction(Role.APP, tenant=theirs) as conn:
        assert await list_tasks(conn) == []
        assert await stats(conn) == []
        with pytest.raises(TaskNotFound):
            await cancel(conn, task_id=made.id)
        assert (await enqueue(conn, plain("x", unique=Unique("k")))).created
    for tenant, error in ((theirs, NotFound), (None, Exception)):
        with pytest.raises(error):
            async with db.transaction(Role.APP, tenant=tenant) as conn:
                await enqueue(conn, plain("x", user_id=mine))
    async with operator(db) as conn:
        assert len(await take(conn, await register(conn), "x")) == 2


async def test_deleting_a_user_deletes_the_tasks_with_their_events(db: Database) -> None:
    mine = await user(db)
    async with db.transaction(Role.APP, tenant=mine) as conn:
        await enqueue(conn, plain("x"))
    async with operator(db) as conn:
        await conn.execute("DELETE FROM users WHERE id = $1", mine)
        assert await conn.fetchval("SELECT count(*) FROM background_tasks") == 0
        assert await conn.fetchval("SELECT count(*) FROM task_events") == 0
        assert await take(conn, await register(conn), "x") == []


async def test_insert_at_the_psql_prompt_is_an_enqueued_task(db: Database) -> None:
    async with operator(db) as conn:
        task_id = await conn.fetchval(
            "INSERT INTO background_tasks (task_type) VALUES ('by-hand') RETURNING id"
        )
        assert await events(conn, task_id) == ["created"]
        assert [t.id for t in await take(conn, await register(conn), "by-hand")] == [task_id]


async def test_worker_of_plain_sql_shares_the_queue(db: Database) -> None:
    async with operator(db) as conn:
        await enqueue_many(conn, [plain("x")] * 2)
        row = await conn.fetchrow("SELECT * FROM dequeue_background_task('bash')")
        [other] = await take(conn, await register(conn), "x")
        assert other.id != row["id"]
        await conn.execute(
            "UPDATE background_tasks SET lease_until = now() - interval '1 s' WHERE id = $1",
            row["id"],
        )
        await conn.execute("SELECT helix_tasks_reclaim()")
        assert await status_of(conn, row["id"]) == "pending"


async def test_dead_letter_redriven_twice_at_once_runs_once(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        worker_id = await register(conn)
        await enqueue(conn, plain(task_type, payload={"n": 1}, queue="q"))
        [task] = await take(conn, worker_id, task_type)
        await end(conn, worker_id, task, Status.DEAD_LETTER, error="broken", stack="line 1")

    async def press() -> Any:
        async with operator(db) as conn:
            return await redrive(conn, dead_letter_id=task.id)

    pressed = await asyncio.gather(press(), press(), press())
    assert sum(e.created for e in pressed) == 1
    async with operator(db) as conn:
        [again] = await take(conn, worker_id, task_type)
        new = await get_task(conn, task_id=again.id)
    assert (again.id, new.payload, new.queue) == (pressed[0].id, {"n": 1}, "q")


async def test_two_schedulers_fire_each_tick_once(db: Database) -> None:
    registry = TaskRegistry()
    registry.add("tick", handle)
    registry.schedule(Schedule("every-minute", "tick", cron="* * * * *"))
    start = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    async with operator(db) as conn:
        await sync_schedules(conn, registry, now=start)

    async def tick(minute: int) -> int:
        async with operator(db) as conn:
            return len(await fire_schedules(conn, now=start + timedelta(minutes=minute)))

    for minute in range(1, 201):
        assert sorted(await asyncio.gather(tick(minute), tick(minute))) == [0, 1]
    async with operator(db) as conn:
        assert await conn.fetchval("SELECT count(*) FROM background_tasks") == 200


async def test_missed_ticks_are_made_up_for_by_one_run(db: Database) -> None:
    registry = TaskRegistry()
    registry.add("tick", handle)
    registry.schedule(Schedule("hourly", "tick", cron="0 * * * *"))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with operator(db) as conn:
        await sync_schedules(conn, registry, now=start)
        assert len(await fire_schedules(conn, now=start + timedelta(days=2))) == 1
        assert len(await fire_schedules(conn, now=start + timedelta(days=2))) == 0


async def handle(ctx: Any, payload: dict[str, Any]) -> None:
    """A handler for tests that only enqueue."""


async def test_feed_tells_events_that_were_committed_late(database_url: str) -> None:
    conns = [await connect(database_url, role=Role.OPERATOR) for _ in range(3)]
    reader, early, late = conns
    feed = EventFeed(BEGINNING)
    first = early.transaction()
    await first.start()
    old = await enqueue(early, plain("x"))
    new = await enqueue(late, plain("x"))
    assert [e.task_id for _, e in await feed.read(reader)] == [new.id]
    await first.commit()
    assert [e.task_id for _, e in await feed.read(reader)] == [old.id]
    assert await feed.read(reader) == []
    for conn in conns:
        await conn.close()


async def test_reader_that_comes_back_with_any_mark_misses_and_repeats_nothing(
    db: Database,
) -> None:
    async with operator(db) as conn:
        for _ in range(3):
            await enqueue_many(conn, [plain("x")] * 200)
    feed = EventFeed(BEGINNING)
    told: list[tuple[Mark, UUID]] = []
    async with operator(db) as conn:
        while part := await feed.read(conn):
            told += [(mark, event.id) for mark, event in part]
            await late_events(db)
            if len(told) > 2_000:
                break
    assert len(told) > BATCH_MAX
    everything = [event_id for _, event_id in told]
    assert len(set(everything)) == len(everything)
    for at in (0, 7, BATCH_MAX - 1, BATCH_MAX, len(told) - 1):
        again = EventFeed(Mark.parse(str(told[at][0])))
        seen: list[UUID] = []
        async with operator(db) as conn:
            while part := await again.read(conn):
                seen += [event.id for _, event in part]
        assert seen[: len(everything) - at - 1] == everything[at + 1 :]


async def late_events(db: Database) -> None:
    async with operator(db) as conn:
        if await conn.fetchval("SELECT count(*) FROM background_tasks") < 610:
            await enqueue_many(conn, [plain("x")] * 5)


class Receiver:
    """A web server on loopback that keeps what it is sent and answers as told."""

    def __init__(self, codes: list[int]) -> None:
        self.codes = codes
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return aiohttp.web.Response(status=self.codes.pop(0), headers={"location": "/elsewhere"})


@pytest.fixture
async def receiver() -> Any:
    found = Receiver([500, 302, 200])
    app = aiohttp.web.Application()
    app.router.add_post("/hook", found.handle)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield found, f"{host}:{port}"
    await runner.cleanup()


async def test_webhook_is_signed_and_tried_until_it_is_taken(db: Database, receiver: Any) -> None:
    server, host = receiver
    sender = WebhookSender(lambda _: [b"secret"], allowed_hosts=[host], unix_time=lambda: 1_000.0)
    conn = await connect(db.url, role=Role.OPERATOR)
    await enqueue_webhook(conn, host)
    for code in (500, 302, 200):
        await conn.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
        async with asyncio.timeout(20):
            await deliver_due(conn, sender)
        row = await conn.fetchrow("SELECT status, response_code FROM webhook_deliveries")
        assert tuple(row) == ("delivered" if code == 200 else "pending", code)
    await sender.close()
    await conn.close()
    headers, body = server.got[-1]
    assert headers["Helix-Signature"] == sign_webhook(b"secret", timestamp=1_000, body=body)
    assert headers["Helix-Event"] == "task.cancelled"
    assert len(server.got) == 3


async def enqueue_webhook(conn: Connection, host: str) -> None:
    made = await enqueue(
        conn,
        plain("x", webhook_url=f"http://{host}/hook", webhook_events=("task.cancelled",)),
        allowed_hosts=[host],
    )
    await cancel(conn, task_id=made.id)


async def test_webhook_to_a_number_that_only_the_client_reads_as_one_is_not_sent(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the URL put aside, the socket itself goes to no inner address."""
    server, host = receiver
    monkeypatch.setattr("helix.tasks.webhooks.check_webhook_url", lambda *_, **__: None)
    sender = WebhookSender(lambda _: [b"s"], allowed_hosts=["another.example.org"])
    for spelt in ("①②⑦.⓪.⓪.①", "127.0.0.1", "[::ffff:127.0.0.1]"):
        message = {
            "url": f"http://{spelt}:{host.partition(':')[2]}/hook", "payload": "{}",
            "user_id": None, "event_type": "task.completed", "id": uuid4(),
        }  # fmt: skip
        assert not (await sender.send(message)).ok
    await sender.close()
    assert server.got == []


async def test_webhook_to_a_name_that_resolves_inwards_is_not_sent(receiver: Any) -> None:
    server, host = receiver
    sender = WebhookSender(lambda _: [b"s"])
    port = host.partition(":")[2]
    message = {
        "url": f"https://ip6-localhost:{port}/hook", "payload": "{}", "user_id": None,
        "event_type": "task.completed", "id": uuid4(),
    }  # fmt: skip
    result = await sender.send(message)
    await sender.close()
    assert not result.ok
    assert server.got == []
