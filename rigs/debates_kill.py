"""kill -9 of a worker at every call of debates of every protocol: nothing answered is asked again.

    python -m rigs.debates_kill [--short] [--every 1] [--control]

Starts a Helix that works on no tasks, a `helix worker` beside it, and a provider outside both that
keeps a ledger of what it is asked. For each protocol (round_robin, all_see_all, critic_defender,
judge, validation passes, substitutes) and each k = 1, 2, … up to all its calls a debate is started;
when the provider has been asked k times for it, the worker is killed with SIGKILL before the answer
goes out (k odd) or as it does (k even), and another is started. Then:

    unfinished   debates that did not end as the same debate undisturbed    must be 0
    repeated     calls the provider was asked again though their answer was on
                 record when the worker died                               must be 0
    in flight    calls asked again because their answer was on its way, or not
                 begun: nobody can know of them                             are counted

--short kills at two points of each protocol. --control is the proof that the rig sees a repeated
call: while nobody works on a debate its answered turns and their keys are deleted, and the rig
fails unless it counts them as repeated. Exit status 1 when a must is broken.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.machine import facts
from bench.processes import Helix, clean_environment, free_port, start
from rigs.debaters import PROVIDER, SPECS, Debaters

TOO_LONG_S = 120.0
SETTLE_S = 0.3
PROTOCOLS = ("round_robin", "all_see_all", "critic_defender", "judge", "validation", "substitutes")


@dataclass
class Rig:
    """Everything that runs: Helix, its provider, and the worker that is killed."""

    helix: Helix
    provider: Debaters
    worker: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> Path:
        """Where files of the rig may stand."""
        return self.helix.home.parent

    def work(self) -> None:
        """Start a worker."""
        log = (self.place / "worker.log").open("ab")
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "helix", "worker", "--lease-s", "2", "--home",
             str(self.helix.home)],
            env=clean_environment(), stdout=log, stderr=log,
        )  # fmt: skip

    def kill(self) -> None:
        """End the worker as a power cut would."""
        if self.worker is not None:
            self.worker.send_signal(signal.SIGKILL)
            self.worker.wait()

    def begin(self, spec: dict[str, Any]) -> str:
        """Start a debate and return its id."""
        file = self.place / "spec.json"
        file.write_text(json.dumps(spec))
        return self.helix.run("debate", "Tabs or spaces?", "--file", str(file), "--detach").strip()

    def ended(self, which: str) -> str:
        """Wait for a debate to end; return how."""
        ends_at = time.monotonic() + TOO_LONG_S
        while time.monotonic() < ends_at:
            status = self.helix.sql(f"SELECT status FROM debates WHERE id = '{which}'")
            if status in {"completed", "failed", "cancelled"}:
                return str(status)
            time.sleep(0.1)
        return "too long"

    def on_record(self, which: str) -> int:
        """Return how many answers of a debate are on record."""
        return int(self.helix.sql(_ON_RECORD.replace("$which", which)))

    def forget(self, which: str) -> None:
        """Make Helix forget what it was told in a debate, for the control alone."""
        with psycopg.connect(self.helix.database_url, autocommit=True) as conn:
            conn.execute("DELETE FROM debate_arguments WHERE debate_id = %s", (which,))
            conn.execute("DELETE FROM idempotency_keys")

    def outcome(self, which: str) -> Any:
        """Return what a debate found and how many turns it took, to be compared."""
        return self.helix.sql(_OUTCOME.replace("$which", which))


_ON_RECORD = """
    SELECT count(*) FROM llm_requests AS r JOIN llm_responses AS p ON p.request_id = r.id
    WHERE p.status = 'completed' AND r.metadata ->> 'debate_id' = '$which'
"""
_OUTCOME = """
    SELECT concat_ws(' | ', d.status, d.final_winner, d.final_conclusion, d.confidence,
        d.stop_reason, d.multipass_result, d.current_round,
        (SELECT count(e.response_id) FROM debate_events AS e WHERE e.debate_id = d.id),
        (SELECT count(*) FROM debate_arguments AS a WHERE a.debate_id = d.id),
        (SELECT count(*) FROM debate_votes AS v WHERE v.debate_id = d.id AND v.is_valid))
    FROM debates AS d WHERE d.id = '$which'
