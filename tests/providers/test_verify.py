"""Verification: what each check takes for right, and the score, by hand."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from helix import providers
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.providers import Call, Health, ModelFacts, Provider, Route, UpstreamUnreachable, Wire
from helix.providers.verify import Checked, Outcome, run_checks, score_of

PROVIDER = Provider(uuid4(), "p", Wire.OPENAI, "http://x", 5, "m", frozenset({"m"}))
ROUTE = Route(PROVIDER, "m")
UNTOLD = ModelFacts()


class FakeReply:
    def __init__(self, status: int, parts: list[bytes]) -> None:
        self.status = status
        self.content_type = "application/json"
        self.retry_after = None
        self._parts = parts

    async def chunk(self) -> bytes:
        return self._parts.pop(0) if self._parts else b""

    def close(self) -> None:
        pass


class Model:
    """A model that does everything right, but for what the test says."""

    def __init__(self, **wrong: Any) -> None:
        self.wrong = wrong
        self.asked: list[str] = []

    async def open(self, call: Call) -> FakeReply:
        body = msgspec.json.decode(call.body)
        name = self.kind(body)
        self.asked.append(name)
        if name == "stream":
            pieces = self.wrong.get("stream", ["one", ", two"])
            chunks = [{"choices": [{"delta": {"content": p}}]} for p in pieces]
            lines = [b"data: " + msgspec.json.encode(c) + b"\n\n" for c in chunks]
            end = [] if self.wrong.get("cut") else [b"data: [DONE]\n\n"]
            return FakeReply(200, lines + end)
        if name in self.wrong and isinstance(self.wrong[name], int):
            return FakeReply(self.wrong[name], [b"{}"])
        message = self.wrong.get(name, self.right(name, body))
        usage = {"total_tokens": 20}
        answer = {"choices": [{"message": message}], "usage": usage}
        return FakeReply(200, [msgspec.json.encode(answer)])

    @staticmethod
    def kind(body: dict[str, Any]) -> str:
        for key, name in (
            ("response_format", "json_schema"),
            ("tools", "tool"),
            ("stream", "stream"),
            ("stop", "stop"),
        ):
            if key in body:
                return name
        return "echo" if "exactly" in body["messages"][0]["content"] else "arithmetic"

    @staticmethod
    def right(name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name == "tool":
            function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
            return {"content": None, "tool_calls": [{"function": function}]}
        said = body["messages"][0]["content"]
        text = {
            "echo": said.rpartition(" ")[2],
            "arithmetic": "391",
            "json_schema": '{"city": "Paris", "population": 2100000}',
            "stop": "1 2 3 4 ",
        }[name]
        return {"content": text}


async def outcome_of(model: Model, facts: ModelFacts = UNTOLD) -> Outcome:
    return await run_checks(model.open, ROUTE, facts)


async def test_model_that_does_everything_right_passes_all() -> None:
    outcome = await outcome_of(Model())
    assert {name: check.passed for name, check in outcome.checks.items()} == dict.fromkeys(
        ("echo", "arithmetic", "json_schema", "tool", "stream", "stop"), True
    )
    assert outcome.correctness == 1.0


@pytest.mark.parametrize(
    ("wrong", "correctness"),
    [
        ({"echo": {"content": "Sure! heliotrope-4711"}}, 0.8),
        ({"arithmetic": {"content": "It is 391, I think"}}, 0.9),
        ({"json_schema": {"content": '```json\n{"city":"Paris","population":1}\n```'}}, 0.8),
        ({"json_schema": {"content": '{"city":"Paris","population":1,"x":2}'}}, 0.8),
        ({"json_schema": {"content": '{"city":"Paris","population":true}'}}, 0.8),
        ({"tool": {"content": "It is raining in Oslo."}}, 0.8),
        ({"tool": {"tool_calls": [{"function": {"name": "x", "arguments": "{}"}}]}}, 0.8),
        ({"tool": 400}, 0.8),
        ({"stream": ["one, two"]}, 0.8),
        ({"cut": True}, 0.8),
        ({"stop": {"content": "1 2 3 4 5 6"}}, 0.9),
        ({"echo": {"content": 7}, "arithmetic": 500}, 0.7),
    ],
)
async def test_each_check_sees_what_is_wrong(wrong: dict[str, Any], correctness: float) -> None:
    assert (await outcome_of(Model(**wrong))).correctness == pytest.approx(correctness)


async def test_what_the_catalogue_says_it_has_not_is_left_out() -> None:
    model = Model(tool={"content": "no"})
    outcome = await outcome_of(model, ModelFacts(known=True))
    assert (outcome.checks["tool"].passed, outcome.checks["json_schema"].passed) == (None, None)
    assert outcome.correctness == 1.0
    assert model.asked == ["echo", "arithmetic", "stream", "stop"]


async def test_provider_that_cannot_be_reached_is_asked_once() -> None:
    asked = []

    async def refuse(call: Call) -> FakeReply:
        asked.append(call)
        raise UpstreamUnreachable("p", "refused")

    outcome = await run_checks(refuse, ROUTE, UNTOLD)
    assert len(asked) == 1
    kept = score_of("m", outcome, asked=9, failed=3, own_ms=None, fleet_ms=[100.0])
    assert (kept.score, kept.availability) == (Decimal("1.80"), Decimal("0.6000"))


def checked(first_ms: float = 100.0, *, passed: bool = True) -> Outcome:
    check = Checked(passed, "", first_ms, 10, reached=True)
    return Outcome(dict.fromkeys(("echo", "arithmetic", "stop"), check), 50)


@pytest.mark.parametrize(
    ("outcome", "given", "score"),
    [
        (checked(), {}, "10.00"),
        (checked(passed=False), {}, "5.00"),
        (checked(), {"asked": 3, "failed": 2}, "8.50"),
        (checked(), {"fleet_ms": [50.0]}, "9.50"),  # median 75 over 100
        (checked(), {"fleet_ms": [900.0, 800.0]}, "10.00"),
        (checked(), {"own_ms": 400.0, "fleet_ms": [100.0, 100.0]}, "8.50"),
    ],
)
def test_score_is_the_formula(outcome: Outcome, given: dict[str, Any], score: str) -> None:
    options = {"asked": 0, "failed": 0, "own_ms": None, "fleet_ms": [], **given}
    kept = score_of("m", outcome, **options)
    assert (kept.score, kept.tokens) == (Decimal(score), 30)


async def test_score_is_stored_with_its_history_and_seen_by_routing(
    db: Database, owner: Connection
) -> None:
    settings = load_settings({}, probe_interval_s=0)
    running = providers.build(db, settings, keyring=Keyring([new_key()]))
    await running.start()
    try:
        kept = [await running.verify("mock"), await running.verify("mock", model="unicode")]
        await running.refresh()
        row = await owner.fetchrow(
            "SELECT verification_score, last_verified FROM llm_providers WHERE name = 'mock'"
        )
        assert row["verification_score"] == kept[1].score
        assert row["last_verified"] is not None
        history = await owner.fetch("SELECT score FROM provider_verifications ORDER BY id")
        assert [r["score"] for r in history] == [one.score for one in kept]
        stored = running._vitals.stored[running.provider("mock").id]
        assert (stored.health, stored.score) == (Health.UNKNOWN, float(kept[1].score))
    finally:
        await running.stop()
