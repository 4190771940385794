"""Debates and ensembles through the whole of Helix: HTTP, gateway, queue, ledger."""

import asyncio
import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from helix import debates
from helix.core.clock import SystemClock
from helix.core.db import Role
from helix.debates import DebateId
from tests.debates.conftest import Answer, Helix
from tests.debates.support import Attempt, engine_of, ranked, said, see, spec_of
from tests.debates.test_crash import Deaths

ASK = [{"role": "user", "content": "Which is it?"}]


def lines(first: str, then: str, *order: str) -> dict[str, str]:
    """What a mock participant says: alone and in round one, and in round two."""
    return {
        "baseline": said(first),
        "argue/1": said(first, f"at first {first}"),
        "vote/1": ranked(first, confidence=1),
        "argue/2": said(then, f"in the end {then}"),
        "vote/2": ranked(then, *order, confidence=1),
        "conclude": json.dumps({"conclusion": f"It is {then}.", "minority_opinion": "None left."}),
    }


PARTICIPANTS = [
    {"name": "ada", "model": "mock/large", "lines": lines("spaces", "tabs")},
    {"name": "bob", "model": "mock/small", "lines": lines("spaces", "spaces")},
    {"name": "cyd", "model": "mock/echo", "lines": lines("tabs", "tabs", "spaces")},
]
PLAIN = {"positions": ["spaces", "tabs"], "rounds": 2, "participants": PARTICIPANTS}


async def ended(helix: Helix, debate_id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            found = (await helix.call("GET", f"/api/debates/{debate_id}")).json
            if found["completed_at"] is not None:
                assert isinstance(found, dict)
                return found
            await asyncio.sleep(0.02)


async def test_a_debate_is_started_watched_told_and_paid_for(helix: Helix) -> None:
    made = await helix.call("POST", "/api/debates", {"topic": "Tabs or spaces?", **PLAIN})
    assert (made.status, made.json["status"]) == (201, "pending")
    debate_id = made.json["id"]

    live = await helix.call("GET", f"/api/debates/{debate_id}/events")
    kinds = [
        text.removeprefix("event: ")
        for text in live.body.decode().splitlines()
        if text.startswith("event: ")
    ]
    assert (kinds[0], kinds[-1]) == ("started", "completed")
    ids = [int(t[4:]) for t in live.body.decode().splitlines() if t.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    again = await helix.call(
        "GET", f"/api/debates/{debate_id}/events", **{"last-event-id": str(len(ids) - 1)}
    )
    assert again.body.decode().count("event: ") == 1

    found = await ended(helix, debate_id)
    assert (found["status"], found["final_winner"]) == ("completed", "tabs")
    assert (found["final_conclusion"], found["minority_opinion"]) == ("It is tabs.", "None left.")
    assert (found["changed"], found["consensus_reached"]) == (True, True)
    assert found["baseline"] == {"answer": "spaces", "share": "0.6667", "answers": 3}

    page = (await helix.call("GET", f"/api/debates/{debate_id}/transcript")).body.decode()
    assert "## Round 2: convergence" in page
    assert "It changed the answer from 'spaces' to 'tabs'" in page
    told = (await helix.call("GET", f"/api/debates/{debate_id}/transcript?format=json")).json
    assert [e["sequence"] for e in told["events"]] == ids

    calls = await helix.owner.fetch(
        "SELECT r.id, r.task_id, p.cost_usd, p.selected FROM llm_requests AS r"
        " JOIN llm_responses AS p ON p.request_id = r.id WHERE r.user_id = $1",
        helix.user_id,
    )
    assert len(calls) == found["value"]["calls"] == 16
    assert {str(row["task_id"]) for row in calls} == {found["task_id"]}
    assert sum(row["cost_usd"] for row in calls) == Decimal(str(found["value"]["cost_usd"])) > 0
    listed = (await helix.call("GET", "/api/debates?status=completed")).json["data"]
    assert [row["id"] for row in listed] == [debate_id]
    [value] = (await helix.call("GET", "/api/debates/value")).json["data"]
    assert value["debate_id"] == debate_id
    assert (await helix.call("GET", "/api/debates/strategies")).json == {"data": []}


ROUTES = (
    ("GET", "/api/debates"),
    ("POST", "/api/debates"),
    ("GET", "/api/debates/value"),
    ("GET", "/api/debates/strategies"),
    ("GET", "/api/debates/{id}"),
    ("GET", "/api/debates/{id}/transcript"),
    ("GET", "/api/debates/{id}/events"),
    ("POST", "/api/debates/{id}/cancel"),
    ("GET", "/api/panels"),
    ("PUT", "/api/panels/ensemble/x"),
    ("DELETE", "/api/panels/ensemble/x"),
)


async def test_every_route_is_closed_to_strangers(helix: Helix) -> None:
    mine = (await helix.call("POST", "/api/debates", {"topic": "Mine", **PLAIN})).json["id"]
    for method, path in ROUTES:
        where = path.replace("{id}", mine)
        assert (await helix.call(method, where, {}, who="nobody")).status == 401, where
        assert (await helix.call(method, where, {}, who="no scope")).status == 403, where
        other = await helix.call(method, where, {}, who="other")
        if "{id}" in path:
            assert (other.status, other.json["error"]["code"]) == (404, "debate_not_found"), where
        elif method == "GET":
            assert (other.status, other.json["data"]) == (200, []), where
    await ended(helix, mine)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"topic": ""}, "topic"),
    ({"participants": PARTICIPANTS[:1]}, "participants"),
    ({"participants": [PARTICIPANTS[0], PARTICIPANTS[0]]}, "the same name"),
    ({"positions": ["one"]}, "two or more"),
    ({"protocol": "judge"}, "model of the judge"),
    ({"protocol": "shouting"}, "protocol"),
    ({"expected": "neither"}, "one of the positions"),
    ({"judge": "debate/x"}, "only real models"),
    ({"surprise": 1}, "surprise"),
    ({"limits": {"budget_usd": -1}}, "budget_usd"),
    ({"code": {"repository": "/etc"}}, "HELIX_DEBATE_CODE_ROOTS"),
]


