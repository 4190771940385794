"""A provider outside Helix whose models debate by a script, and debates of every protocol for it.

What it says follows from the prompt alone, so the same debate always goes the same way. It keeps a
ledger: each prompt by its digest, how often it was asked and how often it was answered.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["SPECS", "Debaters", "digest"]

PROVIDER = "rig"
_ANSWERED_TWICE = "That is no valid ballot"


def digest(model: str, messages: Any) -> str:
    """Return what tells one prompt from every other: model and messages, hashed."""
    told = json.dumps([model.rpartition("/")[2], messages], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass
class Debaters:
    """Serve it as /v1/chat/completions. At call `die_at` it says so and waits for `gone`.

    `before` the answer when odd, after it when even: then the answer is on its way.
    """

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    die_at: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, die_at: int = 0) -> None:
        """Forget what was asked; the next debate is one of its own."""
        self.asked.clear()
        self.answered.clear()
        self.calls, self.die_at = 0, die_at
        self.reached.clear()
        self.gone.clear()

    async def start(self, port: int) -> web.AppRunner:
        """Serve on a port of 127.0.0.1; clean the runner up afterwards."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer one call."""
        body = json.loads(await request.read())
        which = digest(body["model"], body["messages"])
        self.calls += 1
        self.asked[which] += 1
        dies = self.calls == self.die_at
        if dies:
            self.reached.set()
            if self.die_at % 2:
                await self.gone.wait()
        if body["model"] == "down":
            refusal = {"message": "no such model", "type": "invalid_request_error", "code": None}
            return web.json_response({"error": refusal}, status=400)
        text = answer(body["messages"])
        self.answered[which] += 1
        return web.json_response({
            "id": f"c{self.calls}", "object": "chat.completion", "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        })  # fmt: skip


def answer(messages: list[dict[str, str]]) -> str:
    """Return what the script says to a prompt."""
    system, asked = messages[0]["content"], messages[-1]["content"]
    for marker, say in _SAYINGS.items():
        if marker in asked.rpartition("Answer with one JSON object")[2]:
            return say(system, asked)
    return "I do not know what is asked."


def _held_by(system: str) -> str:
    """Return what a speaker holds: ada and the judge tabs, everybody else spaces."""
    return "tabs" if re.match(r"You are (ada|the judge)\b", system) else "spaces"


def _argue(system: str, asked: str) -> str:
    mine = _held_by(system)
    number = asked.rpartition("This is round ")[2][:1] or "0"
    who = system.partition(",")[0].rpartition(" ")[2]
    words = f"{who} holds {mine} for reason {number}, and the reason is number {number}"
    return json.dumps({"answer": mine, "argument": words, "confidence": 0.5})


def _vote(system: str, asked: str) -> str:
    if system.startswith("You are bob") and not asked.startswith(_ANSWERED_TWICE):
        return "Spaces, of course!"
    if system.startswith("You are cyd"):
        return '{"ranking": ["cookies"]}'
    mine = _held_by(system)
    return json.dumps({"ranking": [mine], "confidence": 0.5, "reason": "it is better"})


def _validate(system: str, asked: str) -> str:
    names = json.loads(asked.rpartition("one verdict for each of: ")[2])
    verdict = "failed" if "logic" in system else "passed"
    verdicts = [
        {"participant": n, "verdict": verdict if n == "ada" else "passed", "feedback": "checked"}
        for n in names
    ]
    return json.dumps({"verdicts": verdicts})


def _conclude(system: str, asked: str) -> str:
    return json.dumps({"conclusion": "spaces, all in all", "minority_opinion": "ada held tabs"})


_SAYINGS: dict[str, Callable[[str, str], str]] = {
    '"verdicts"': _validate,
    '"minority_opinion"': _conclude,
    '"ranking"': _vote,
    '"argument"': _argue,
}


def _spec(**fields: Any) -> dict[str, Any]:
    members = [{"name": name, "model": f"{PROVIDER}/echo"} for name in ("ada", "bob", "cyd")]
    return {
        "participants": members,
        "positions": ["tabs", "spaces"],
        "rounds": 2,
        "stop": {"agreement": None, "convergence": None},
        **fields,
    }


SPECS: dict[str, dict[str, Any]] = {
    "all_see_all": _spec(),
    "round_robin": _spec(protocol="round_robin", voting={"method": "condorcet"}),
    "critic_defender": _spec(protocol="critic_defender", voting={"method": "borda"}),
    "judge": _spec(protocol="judge", judge=f"{PROVIDER}/judge"),
    "validation": _spec(
        rounds=1, validation={"passes": ["facts", "logic"], "model": f"{PROVIDER}/checker"}
    ),
    "substitutes": _spec(
        participants=[
            {"name": "ada", "model": f"{PROVIDER}/echo", "weight": "1.5"},
            {"name": "bob", "model": f"{PROVIDER}/down", "substitutes": [f"{PROVIDER}/other"]},
            {"name": "dan", "model": f"{PROVIDER}/down"},
            {"name": "eve", "model": f"{PROVIDER}/echo", "position": "tabs"},
        ],
        conclude="winner",
    ),
    "calls": _spec(rounds=5, limits={"calls": 14}),
}
"""Debates of every protocol and of every way to end, without their topic."""
