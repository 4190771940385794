"""What a call through Helix costs, beside nginx as a plain proxy, in one run.

    python -m bench.gateway [--seconds 8] [--rounds 3] [--connections 32] [--half-load-s 15]

Starts a throwaway Helix (embedded PostgreSQL), an nginx that answers as a provider would (a fixed
completion, so the provider costs next to nothing) and an nginx that proxies to it, then drives
them in turn with wrk. Needs `nginx` and `wrk` on the PATH (Debian: apt-get install nginx wrk).

Printed per target: calls a second, CPU microseconds a call of the proxying process by /proc (and
of PostgreSQL, all of its processes), latency. A saturated nginx handles many calls per wake-up,
which no lightly loaded one does; so then both are driven at the same rate, half of what Helix
can, open loop: CPU a call again, and what Helix adds to latency and to a stream's first byte.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from bench.machine import cpu_s_of, facts
from bench.processes import Helix, free_port, helix_process, wait_for_port

_ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "bench",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Forty-two is the answer. " * 12},
        }
    ],
    "usage": {"prompt_tokens": 120, "completion_tokens": 84, "total_tokens": 204},
}
_QUESTION = {
    "messages": [
        {"role": "system", "content": "You answer in one short paragraph. " * 6},
        {"role": "user", "content": "What is the answer to everything, and why? " * 8},
    ],
    "temperature": 0.2,
}


@dataclass
class Target:
    """Something that is driven: its address, its processes, and what was measured."""

    name: str
    url: str
    pid: int
    postgres_pid: int | None
    model: str
    key: str = "none"
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    postgres_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    errors: int = 0


def _events() -> str:
    """Return the fixed answer as a stream of events, one word a chunk."""
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "model": "bench"}
    lines = []
    for word in ["Forty", "-two", " is", " the", " answer", "."] * 3:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        lines.append({**head, "created": 1, "choices": [choice]})
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    lines.append({**head, "created": 1, "choices": [last]})
    lines.append({**head, "created": 1, "choices": [], "usage": _ANSWER["usage"]})
    return "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"


def _nginx_conf(directory: Path, server: str, upstream: str = "") -> str:
    return f"""