async def test_a_debate_that_breaks_a_rule_is_refused_in_one_clear_error(helix: Helix) -> None:
    for changes, says in BROKEN:
        answer = await helix.call("POST", "/api/debates", {"topic": "T", **PLAIN, **changes})
        assert answer.status in {400, 403}, changes
        assert says in answer.json["error"]["message"], changes
    assert await helix.owner.fetchval("SELECT count(*) FROM debates") == 0


async def chat(app: Helix, model: str, **fields: Any) -> Answer:
    body = {"model": model, "messages": ASK, **fields}
    return await app.call("POST", "/v1/chat/completions", body)


async def test_a_debate_is_called_like_a_model(helix: Helix) -> None:
    stored = await helix.call("PUT", "/api/panels/debate/three", PLAIN)
    assert stored.status == 200
    models = (await helix.call("GET", "/v1/models")).json["data"]
    assert "debate/three" in {model["id"] for model in models}

    whole = await chat(helix, "debate/three")
    assert whole.status == 200
    assert whole.json["choices"][0]["message"]["content"] == "It is tabs."
    stream = await chat(helix, "debate/three", stream=True)
    chunks = [
        json.loads(text[6:])
        for text in stream.body.decode().splitlines()
        if text.startswith("data: {")
    ]
    told = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert told == "It is tabs."

    rows = await helix.owner.fetch(
        "SELECT d.panel, d.topic, r.status, count(p.id) FILTER (WHERE p.selected) AS selected"
        " FROM debates AS d JOIN llm_requests AS r ON r.id = d.request_id"
        " JOIN llm_responses AS p ON p.request_id = r.id GROUP BY 1, 2, 3, d.id"
    )
    assert [tuple(row) for row in rows] == [("three", "Which is it?", "completed", 1)] * 2
    assert (await chat(helix, "debate/none")).json["error"]["code"] == "model_not_found"
    gone = await helix.call("DELETE", "/api/panels/debate/three")
    assert gone.status == 204
    assert (await chat(helix, "debate/three")).status == 404


