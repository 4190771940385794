"""The official npm client, in a process of its own. `make compat` installs what it needs."""

import asyncio
import json
import os
import shutil
from typing import Any

import pytest

from helix.accounts.types import Scope
from tests.compat.scenarios import ROOT
from tests.compat.world import World

HERE = ROOT / "compat" / "js"
RUN_S = 90.0


def node() -> str:
    """Return Node.js; without it, or the client, say why and skip, or fail where it must be."""
    found, problem = shutil.which("node"), None
    if found is None:
        problem = "the npm client was not tried: there is no Node.js here; see `make compat`"
    elif not (HERE / "node_modules" / "openai").is_dir():
        problem = "the npm client was not tried: it is not installed; `make compat` does it"
    if problem is not None:
        if os.environ.get("COMPAT") == "all":
            pytest.fail(problem)
        pytest.skip(problem)
    assert found is not None
    return found


async def output_of(*command: str, env: dict[str, str] | None = None) -> list[Any]:
    """Run a command; return the lines of JSON that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]


async def test_official_npm_client(world: World) -> None:
    program = node()
    env = {
        "HELIX_URL": world.root,
        "HELIX_KEY": world.key,
        "HELIX_KEY_NARROW": await world.another_key(scopes=frozenset({Scope.MODELS})),
        "HELIX_KEY_LIMITED": await world.another_key(rate_limit=1),
    }
    world.upstream.fail_once()
    told = await output_of(program, str(HERE / "scenarios.mjs"), env=env)
    failed = {one["scenario"]: one["error"] for one in told if not one["ok"]}
    assert not failed, "\n".join(f"== {name}\n{why}" for name, why in failed.items())
    results = {one["scenario"]: one for one in told}
    assert (await world.record(results["helix_options"]["request_id"]))["agent_id"] == "scenario"
    assert (await world.record(results["request_id"]["request_id"]))["status"] == "completed"
    assert [one.get("a_new_field") for one in world.calls_of("chat")].count("from npm") == 1
    tried = [one["id"] for one in world.calls_of("flaky")]
    assert len(set(tried)) == 2
    assert tried[-1] == results["retries"]["request_id"]
    row = await world.record(results["cancel"]["request_id"])
    assert row["status"] == "cancelled"
    assert row["content"].startswith(results["cancel"]["heard"])
    assert row["tokens_out"] > 0
