"""Record how a debate went, so that every release can be held against it.

    python -m rigs.debates_history record DEBATE [--home HOME] [--out FILE]
    python -m rigs.debates_history make [--only NAME]

A history is one JSON file: what was asked for, every event in its order, what was said and voted,
every call with the digest of its prompt and its answer or error, and the outcome.
tests/debates/test_histories.py replays each of tests/debates/histories: a release that would take
another step, put a prompt in other words or ask again what was answered fails there.

`record` writes that of a debate which has completed, from the database of a Helix (texts of the
debate are in the file: look before you give it away). `make` holds the debates of rigs/debaters.py
with its provider and writes the files of the tests anew: for a release that changes prompts or
steps on purpose. Debates under way during such an upgrade then ask the calls of one step again.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bench.processes import free_port, start
from helix.core.config import load_settings
from helix.core.instance import locate
from rigs.debaters import PROVIDER, SPECS, Debaters, digest

HISTORIES = Path(__file__).parent.parent / "tests" / "debates" / "histories"
TOO_LONG_S = 60.0

_DEBATE = """
    SELECT topic, description, participants, positions, protocol, strategy, total_rounds,
        validation_config, expected, metadata, config, status, stop_reason, final_winner,
        final_conclusion, minority_opinion, consensus_reached, confidence::text AS confidence,
        confidence_source, baseline, changed, multipass_result
    FROM debates WHERE id = %(which)s
"""
_EVENTS = """
    SELECT event_type, round_number AS round, participant_id AS participant, data,
        response_id IS NOT NULL AS answered
    FROM debate_events WHERE debate_id = %(which)s ORDER BY sequence
"""
_ARGUMENTS = """
    SELECT round_number AS round, turn_number AS turn, participant_id AS participant, provider_name,
        model_name, position, role, argument_text AS text, answer, confidence::text AS confidence,
        tokens_used AS tokens, latency_ms, is_primary
    FROM debate_arguments WHERE debate_id = %(which)s ORDER BY round_number, turn_number
"""
_VOTES = """
    SELECT round_number AS round, voter, ranking, weight::text AS weight,
        confidence::text AS confidence, reason, is_valid, is_repaired, refusal
    FROM debate_votes WHERE debate_id = %(which)s ORDER BY round_number, voter
"""
_CALLS = """
    SELECT substr(r.idempotency_key, length('debate:' || %(which)s || ':') + 1) AS key,
        r.model_name AS model, b.request_body -> 'messages' AS messages,
        c.content AS answer, c.error_code
    FROM llm_requests AS r JOIN llm_request_bodies AS b ON b.request_id = r.id
    JOIN LATERAL (
        SELECT p.error_code, t.content FROM llm_responses AS p
        LEFT JOIN llm_response_bodies AS t ON t.response_id = p.id
        WHERE p.request_id = r.id ORDER BY p.selected DESC, p.attempt DESC LIMIT 1) AS c ON true
    WHERE r.idempotency_key LIKE 'debate:' || %(which)s || ':%%' ORDER BY 1
"""
_ENDED = "SELECT completed_at FROM debates WHERE id = %s"
_SPEC = {"total_rounds": "rounds", "validation_config": "validation"}
_ASKED_FOR = (
    "topic", "description", "participants", "positions", "protocol", "strategy", "total_rounds",
    "validation_config", "expected", "metadata",
)  # fmt: skip
_FOUND = (
    "status", "stop_reason", "final_winner", "final_conclusion", "minority_opinion",
    "consensus_reached", "confidence", "confidence_source", "baseline", "changed",
    "multipass_result",
)  # fmt: skip


def history_of(database_url: str, which: str) -> dict[str, Any]:
    """Return the history of a debate that has completed. Raises SystemExit for any other."""
    with psycopg.connect(database_url, row_factory=dict_row) as conn:
        given = {"which": which}
        row = conn.execute(_DEBATE, given).fetchone()
        if row is None or row["status"] != "completed":
            raise SystemExit(f"{which}: no such debate, or it has not completed")
        calls = conn.execute(_CALLS, given).fetchall()
        return {
            "spec": {
                **row["config"],
                **{_SPEC.get(n, n): row[n] for n in _ASKED_FOR if row[n] is not None},
            },
            "calls": {
                call["key"]: {
                    "model": call["model"],
                    "prompt": digest(call["model"], call["messages"]),
                    **({"failed": call["error_code"]} if call["error_code"] else {}),
                    **({} if call["error_code"] else {"answer": call["answer"]}),
                }
                for call in calls
            },
            "events": conn.execute(_EVENTS, given).fetchall(),
            "arguments": conn.execute(_ARGUMENTS, given).fetchall(),
            "votes": conn.execute(_VOTES, given).fetchall(),
            "outcome": {name: row[name] for name in _FOUND},
        }


def written(history: dict[str, Any]) -> str:
    """Return a history as its file."""
    return json.dumps(history, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


async def make(names: list[str]) -> None:
    """Hold the debates of these names and write their files."""
    provider, port = Debaters(), free_port()
    runner = await provider.start(port)
    with tempfile.TemporaryDirectory(prefix="hx-") as place:
        helix = await asyncio.to_thread(start, Path(place) / "home")
        try:
            models = ("echo", "judge", "checker", "other", "down")
            await asyncio.to_thread(
                helix.run, "providers", "add", PROVIDER, "--base-url",
                f"http://127.0.0.1:{port}/v1", *(f"--model={model}" for model in models),
            )  # fmt: skip
            for name in names:
                file = Path(place) / "spec.json"
                file.write_text(json.dumps(SPECS[name]))
                which = await asyncio.to_thread(
                    helix.run, "debate", "Tabs or spaces?", "--file", str(file), "--detach"
                )
                history = await asyncio.to_thread(_completed, helix.database_url, which.strip())
                (HISTORIES / f"{name}.json").write_text(written(history))
                print(f"{name}: {len(history['calls'])} calls, {len(history['events'])} events")
        finally:
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)
            await runner.cleanup()


def _completed(database_url: str, which: str) -> dict[str, Any]:
    ends_at = time.monotonic() + TOO_LONG_S
    with psycopg.connect(database_url, autocommit=True) as conn:
        while time.monotonic() < ends_at:
            row = conn.execute(
                "SELECT completed_at FROM debates WHERE id = %s", (which,)
            ).fetchone()
            if row is not None and row[0] is not None:
                break
            time.sleep(0.1)
    return history_of(database_url, which)


def main() -> None:
    """Read the options and record."""
    parser = argparse.ArgumentParser(description="record how debates went")
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="write the history of one debate")
    record.add_argument("debate")
    record.add_argument("--home", type=Path)
    record.add_argument("--out", type=Path)
    made = verbs.add_parser("make", help="write the histories of the tests anew")
    made.add_argument("--only", choices=sorted(SPECS))
    given = parser.parse_args()
    if given.verb == "make":
        HISTORIES.mkdir(exist_ok=True)
        asyncio.run(make([given.only] if given.only else sorted(SPECS)))
        return
    target = locate(load_settings(os.environ, home=given.home))
    text = written(history_of(target.database_url, given.debate))
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
