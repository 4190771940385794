"""Rotation under load: `python -m rigs.rotate [--short] [--secrets N] [--kills N]`.

In a throwaway home it stores secrets, half bound to their row and half to their row and host, lets
two processes read and decrypt them without pause and one change them, and rotates with
`helix secrets rotate`: once to the end, for the figure, and once more killed with -9 again and
again. Then every value must be on the newest key, hold what was last written, and the old keys
must be retirable; no reader may have failed once (K1). Exits 1 when anything was not so.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.machine import facts
from helix.core.config import load_settings
from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection, connect
from helix.core.instance import HomePaths, load_keyring, make_home, read_keys
from helix.operations.migrate import upgrade
from helix.operations.postgres import embedded_postgres
from helix.operations.secrets.cli import PLACES
from helix.operations.secrets.rows import count_keys, find_unreadable
from helix.providers.store import credential_context

_BASE_URL = "https://{}.example/v1"
_FILL_ROWS = 2_000
_READ_ROWS = 40
_PEER = "memory_peers.credentials:{}"
_PROVIDERS = """
WITH p AS (INSERT INTO llm_providers (id, name, provider_type, protocol, base_url)
           SELECT i, n, 'api_key', 'openai', u
           FROM unnest($1::uuid[], $2::text[], $3::text[]) AS x (i, n, u))
