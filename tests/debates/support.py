"""What the tests of debates share: people, specs, and a model behind the port of the engine."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

from helix import debates, tasks
from helix.accounts import Principal, Scope, UserRole
from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, Role
from helix.core.ids import IdSource, uuid7_beside
from helix.debates import Debate, DebateId, DebateSpec
from helix.gateway import CallOptions, Completion
from tests.factories import insert, make_user

Answer = Callable[[str, list[dict[str, str]]], str]


@dataclass
class FakeModels:
    """Models behind the engine's port, as the gateway would offer them.

    Keeps its promise on idempotency keys: a key seen before gives the recorded answer. `asked` is
    the upstream's own ledger: the calls it completed, in order. Each answer is a row of
    llm_responses with its cost, as the recorder would leave it.
    """

    owner: Connection
    answer: Answer
    delay_s: float = 0.0
    cost_usd: Decimal = Decimal("0.001")
    asked: list[tuple[str, str]] = field(default_factory=list)
    recorded: dict[str, Completion] = field(default_factory=dict)
    before: Callable[[str], Awaitable[None]] | None = None
    after: Callable[[str], Awaitable[None]] | None = None
    ids: IdSource = field(default_factory=IdSource)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(
        self, principal: Principal, fields: dict[str, Any], *, options: CallOptions
    ) -> Completion:
        key = options.idempotency_key
        assert key is not None
        if self.before is not None:
            await self.before(key)
        if key not in self.recorded:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            line = fields.get("helix", {}).get("mock", {}).get("content")
            text = line if line is not None else self.answer(fields["model"], fields["messages"])
            self.recorded[key] = await self._record(principal.user_id, fields["model"], text)
            self.asked.append((key, fields["model"]))
        if self.after is not None:
            await self.after(key)
        return self.recorded[key]

    async def _record(self, user_id: UUID, model: str, text: str) -> Completion:
        provider, _, name = model.partition("/")
        request_id = self.ids.next(datetime.now().astimezone())
        response_id = uuid7_beside(request_id)
        async with self.lock:
            await insert(
                self.owner,
                "llm_requests",
                id=request_id,
                user_id=user_id,
                model_name=model,
                status="completed",
            )
            await insert(
                self.owner,
                "llm_responses",
                id=response_id,
                request_id=request_id,
                user_id=user_id,
                provider_name=provider,
                model_name=name,
                status="completed",
                tokens_prompt=10,
                tokens_completion=5,
                tokens_total=15,
                latency_ms=7,
                cost_usd=self.cost_usd,
            )
        return Completion(
            request_id=request_id,
            response_id=response_id,
            message={"role": "assistant", "content": text},
            text=text,
            finish_reason="stop",
            tokens_prompt=10,
            tokens_completion=5,
            cost_usd=self.cost_usd,
            provider_id=None,
            provider_name=provider,
            model_name=name,
            latency_ms=7,
        )


def said(answer: str, argument: str = "because", confidence: float = 0.8) -> str:
    """An argument as a well-behaved model gives it."""
    return json.dumps({"answer": answer, "argument": argument, "confidence": confidence})


def ranked(*names: str, confidence: float | None = None, reason: str = "best case") -> str:
    """A ballot as a well-behaved model gives it."""
    return json.dumps({"ranking": list(names), "confidence": confidence, "reason": reason})


def kind_of(messages: list[dict[str, str]]) -> str:
    """What a prompt asks for."""
    text = messages[-1]["content"]
    if '"verdicts"' in text:
        return "validate"
    if '"conclusion"' in text:
        return "conclude"
    if '"ranking"' in text:
        return "vote"
    return "argue" if "This is round" in text else "baseline"


def agreeable(position: str = "tabs", *others: str) -> Answer:
    """A model that holds one position and votes for it."""

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        match kind_of(messages):
            case "vote":
                return ranked(position, *others, confidence=0.9)
            case "conclude":
                return json.dumps({"conclusion": f"{position} it is", "minority_opinion": None})
            case "validate":
                names = json.loads(messages[-1]["content"].rpartition("each of: ")[2])
                verdicts = [
                    {"participant": n, "verdict": "passed", "feedback": "sound"} for n in names
                ]
                return json.dumps({"verdicts": verdicts})
            case _:
                return said(position, f"{model} says {position}")

    return answer


def spec_of(**fields: Any) -> DebateSpec:
    """A debate of three about tabs and spaces."""
    plain: dict[str, Any] = {
        "topic": "Tabs or spaces?",
        "positions": ["tabs", "spaces"],
        "participants": [{"name": name, "model": f"mock/{name}"} for name in ("ada", "bob", "cyd")],
        "rounds": 2,
        **fields,
    }
    return debates.read_spec(plain)


def principal_of(user_id: UUID) -> Principal:
    return Principal(user_id, UserRole.USER, frozenset({Scope.COMPLETIONS, Scope.DEBATES}))


async def no_price(model: str, prompt_tokens: int, output_tokens: int) -> Decimal:
    return Decimal(0)


def engine_of(models: FakeModels, **ports: Any) -> debates.Engine:
    async def on_behalf(user_id: UUID) -> Principal:
        return principal_of(user_id)

    return debates.Engine(
        **{
            "ask": models.ask,
            "on_behalf": on_behalf,
            "price": no_price,
            "repositories": debates.Repositories(),
            "clock": SystemClock(),
            **ports,
        }
    )


class Attempt:
    """An attempt at a task without a queue: what the engine needs of a TaskContext."""

    def __init__(self, db: Database, user_id: UUID) -> None:
        self.task_id = tasks.TaskId(uuid4())
        self.attempt = 1
        self.result: Any = None
        self._db = db
        self._user_id = user_id

    @asynccontextmanager
    async def transaction(self, role: Role | None = None) -> AsyncIterator[Connection]:
        async with self._db.transaction(role or Role.APP, tenant=self._user_id) as conn:
            yield conn

    async def complete(self, conn: Connection, result: Any = None) -> None:
        self.result = result

    def progress(self, percent: float, message: str | None = None) -> None:
        assert 0 <= percent <= 100


async def run_once(db: Database, engine: debates.Engine, debate_id: DebateId, user_id: UUID) -> Any:
    """Hold a debate as one attempt at its task does, and return the task's result."""
    attempt = Attempt(db, user_id)
    await engine.run(cast("tasks.TaskContext", attempt), debates.RunPayload(debate_id))
    return attempt.result


