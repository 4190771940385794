"""One gateway and its surroundings, as the rigs that mistreat gateways need them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bench.processes import Helix
from helix.core.config import load_settings
from helix.core.instance import lock_home, make_home
from helix.operations import EmbeddedPostgres

__all__ = [
    "MODEL",
    "add_provider",
    "descriptors",
    "make_key",
    "memory_bytes",
    "percentile",
    "postgres_in",
    "serving",
    "until",
    "verdict",
]

MODEL = "rig/echo"
_POLL_S = 0.02
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def postgres_in(
    place: Path, options: Mapping[str, str] | None = None
) -> AsyncIterator[EmbeddedPostgres]:
    """Run a PostgreSQL of the rig's own, which outlives the gateways on it."""
    settings = load_settings({}, home=place)
    make_home(settings.home_dir)
    with lock_home(settings.home_dir, "rig"):
        postgres = EmbeddedPostgres(settings, options=options)
        await postgres.start()
        try:
            yield postgres
        finally:
            await postgres.stop()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Serve a provider's /v1/chat/completions on a free port of 127.0.0.1, in this loop."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def add_provider(helix: Helix, name: str, port: int) -> None:
    """Register a provider on this machine that has one model, `echo`, at an invented price."""
    base_url = f"http://127.0.0.1:{port}/v1"
    helix.run("providers", "add", name, "--base-url", base_url, "--model", "echo")
    helix.run(
        "prices", "set", f"{name}/echo", "--input", "3", "--output", "15", "--by", "rig",
        "--notes", "an invented price",
    )  # fmt: skip


def make_key(helix: Helix, *scopes: str, user: str | None = None) -> str:
    """Return a new API key that no limit stops; without `scopes` it has the usual ones."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    words += [] if user is None else ["--user", user]
    made = helix.run(
        "keys", "create", "--name", "rig", "--rate-limit", "100000000", *words, "--json"
    )
    return str(json.loads(made)["key"])


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1_024


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process holds open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not pass; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def until(holds: Callable[[], bool], most_s: float) -> float | None:
    """Wait until something holds; return how long that took, None when it never did."""
    began_s = time.monotonic()
    while not holds():  # processes and sockets tell nobody
        if time.monotonic() - began_s > most_s:
            return None
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began_s


def verdict(problems: Sequence[str], missed: Sequence[str]) -> int:
    """Print what was found, and which planted faults were not; return the exit status."""
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}; planted faults not found: {list(missed) or 'none'}")
    return 1 if problems or missed else 0