INSERT INTO provider_configs (provider_id, key, value, encrypted, key_id)
SELECT i, 'api_key', v, true, $5 FROM unnest($1::uuid[], $4::text[]) AS x (i, v)
"""
_PEERS = """
INSERT INTO memory_peers (id, name, url, credentials, key_id)
SELECT i, n, 'http://127.0.0.1', v, $4
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS x (i, n, v)
"""
_SAMPLE_PROVIDERS = """
SELECT p.id, p.base_url, c.value
FROM provider_configs AS c JOIN llm_providers AS p ON p.id = c.provider_id
WHERE p.id = ANY ($1::uuid[])
"""
_SAMPLE_PEERS = "SELECT id, credentials FROM memory_peers WHERE id = ANY ($1::uuid[])"
_CHANGE = "UPDATE memory_peers SET credentials = $2, key_id = $3 WHERE id = $1"


def _id(kind: int, number: int) -> UUID:
    return UUID(int=(kind << 96) | number)


async def _fill(conn: Connection, keyring: Keyring, count: int) -> None:
    half = count // 2
    for start in range(0, half, _FILL_ROWS):
        numbers = range(start, min(half, start + _FILL_ROWS))
        ids = [_id(1, n) for n in numbers]
        urls = [_BASE_URL.format(f"p{n}") for n in numbers]
        values = [
            keyring.encrypt(f"sk-{n}", context=credential_context(i, u))
            for n, i, u in zip(numbers, ids, urls, strict=True)
        ]
        names = [f"p{n}" for n in numbers]
        await conn.execute(_PROVIDERS, ids, names, urls, values, keyring.key_id)
        ids = [_id(2, n) for n in numbers]
        values = [keyring.encrypt("0", context=_PEER.format(i)) for i in ids]
        await conn.execute(_PEERS, ids, names, values, keyring.key_id)
    await conn.execute("ANALYZE")


async def _read(home: Path, url: str, count: int) -> None:
    """Read and decrypt random secrets until told to stop; print what was done."""
    keyring = load_keyring(load_settings({}, home=home))
    conn, chance = await connect(url), random.Random(os.getpid())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    done, failures = 0, []
    while not stopped.is_set():
        numbers = [chance.randrange(count // 2) for _ in range(_READ_ROWS)]
        places: list[tuple[str, str]] = [
            (row["value"], credential_context(row["id"], row["base_url"]))
            for row in await conn.fetch(_SAMPLE_PROVIDERS, [_id(1, n) for n in numbers])
        ]
        places += [
            (row["credentials"], _PEER.format(row["id"]))
            for row in await conn.fetch(_SAMPLE_PEERS, [_id(2, n) for n in numbers])
        ]
        for value, context in places:
            try:
                keyring.decrypt(value, context=context)
            except SecretUnreadable as exc:
                failures.append(exc.message)
            done += 1
    await conn.close()
    print(json.dumps({"decrypts": done, "failures": failures[:5], "failed": len(failures)}))


async def _write(home: Path, url: str, count: int) -> None:
    """Change random secrets until told to stop; print what each changed one holds now."""
    keyring = load_keyring(load_settings({}, home=home))
    conn, chance = await connect(url), random.Random(7)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    last: dict[int, str] = {}
    turn = 0
    while not stopped.is_set():
        turn += 1
        number, value = chance.randrange(count // 2), str(turn)
        sealed = keyring.encrypt(value, context=_PEER.format(_id(2, number)))
        await conn.execute(_CHANGE, _id(2, number), sealed, sealed.split(":")[1])
        last[number] = value
    await conn.close()
    print(json.dumps({"changes": turn, "last": last}))


def _child(role: str, home: Path, url: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rigs.rotate", "--role", role, "--home", str(home)]
    command += ["--url", url, "--secrets", str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _rotate(home: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "helix", "secrets", "rotate", "--home", str(home), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


async def _finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = await asyncio.to_thread(process.communicate)
    return process.returncode, said.strip() if said else ""


async def _killed_rotation(home: Path, kills: int, whole_s: float) -> int:
    """Rotate anew, killed at random moments; return how many runs it took."""
    chance, runs = random.Random(11), 0
    process = _rotate(home)
    for _ in range(kills):
        runs += 1
        try:
            await asyncio.to_thread(process.wait, 0.8 + chance.random() * whole_s * 0.3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            print("  it ended before it was killed; another key")
        if process.stderr is not None:
            process.stderr.close()
        process = _rotate(home)
    await _finish(process)
    return runs + 1


async def _run(count: int, kills: int) -> int:
    print(facts())
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="helix-rotate-") as directory:
        home = Path(directory) / "home"
        # Without an archive of the log: its segments rightly need the old keys until they are
        # pruned, and no key could be retired.
        settings = load_settings({}, home=home, wal_archive=False)
        make_home(home)
        keyring = load_keyring(settings, create=True)
        async with embedded_postgres(settings) as server:
            await upgrade(server.url)
            conn = await connect(server.url)
            await _fill(conn, keyring, count)
            children = [_child("read", home, server.url, count) for _ in range(2)]
            children.append(_child("write", home, server.url, count))
            await asyncio.sleep(2)
            begun = time.monotonic()
            status, said = await _finish(_rotate(home))
            print(f"  it said: {said}")
            whole_s = time.monotonic() - begun
            if status:
                faults.append(f"the rotation failed: {said}")
            print(f"{count} secrets rotated in {whole_s:.1f} s, {count / whole_s:,.0f} a second")
            runs = await _killed_rotation(home, kills, whole_s)
            status, said = await _finish(_rotate(home, "--dry-run"))
            for child in children:
                child.send_signal(signal.SIGTERM)
            told = [json.loads(child.communicate()[0]) for child in children]
            faults += await _judge(conn, keyring, told, count)
            keys = len(read_keys(HomePaths(home).keys))
            retired = subprocess.run(  # noqa: ASYNC221 - the rig waits for it
                [sys.executable, "-m", "helix", "secrets", "retire", "--yes", "--home", str(home)],
                check=False,
                stderr=subprocess.PIPE,
                text=True,
            )
            if retired.returncode or len(read_keys(HomePaths(home).keys)) != 1:
                faults.append(f"the old keys could not be retired: {retired.stderr.strip()}")
            if await find_unreadable(conn, load_keyring(settings), PLACES):
                faults.append("a value does not open after the old keys were retired")
            decrypts = sum(one.get("decrypts", 0) for one in told)
            changes = sum(one.get("changes", 0) for one in told)
            print(f"killed {kills} times, {runs} runs, {keys - 1} keys retired")
            print(f"{decrypts:,} decrypts and {changes:,} changes meanwhile")
            await conn.close()
    for fault in faults:
        print(f"FAULT: {fault}")
    print("0 failed decrypts, 0 lost changes, 100 % on the newest key" if not faults else "failed")
    return bool(faults)


async def _judge(
    conn: Connection, keyring: Keyring, told: list[dict[str, Any]], count: int
) -> list[str]:
    faults = [
        f"{one['failed']} decrypts failed: {one['failures']}" for one in told if one.get("failed")
    ]
    counts = {(one.table, one.key_id): one.rows for one in await count_keys(conn)}
    behind = {place: rows for place, rows in counts.items() if place[1] != keyring.key_id}
    if behind or sum(counts.values()) != count // 2 * 2:
        faults.append(f"values on older keys: {behind}, of {counts}")
    last: dict[str, str] = next(one["last"] for one in told if "last" in one)
    rows = await conn.fetch(_SAMPLE_PEERS, [_id(2, int(n)) for n in last])
    held = {row["id"]: row["credentials"] for row in rows}
    for number, value in last.items():
        row_id = _id(2, int(number))
        if keyring.decrypt(held[row_id], context=_PEER.format(row_id)) != value:
            faults.append(f"the change of row {number} to {value} was lost")
    return faults


def main() -> int:
    """Run the rig, or one of its children; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--short", action="store_true", help="4,000 secrets, 3 kills")
    parser.add_argument("--secrets", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--role", choices=("read", "write"), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        work = _read if given.role == "read" else _write
        asyncio.run(work(given.home, given.url, given.secrets))
        return 0
    count, kills = (4_000, 3) if given.short else (given.secrets, given.kills)
    return asyncio.run(_run(count, kills))


if __name__ == "__main__":
    sys.exit(main())
