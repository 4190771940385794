"""kill -9 of Helix at every call of a debate: it goes on, and no answered call is asked again.

    python -m rigs.debates_kill [--every 1] [--short]

Starts a Helix with an embedded database and a provider outside it that counts what it is asked. For
k = 1, 2, … a debate is started; when the provider has been asked k times for it, Helix is killed
with SIGKILL before the answer goes out (k odd) or 20 ms after (k even), and started again. Then:

    unfinished   debates that did not complete, or in which anybody fell silent    must be 0
    paid twice   turns of which two requests were answered, by idempotency key    must be 0
    repeated     calls the provider was asked beyond one a turn: answers that were
                 on their way when Helix died, at most one step's worth           are counted

--short kills at four points only. Exit status 1 when a must is broken.
"""

import argparse
import asyncio
import json
import signal
import tempfile
import time
from pathlib import Path

from aiohttp import web

from bench.machine import facts
from bench.processes import Helix, free_port, start

PARTICIPANTS = ("ada", "bob", "cyd")
CALLS = 16
TOO_LONG_S = 120.0


class Provider:
    """Answers a debate's prompts; `asked` counts the present one; at `die_at` it says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.die_at = 0
        self.reached = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer /v1/chat/completions."""
        body = json.loads(await request.read())
        self.asked += 1
        if self.asked == self.die_at:
            self.reached.set()
            if self.die_at % 2:
                await self.gone.wait()
        text = _answer(body["messages"][-1]["content"], body["messages"][0]["content"])
        return web.json_response({
            "id": f"c{self.asked}", "object": "chat.completion", "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        })  # fmt: skip


def _answer(asked: str, system: str) -> str:
    mine = "tabs" if "ada" in system else "spaces"
    if '"conclusion"' in asked:
        return json.dumps({"conclusion": "spaces", "minority_opinion": "tabs"})
    if '"ranking"' in asked:
        return json.dumps({"ranking": [mine], "confidence": 0.5})
    number = asked.rpartition("This is round ")[2][:1]
    return json.dumps({"answer": mine, "argument": f"{mine} for reason {number} {system}"})


async def rig(points: list[int]) -> bool:
    """Kill at each of these calls; return whether all held."""
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    unfinished = repeated = 0
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        home, extra = Path(name) / "home", {"HELIX_WORKER_LEASE_S": "2"}
        helix = await asyncio.to_thread(start, home, extra=extra)
        try:
            await asyncio.to_thread(
                helix.run, "providers", "add", "rig", "--base-url", f"http://127.0.0.1:{port}/v1",
                "--model", "echo",
            )  # fmt: skip
            for point in points:
                provider.asked, provider.die_at = 0, point
                provider.reached.clear()
                provider.gone.clear()
                which = await asyncio.to_thread(_begin, helix)
                async with asyncio.timeout(TOO_LONG_S):
                    await provider.reached.wait()
                if not point % 2:
                    await asyncio.sleep(0.02)
                helix.process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(helix.process.wait)
                provider.gone.set()
                provider.die_at = 0
                helix = await asyncio.to_thread(start, home, extra=extra)
                status = await asyncio.to_thread(_ended, helix, which)
                quiet = await asyncio.to_thread(helix.sql, _SILENT)
                unfinished += status != "completed" or quiet > 0
                repeated += provider.asked - CALLS
                print(f"killed at call {point:>2}: {status}, asked {provider.asked} times")
            twice = await asyncio.to_thread(helix.sql, _TWICE)
        finally:
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)
            await runner.cleanup()
    print(f"{len(points)} kills: unfinished {unfinished}, paid twice {twice}, repeated {repeated}")
    return unfinished == 0 and twice == 0


_SILENT = "SELECT count(*) FROM debate_events WHERE event_type = 'silent'"
_TWICE = """
    SELECT count(*) FROM (
        SELECT split_part(r.idempotency_key, ':', 2), r.metadata ->> 'kind', r.metadata ->> 'round',
               r.metadata ->> 'participant'
        FROM llm_requests AS r JOIN llm_responses AS p ON p.request_id = r.id
        WHERE p.status = 'completed' AND r.idempotency_key LIKE 'debate:%'
        GROUP BY 1, 2, 3, 4 HAVING count(*) > 1) AS twice
"""


def _begin(helix: Helix) -> str:
    spec = helix.home.parent / "spec.json"
    members = [{"name": name, "model": "rig/echo"} for name in PARTICIPANTS]
    stop = {"agreement": None, "convergence": None}
    told = {"participants": members, "positions": ["tabs", "spaces"], "rounds": 2, "stop": stop}
    spec.write_text(json.dumps(told))
    return helix.run("debate", "Tabs or spaces?", "--file", str(spec), "--detach").strip()


def _ended(helix: Helix, which: str) -> str:
    ends_at = time.monotonic() + TOO_LONG_S
    while time.monotonic() < ends_at:
        status = helix.sql(f"SELECT status FROM debates WHERE id = '{which}'")
        if status in {"completed", "failed", "cancelled"}:
            return str(status)
        time.sleep(0.1)
    return "too long"


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="kill -9 of Helix at every call of a debate")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th call")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    points = [1, 4, 9, 16] if given.short else list(range(1, CALLS + 1, given.every))
    print(facts())
    began = time.monotonic()
    held = asyncio.run(rig(points))
    print(f"{'all held' if held else 'BROKEN'}; {time.monotonic() - began:.0f} s")
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