async def candidates(helix: Helix, answer: Answer) -> list[tuple[str, str, bool]]:
    rows = await helix.owner.fetch(
        "SELECT model_name, status, selected FROM llm_responses WHERE request_id = $1"
        " ORDER BY attempt, id",
        UUID(answer.headers["x-request-id"]),
    )
    return [(row["model_name"].rpartition("/")[2], row["status"], row["selected"]) for row in rows]


def members(*models: str) -> list[dict[str, str]]:
    return [{"model": f"mock/{model}"} for model in models]


async def test_an_ensemble_asks_all_and_selects_exactly_one(helix: Helix) -> None:
    config = {"members": members("unicode", "echo", "small"), "strategy": "majority"}
    await helix.call("PUT", "/api/panels/ensemble/most", config)
    answer = await chat(helix, "ensemble/most")
    assert answer.json["choices"][0]["message"]["content"] == "Which is it?"
    rows = await candidates(helix, answer)
    assert len(rows) == 3 or "unicode" not in {model for model, _, _ in rows}
    assert [selected for _, _, selected in rows].count(True) == 1
    assert {model for model, _, selected in rows if selected} <= {"echo", "small"}
    names = {m["id"] for m in (await helix.call("GET", "/v1/models")).json["data"]}
    assert "ensemble/most" in names


async def test_an_ensemble_answers_as_soon_as_enough_agree(helix: Helix) -> None:
    """The slow member takes a second; two agree before, so it is cancelled and settled as that."""
    config = {"members": members("echo", "small", "slow"), "strategy": "majority"}
    await helix.call("PUT", "/api/panels/ensemble/quick", config)
    answer = await chat(helix, "ensemble/quick", stream=True)
    assert "Which is it?" in answer.body.decode().replace('"}', "")
    rows = await candidates(helix, answer)
    assert rows[-1] == ("slow", "cancelled", False)
    assert [selected for _, _, selected in rows].count(True) == 1


async def test_a_hedged_member_is_asked_only_when_the_first_has_failed(helix: Helix) -> None:
    config = {
        "members": members("error", "echo", "small"),
        "strategy": "first_good",
        "hedge_ms": 60_000,
    }
    await helix.call("PUT", "/api/panels/ensemble/hedged", config)
    answer = await chat(helix, "ensemble/hedged")
    assert answer.json["choices"][0]["message"]["content"] == "Which is it?"
    rows = await candidates(helix, answer)
    assert {model for model, _, _ in rows} == {"error", "echo"}
    assert rows[-1] == ("echo", "completed", True)


async def test_a_heavier_member_outweighs_two(helix: Helix) -> None:
    config = {
        "members": [
            {"model": "mock/echo"},
            {"model": "mock/small"},
            {"model": "mock/unicode", "weight": "2.5"},
        ],
        "strategy": "weighted",
    }
    ask = {"helix": {"ensemble": config}}
    answer = await chat(helix, "mock/echo", **ask)
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"].startswith("Grüße")
    rows = await candidates(helix, answer)
    assert [row for row in rows if row[2]] == [("unicode", "completed", True)]


async def test_an_ensemble_of_failures_says_why(helix: Helix) -> None:
    config = {"members": members("error", "error"), "strategy": "majority"}
    await helix.call("PUT", "/api/panels/ensemble/broken", config)
    answer = await chat(helix, "ensemble/broken")
    assert answer.status == 502
    bad = await helix.call("PUT", "/api/panels/ensemble/bad", {"members": []})
    assert (bad.status, bad.json["error"]["code"]) == (400, "panel_invalid")
    shared = await helix.call("PUT", "/api/panels/ensemble/all?shared=true", config)
    assert shared.status == 403


