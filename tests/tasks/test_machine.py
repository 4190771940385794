"""The whole state machine, driven at random against a model of it, on real PostgreSQL."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helix.core.db import Role, connect
from helix.tasks import (
    Status,
    TaskId,
    WrongState,
    cancel,
    enqueue,
    pause,
    redrive,
    resume,
    retry,
)
from helix.tasks.store import QUERIES
from helix.tasks.types import ClaimedTask, WorkerId
from tests.conftest import Server, create_database, drop_database
from tests.tasks.support import end, events, kill, new_type, plain, register, status_of, take


class Model:
    """What a task must be, as far as this test has driven it."""

    def __init__(self) -> None:
        self.status = "pending"
        self.events = ["created"]
        self.attempts = 0
        self.retries = 0
        self.lost = 0
        self.token = 0
        self.worker: WorkerId | None = None
        self.ended_attempts = 0

    def go(self, status: str, event: str) -> None:
        if self.worker is not None and status not in {"queued", "running", "stuck"}:
            self.ended_attempts += 1
            self.worker = None
        self.status = status
        self.events.append(event)


class QueueMachine(RuleBasedStateMachine):
    """Rules are what users, workers and deaths do; after each, database and model must agree."""

    url = ""
    loop: asyncio.AbstractEventLoop

    tasks: Bundle[UUID] = Bundle("tasks")
    attempts: Bundle[tuple[WorkerId, ClaimedTask]] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.task_type = new_type()
        self.models: dict[UUID, Model] = {}
        self.conn = self.wait(connect(self.url, role=Role.OPERATOR))
        self.workers = [self.wait(register(self.conn)) for _ in range(2)]

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.wait(self.conn.close())

    @rule(target=tasks, retries=st.integers(0, 2))
    def enqueue(self, retries: int) -> UUID:
        made = self.wait(enqueue(self.conn, plain(self.task_type, max_retries=retries)))
        self.models[made.id] = Model()
        return made.id

    @rule(target=attempts, which=st.integers(0, 1), count=st.integers(1, 3))
    def claim(self, which: int, count: int) -> Any:
        worker_id = self.workers[which]
        found = self.wait(take(self.conn, worker_id, self.task_type, count=count))
        waiting = sum(m.status == "pending" for m in self.models.values())
        assert len(found) == min(count, waiting)
        for task in found:
            model = self.models[task.id]
            assert model.status == "pending"
            model.go("running", "started")
            model.attempts += 1
            model.token += 1
            model.worker = worker_id
            assert (task.fencing_token, task.attempt) == (model.token, model.attempts)
        return multiple(*[(worker_id, task) for task in found])

    @rule(
        attempt=attempts, status=st.sampled_from(["completed", "failed", "dead_letter", "pending"])
    )
    def finish(self, attempt: tuple[WorkerId, ClaimedTask], status: str) -> None:
        """Old attempts are tried too: they must change nothing."""
        worker_id, task = attempt
        model = self.models[task.id]
        held = model.worker == worker_id and model.token == task.fencing_token
        values = {} if status == "completed" else {"error": "it failed"}
        assert self.wait(end(self.conn, worker_id, task, Status(status), **values)) is held
        if held:
            event = {"pending": "retried"}.get(status, status)
            model.go(status, event)
            model.retries += status == "pending"
            model.lost = 0

    @rule(attempt=attempts)
    def mark_stuck(self, attempt: tuple[WorkerId, ClaimedTask]) -> None:
        worker_id, task = attempt
        model = self.models[task.id]
        rows = self.wait(
            QUERIES.rows(
                self.conn, "mark_stuck", worker_id=worker_id, ids=[task.id],
                tokens=[task.fencing_token],
            )
        )  # fmt: skip
        held = model.worker == worker_id and model.token == task.fencing_token
        assert bool(rows) is (held and model.status == "running")
        if rows:
            model.go("stuck", "stuck")

    @rule(attempt=attempts)
    def progress(self, attempt: tuple[WorkerId, ClaimedTask]) -> None:
        worker_id, task = attempt
        model = self.models[task.id]
        self.wait(
            QUERIES.run(
                self.conn, "report_progress", worker_id=worker_id, ids=[task.id],
                tokens=[task.fencing_token], percents=[50.0], messages=["half"],
            )
        )  # fmt: skip
        if model.worker == worker_id and model.token == task.fencing_token:
            model.events.append("progress")
            if model.status == "stuck":
                model.go("running", "resumed")

    @rule(which=st.integers(0, 1))
    def worker_dies(self, which: int) -> None:
        dead = self.workers[which]
        self.wait(kill(self.conn, dead))
        for model in self.models.values():
            if model.worker == dead:
                if model.lost == 2:
                    model.go("dead_letter", "dead_letter")
                else:
                    model.go("pending", "retried")
                model.lost += 1
        self.workers[which] = self.wait(register(self.conn))

    def verb(self, task_id: UUID, allowed: set[str], work: Any, status: str, event: str) -> None:
        model = self.models[task_id]
        if model.status in allowed:
            self.wait(work)
            model.go(status, event)
        else:
            with pytest.raises(WrongState):
                self.wait(work)

    @rule(task_id=tasks)
    def cancel(self, task_id: UUID) -> None:
        live = {"pending", "running", "stuck", "paused"}
        work = cancel(self.conn, task_id=TaskId(task_id))
        self.verb(task_id, live, work, "cancelled", "cancelled")

    @rule(task_id=tasks)
    def pause(self, task_id: UUID) -> None:
        work = pause(self.conn, task_id=TaskId(task_id))
        self.verb(task_id, {"pending", "running", "stuck"}, work, "paused", "paused")

    @rule(task_id=tasks)
    def resume(self, task_id: UUID) -> None:
        work = resume(self.conn, task_id=TaskId(task_id))
        self.verb(task_id, {"paused"}, work, "pending", "resumed")

    @rule(task_id=tasks)
    def retry(self, task_id: UUID) -> None:
        model = self.models[task_id]
        if model.status == "dead_letter":
            return
        work = retry(self.conn, task_id=TaskId(task_id))
        self.verb(task_id, {"failed", "cancelled"}, work, "pending", "retried")
        if model.status == "pending":
            model.retries = model.lost = 0 if model.events[-1] == "retried" else model.lost

    @rule(target=tasks, task_id=consumes(tasks))
    def redrive(self, task_id: UUID) -> Any:
        if self.models[task_id].status != "dead_letter":
            return task_id
        first = self.wait(redrive(self.conn, dead_letter_id=task_id))
        again = self.wait(redrive(self.conn, dead_letter_id=task_id))
        assert again.id == first.id
        assert not again.created
        if first.created:
            self.models[first.id] = Model()
        return task_id

    @rule(task_id=tasks, status=st.sampled_from([s.value for s in Status]))
    def update_by_hand(self, task_id: UUID, status: str) -> None:
        """Whatever somebody writes at a psql prompt, only the drawn transitions pass."""
        model = self.models[task_id]
        before = model.status
        transaction = self.conn.transaction()
        self.wait(transaction.start())
        allowed = self.wait(
            self.conn.fetchval(
                "SELECT count(*) FROM task_transitions"
                " WHERE from_status = $1::task_status AND to_status = $2::task_status",
                before, status,
            )
        )  # fmt: skip
        held = status in {"queued", "running", "stuck"}
        over = status in {"completed", "failed", "cancelled", "dead_letter"}
        try:
            self.wait(
                self.conn.execute(
                    "UPDATE background_tasks SET status = $2::task_status,"
                    " worker_id = CASE WHEN $3 THEN coalesce(worker_id, 'hand') END,"
                    " completed_at = CASE WHEN $4 THEN now() END WHERE id = $1",
                    task_id, status, held, over,
                )
            )  # fmt: skip
            assert allowed or status == before
        except asyncpg.CheckViolationError:
            assert not allowed
        finally:
            self.wait(transaction.rollback())

    @precondition(lambda self: self.models)
    @invariant()
    def database_and_model_agree(self) -> None:
        for task_id, model in list(self.models.items())[-4:]:
            assert self.wait(status_of(self.conn, task_id)) == model.status
            assert self.wait(events(self.conn, task_id)) == model.events
            count = self.wait(
                self.conn.fetchval(
                    "SELECT count(*) FROM task_execution_history WHERE task_id = $1", task_id
                )
            )
            assert count == model.ended_attempts


@pytest.fixture
def machine_url(server: Server) -> Iterator[str]:
    name = asyncio.run(create_database(server))
    yield server.url(name)
    asyncio.run(drop_database(server, name))


def test_every_history_of_the_queue_agrees_with_the_model(machine_url: str) -> None:
    random.seed(0)
    loop = asyncio.new_event_loop()
    QueueMachine.url, QueueMachine.loop = machine_url, loop
    try:
        run_state_machine_as_test(
            QueueMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.close()