"""


@dataclass
class Count:
    """What a number of kills came to."""

    kills: int = 0
    unfinished: int = 0
    repeated: int = 0
    in_flight: int = 0


async def undisturbed(rig: Rig, spec: dict[str, Any]) -> tuple[Any, Counter[str]]:
    """Hold a debate without a kill; return what it found, and how often each prompt was asked."""
    rig.provider.begin()
    which = await asyncio.to_thread(rig.begin, spec)
    status = await asyncio.to_thread(rig.ended, which)
    if status != "completed":
        raise SystemExit(f"an undisturbed debate ended as {status}")
    return await asyncio.to_thread(rig.outcome, which), rig.provider.answered.copy()


async def kill_at(
    rig: Rig, spec: dict[str, Any], point: int, whole: tuple[Any, Counter[str]], *, control: bool
) -> Count:
    """Hold a debate, kill its worker at a call, have another go on; return what came of it."""
    outcome, asked_once = whole
    provider = rig.provider
    provider.begin(die_at=point)
    which = await asyncio.to_thread(rig.begin, spec)
    async with asyncio.timeout(TOO_LONG_S):
        await provider.reached.wait()
    await asyncio.to_thread(rig.kill)
    provider.gone.set()
    await asyncio.sleep(SETTLE_S)  # a commit that was under way is on record or never will be
    on_record = await asyncio.to_thread(rig.on_record, which)
    on_its_way = sum(provider.answered.values()) - on_record
    if control:
        await asyncio.to_thread(rig.forget, which)
    provider.die_at = 0
    rig.work()
    status = await asyncio.to_thread(rig.ended, which)
    found = await asyncio.to_thread(rig.outcome, which)
    again = sum((provider.answered - asked_once).values())
    return Count(1, int(status != "completed" or found != outcome), again - on_its_way, on_its_way)


async def rig_all(*, every: int, short: bool, control: bool) -> bool:
    """Kill at every point asked for; return whether all held."""
    provider = Debaters()
    port = free_port()
    runner = await provider.start(port)
    held = True
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        home = Path(name) / "home"
        helix = await asyncio.to_thread(start, home, extra={"HELIX_WORKER_CONCURRENCY": "0"})
        rig: Rig | None = None
        try:
            models = [
                f for m in ("echo", "judge", "checker", "other", "down") for f in ("--model", m)
            ]
            await asyncio.to_thread(
                helix.run, "providers", "add", PROVIDER, "--base-url",
                f"http://127.0.0.1:{port}/v1", *models,
            )  # fmt: skip
            rig = Rig(helix, provider)
            rig.work()
            print(f"{'':16}{'kills':>6}{'unfinished':>12}{'repeated':>10}{'in flight':>11}")
            for protocol in PROTOCOLS[:1] if control else PROTOCOLS:
                spec = SPECS[protocol]
                whole = await undisturbed(rig, spec)
                calls = provider.calls
                points = [calls // 3, calls - 2] if short or control else range(1, calls + 1, every)
                total = Count()
                for point in points:
                    one = await kill_at(rig, spec, point, whole, control=control)
                    total.kills += one.kills
                    total.unfinished += one.unfinished
                    total.repeated += one.repeated
                    total.in_flight += one.in_flight
                print(f"{protocol:<16}{total.kills:>6}{total.unfinished:>12}{total.repeated:>10}"
                      f"{total.in_flight:>11}", flush=True)  # fmt: skip
                if control:
                    held = held and total.repeated > 0
                else:
                    held = held and total.unfinished == 0 and total.repeated == 0
        finally:
            if rig is not None and rig.worker is not None:
                rig.worker.terminate()
                await asyncio.to_thread(rig.worker.wait, 60)
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)
            await runner.cleanup()
    return held


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="kill -9 of a worker at every call of a debate")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th call")
    parser.add_argument("--short", action="store_true", help="two points of each protocol")
    parser.add_argument("--control", action="store_true", help="prove that repeats are seen")
    given = parser.parse_args()
    print(facts())
    began = time.monotonic()
    held = asyncio.run(rig_all(every=given.every, short=given.short, control=given.control))
    told = "repeats are seen" if given.control else "all held"
    print(f"{told if held else 'BROKEN'}; {time.monotonic() - began:.0f} s")
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