async def start(db: Database, spec: DebateSpec, user_id: UUID, **fields: Any) -> DebateId:
    debate_id = DebateId(uuid4())
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        await debates.start(
            conn,
            spec=spec,
            debate_id=debate_id,
            created_by=user_id,
            now=SystemClock().now(),
            **fields,
        )
    return debate_id


async def a_user(owner: Connection) -> UUID:
    user_id: UUID = (await make_user(owner))["id"]
    return user_id


async def see(db: Database, debate_id: DebateId) -> Debate:
    async with db.transaction(Role.OPERATOR) as conn:
        return await debates.get(conn, debate_id=debate_id)


async def events(db: Database, debate_id: DebateId) -> list[str]:
    async with db.transaction(Role.OPERATOR) as conn:
        return [e.event_type.value for e in await debates.events_of(conn, debate_id=debate_id)]


_numbers = itertools.count()


@asynccontextmanager
async def working(
    db: Database, engine: debates.Engine, **options: Any
) -> AsyncIterator[tasks.Worker]:
    """A worker that holds debates while the block runs."""
    registry = tasks.TaskRegistry()
    debates.register(registry, engine=engine, db=db, now=SystemClock().now)
    worker = tasks.build_worker(db, registry, tasks.WorkerOptions(**{"drain_s": 5.0, **options}))
    run = asyncio.create_task(worker.run())
    await worker.ready.wait()
    try:
        yield worker
    finally:
        worker.stop()
        await run


async def held(
    db: Database, engine: debates.Engine, *debate_ids: DebateId, timeout_s: float = 30.0
) -> list[Debate]:
    """Run debates to their end and return them."""
    async with working(db, engine), asyncio.timeout(timeout_s):
        return [await until_ended(db, debate_id) for debate_id in debate_ids]


async def until_ended(db: Database, debate_id: DebateId) -> Debate:
    """Wait for the task of a debate to end, and return the debate."""
    while True:
        debate = await see(db, debate_id)
        async with db.transaction(Role.OPERATOR) as conn:
            task = await tasks.get_task(conn, task_id=tasks.TaskId(debate.task_id or uuid4()))
        if task.status in {
            tasks.Status.COMPLETED,
            tasks.Status.FAILED,
            tasks.Status.CANCELLED,
            tasks.Status.DEAD_LETTER,
        }:
            return await see(db, debate_id)
        await asyncio.sleep(0.01)