daemon off; master_process off; worker_processes 1; pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s;
  {upstream}
  {server}
}}
"""


@contextmanager
def _nginx(port: int, server: str, upstream: str = "") -> Iterator[int]:
    """Run one nginx without workers and yield its pid."""
    with tempfile.TemporaryDirectory(prefix="helix-bench-") as name:
        directory = Path(name)
        (directory / "conf").write_text(_nginx_conf(directory, server, upstream))
        process = subprocess.Popen(["nginx", "-p", name, "-c", "conf"], stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port, process)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _provider_server(port: int) -> str:
    answer = json.dumps(_ANSWER)
    events = _events()
    return f"""
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /v1/chat/completions {{ default_type application/json; return 200 '{answer}'; }}
    location /sse/v1/chat/completions {{ default_type text/event-stream; return 200 '{events}'; }}
  }}"""


def _proxy_server(port: int) -> str:
    return f"""
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}"""


_WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def _drive(target: Target, seconds: int, connections: int) -> None:
    """Drive `target` with wrk once and add what was measured to it."""
    body = json.dumps({"model": target.model, **_QUESTION})
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK % (target.key, body))
        script.flush()
        before, before_pg = cpu_s_of(target.pid), _postgres_cpu(target)
        out = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, target.url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        spent, spent_pg = cpu_s_of(target.pid) - before, _postgres_cpu(target) - before_pg
    line = next(line for line in out.splitlines() if line.startswith("RESULT")).split()
    calls, micros, p50, p99, errors = (float(part) for part in line[1:])
    target.rates.append(calls / micros * 1e6)
    target.cpu_us.append(spent / calls * 1e6)
    target.postgres_us.append(spent_pg / calls * 1e6)
    target.p50_ms.append(p50 / 1000)
    target.p99_ms.append(p99 / 1000)
    target.errors += int(errors)


def _postgres_cpu(target: Target) -> float:
    return cpu_s_of(target.postgres_pid, with_children=True) if target.postgres_pid else 0.0


async def _paced(target: Target, rate: float, seconds: float, *, stream: bool) -> list[float]:
    """Call at a fixed rate whatever comes back; return milliseconds to the first body byte."""
    body = json.dumps({"model": target.model, "stream": stream, **_QUESTION}).encode()
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
    taken: list[float] = []

    async def once(session: aiohttp.ClientSession, due: float) -> None:
        async with session.post(target.url, data=body, headers=headers) as answer:
            await answer.content.readany()
            taken.append((time.perf_counter() - due) * 1000)
            await answer.read()
            answer.raise_for_status()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256)) as session:
        begun, calls = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            calls.append(asyncio.create_task(once(session, due)))
        await asyncio.gather(*calls)
    return taken[len(taken) // 10 :]  # the first tenth warms connections up


def _quantiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


def _print_load(targets: list[Target]) -> None:
    print(
        f"\n{'target':24} {'calls/s':>8} {'CPU us/call':>12} {'+PostgreSQL':>12} {'x nginx':>8}"
        f" {'p50 ms':>7} {'p99 ms':>7} {'errors':>7}"
    )
    base = statistics.median(targets[0].cpu_us)
    for target in targets:
        cpu = statistics.median(target.cpu_us)
        print(
            f"{target.name:24} {statistics.median(target.rates):8.0f} {cpu:12.0f}"
            f" {statistics.median(target.postgres_us):12.0f} {cpu / base:8.1f}"
            f" {statistics.median(target.p50_ms):7.1f} {statistics.median(target.p99_ms):7.1f}"
            f" {target.errors:7d}"
        )


def _print_half_load(nginx: Target, helix: Target, rate: float, seconds: float) -> None:
    print(f"\nat {rate:.0f} calls/s for both, open loop; ms to the first byte of the body")
    print(
        f"{'':24} {'CPU us/call':>12} {'+PostgreSQL':>12} {'x nginx':>8} {'p50 ms':>7}"
        f" {'p99 ms':>7} {'added p50':>10} {'added p99':>10}"
    )
    for label, stream in (("whole", False), ("stream", True)):
        before: Paced | None = None
        for target in (nginx, helix):
            url, model = target.url, target.model
            if stream and target is nginx:
                url = url.replace("/v1/", "/sse/v1/")
            elif stream:
                model = "bench-sse/bench"
            paced = _pace(replace(target, url=url, model=model), rate, seconds, stream=stream)
            more = ""
            if before is not None:
                more = f" {paced.p50_ms - before.p50_ms:10.2f} {paced.p99_ms - before.p99_ms:10.2f}"
            times = 1.0 if before is None else paced.cpu_us / before.cpu_us
            print(
                f"{target.name + ', ' + label:24.24} {paced.cpu_us:12.0f} {paced.postgres_us:12.0f}"
                f" {times:8.1f} {paced.p50_ms:7.2f} {paced.p99_ms:7.2f}{more}"
            )
            before = before or paced


@dataclass(frozen=True, slots=True)
class Paced:
    """What calls at a fixed rate cost and took."""

    cpu_us: float
    postgres_us: float
    p50_ms: float
    p99_ms: float


def _pace(target: Target, rate: float, seconds: float, *, stream: bool) -> Paced:
    before, before_pg = cpu_s_of(target.pid), _postgres_cpu(target)
    taken = asyncio.run(_paced(target, rate, seconds, stream=stream))
    calls = int(rate * seconds)
    cpu, postgres = cpu_s_of(target.pid) - before, _postgres_cpu(target) - before_pg
    p50, p99 = _quantiles(taken)
    return Paced(cpu / calls * 1e6, postgres / calls * 1e6, p50, p99)


def _set_up(helix: Helix, provider_port: int) -> str:
    """Register the fixed provider twice (whole and streaming); return an unlimited key."""
    base = f"http://127.0.0.1:{provider_port}"
    helix.run("providers", "add", "bench", "--base-url", f"{base}/v1", "--model", "bench")
    helix.run("providers", "add", "bench-sse", "--base-url", f"{base}/sse/v1", "--model", "bench")
    made = helix.run("keys", "create", "--name", "bench", "--rate-limit", "100000000", "--json")
    return str(json.loads(made)["key"])


def main() -> None:
    """Run the bench and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--half-load-s", type=float, default=15)
    given = parser.parse_args()
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            sys.exit(f"bench.gateway needs {tool} on the PATH (Debian: apt-get install {tool})")
    print(facts())
    print(f"{given.connections} connections, {given.rounds} rounds of {given.seconds} s in turn")
    with ExitStack() as stack:
        provider_port, proxy_port = free_port(), free_port()
        stack.enter_context(_nginx(provider_port, _provider_server(provider_port)))
        upstream = f"upstream provider {{ server 127.0.0.1:{provider_port}; keepalive 64; }}"
        proxy_pid = stack.enter_context(_nginx(proxy_port, _proxy_server(proxy_port), upstream))
        helix = stack.enter_context(helix_process())
        key = _set_up(helix, provider_port)
        path = "/v1/chat/completions"
        targets = [
            Target("nginx proxy", f"http://127.0.0.1:{proxy_port}{path}", proxy_pid, None, "bench"),
            Target(
                "Helix, all recorded",
                f"{helix.url}{path}",
                helix.pid,
                helix.postgres_pid,
                "bench/bench",
                key,
            ),
        ]
        for target in targets:
            _drive(target, 2, given.connections)
            target.rates, target.cpu_us, target.postgres_us = [], [], []
            target.p50_ms, target.p99_ms, target.errors = [], [], 0
        for _ in range(given.rounds):
            for target in targets:
                _drive(target, given.seconds, given.connections)
        _print_load(targets)
        rss = Path(f"/proc/{helix.pid}/statm").read_text().split()[1]
        print(f"Helix process: {int(rss) * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB resident")
        rate = statistics.median(targets[1].rates) / 2
        _print_half_load(targets[0], targets[1], rate, given.half_load_s)
        recorded = helix.sql("SELECT count(*) FROM llm_responses WHERE status = 'completed'")
        print(f"\nanswers on record: {recorded}")


if __name__ == "__main__":
    main()