async def test_the_gateway_pays_once_for_a_debate_that_dies_at_every_boundary(
    helix: Helix,
) -> None:
    """As test_crash, but what is asked goes through the real gateway and its record."""
    spec = spec_of(**{**PLAIN, "participants": PARTICIPANTS})
    models: Any = type("Hooks", (), {})()
    deaths = Deaths(models)
    caller = helix.app._gateway.caller
    keys: set[str] = set()

    async def ask(principal: Any, fields: Any, *, options: Any) -> Any:
        keys.add(options.idempotency_key)
        await models.before(options.idempotency_key)
        told = await caller.ask(principal, fields, options=options)
        await models.after(options.idempotency_key)
        return told

    models.ask = ask
    engine = engine_of(models, on_behalf=helix.app._accounts.on_behalf)
    debate_id = DebateId(uuid4())
    async with helix.db.transaction(Role.APP, tenant=helix.user_id) as conn:
        await debates.start(
            conn,
            spec=spec,
            debate_id=debate_id,
            created_by=helix.user_id,
            now=SystemClock().now(),
        )
        await conn.execute("UPDATE background_tasks SET status = 'cancelled', completed_at = now()")
    attempts = 0
    async with asyncio.timeout(60):
        while True:
            attempts += 1
            deaths.died.clear()
            attempt: Any = Attempt(helix.db, helix.user_id)
            run = asyncio.create_task(engine.run(attempt, debates.RunPayload(debate_id)))
            died = asyncio.create_task(deaths.died.wait())
            done, _ = await asyncio.wait({run, died}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if run in done:
                await run
                break
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
    debate = await see(helix.db, debate_id)
    assert (debate.status, debate.final_winner) == ("completed", "tabs")
    assert attempts == 2 * len(keys) + 1
    answered = await helix.owner.fetchval(
        "SELECT count(*) FROM llm_responses WHERE status = 'completed'"
    )
    assert answered == len(keys) == debate.calls == 16


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(path), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


async def test_a_debate_is_tied_to_the_commit_it_is_about(helix: Helix, code_root: Path) -> None:
    path = code_root / "project"
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "trunk")
    (path / "a.py").write_text("tabs = 1\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "Begin.")
    (path / "a.py").write_text("tabs = 2\n")
    (path / "b.py").write_text("spaces = 1\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "Change tabs.")
    (path / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch /tmp/never\n")
    (code_root / "link").symlink_to("/etc")

    body = {"topic": "Merge it?", **PLAIN, "code": {"repository": "project"}}
    made = await helix.call("POST", "/api/debates", body)
    found = await ended(helix, made.json["id"])
    [version] = found["code_versions"]
    assert version["version_hash"] == git(path, "rev-parse", "HEAD")
    assert (version["branch"], version["commit_message"]) == ("trunk", "Change tabs.")
    assert version["files_changed"] == ["a.py", "b.py"]
    assert "+tabs = 2" in version["diff_summary"]
    asked = await helix.owner.fetchval(
        "SELECT string_agg(request_body::text, '') FROM llm_request_bodies"
    )
    assert "+tabs = 2" in asked

    for repository, revision in (
        ("link", "HEAD"),
        ("../code/../..", "HEAD"),
        (str(path.parent), "HEAD"),
    ):
        code = {"repository": repository, "revision": revision}
        refused = await helix.call("POST", "/api/debates", {**body, "code": code})
        assert (refused.status, refused.json["error"]["code"]) == (403, "repository_refused")
    code = {"repository": "project", "revision": "--output=/tmp/never"}
    made = await helix.call("POST", "/api/debates", {**body, "code": code})
    found = await ended(helix, made.json["id"])
    assert (found["status"], found["error"]) == ("failed", "code.revision is no name of a commit")
