"""What a call through Helix costs, beside nginx and LiteLLM's proxy, in one run.

    python -m bench.gateway [--short] [--seconds 5] [--rounds 5] [--connections 32]
                                                        (make bench-gateway, BENCH=short)

Starts a throwaway Helix (embedded PostgreSQL, one process, every call recorded), an nginx that
answers as a provider would (a fixed completion, whole or as a stream, so the provider costs next to
nothing), an nginx that proxies to it, and LiteLLM's proxy without a database, so without any record
(its spend log needs an engine that is fetched at the first start, which no machine without network
can). They are driven in turn, round after round, and medians are printed: on a machine with other
work the figures move together, and the ratios stay. Needs `nginx` and `wrk` on the PATH (Debian:
apt-get install nginx wrk); LiteLLM comes by `make bench-litellm`.

CPU is user and system time by /proc: of the proxying process with its children, and of PostgreSQL,
all of its processes, beside. A saturated nginx handles many calls per wake-up, which no lightly
loaded one does; CPU per call compares at equal rates: half of what Helix can, open loop. At half
load each target's latency is compared with that of the provider called directly at the same rate.
Where Helix's goes is told by its own metrics: how long its commits took, how many calls shared one,
and how long the first of them had waited for the commit before.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import Driven, Request, body_of, pace, saturate
from bench.machine import cpu_s_of, facts
from bench.processes import Helix, free_port, start
from bench.proxies import (
    LITELLM,
    QUESTION,
    litellm,
    nginx,
    provider_server,
    proxy_server,
    until_answered,
)

_PATH = "/v1/chat/completions"
_WARM_S = 2.0
_SLOW_S = 10.0
_RATE_MIN = 1.0


@dataclass
class Load:
    """What was measured of one target under one load, a value per round."""

    rate: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    postgres_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    errors: int = 0

    def add(self, driven: Driven, cpu_s: float, postgres_s: float) -> None:
        """Add a round."""
        calls = max(driven.calls, 1)
        self.rate.append(driven.rate)
        self.cpu_us.append(cpu_s / calls * 1e6)
        self.postgres_us.append(postgres_s / calls * 1e6)
        self.p50_ms.append(driven.p50_ms)
        self.p99_ms.append(driven.p99_ms)
        self.errors += driven.errors


@dataclass
class Target:
    """Something that is driven: its requests, its processes, and what was measured."""

    name: str
    whole: Request
    stream: Request
    pid: int
    postgres_pid: int | None = None
    slow: bool = False
    metrics_url: str | None = None
    lanes: dict[str, dict[str, float]] = field(default_factory=dict)
    loads: dict[tuple[str, bool], Load] = field(default_factory=dict)

    def drive(self, load: str, *, stream: bool, seconds: float, how: float) -> None:
        """Drive it for one round; `how` is the connections when saturated, else the rate."""
        request = self.stream if stream else self.whole
        cpu_s, postgres_s = self._cpu()
        if self.slow:  # or a round would end before its first calls do
            seconds = max(seconds, _SLOW_S)
        if load == "saturated":
            driven = saturate(request, seconds=seconds, connections=int(how))
        else:
            before = self._recorded()
            driven = pace(request, rate=how, seconds=seconds)
            for name, value in self._recorded().items():
                lane = self.lanes.setdefault(_KIND[stream], {})
                lane[name] = lane.get(name, 0.0) + value - before[name]
        cpu_after_s, postgres_after_s = self._cpu()
        spent = cpu_after_s - cpu_s, postgres_after_s - postgres_s
        self.loads.setdefault((load, stream), Load()).add(driven, *spent)

    def _recorded(self) -> dict[str, float]:
        """Return the sums and counts of the recorder's histograms; nothing of other targets."""
        if self.metrics_url is None:
            return {}
        with urllib.request.urlopen(self.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("helix_record_"))
        return {name: float(value) for name, value in pairs if "_bucket" not in name}

    def _cpu(self) -> tuple[float, float]:
        # An embedded PostgreSQL is a child of Helix: what it spent is not counted twice.
        own_s = cpu_s_of(self.pid, with_children=self.postgres_pid is None)
        if self.postgres_pid is None:
            return own_s, 0.0
        return own_s, cpu_s_of(self.postgres_pid, with_children=True)

    def median(self, load: str, stream: bool, what: str) -> float:
        """Return the median of the rounds."""
        values: list[float] = getattr(self.loads[load, stream], what)
        return statistics.median(values)


def _rss_mib(pid: int) -> float:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def _helix() -> Iterator[tuple[Helix, float, float]]:
    """Run a Helix; yield it with the seconds to its first answer, the first time and the second."""
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        home = Path(name) / "home"
        helix, first_s = _started(home)
        _stop(helix)
        helix, second_s = _started(home)
        try:
            yield helix, first_s, second_s
        finally:
            _stop(helix)


def _started(home: Path) -> tuple[Helix, float]:
    begun_s = time.monotonic()
    helix = start(home)
    body = body_of("mock/echo", QUESTION, stream=False)
    until_answered(f"{helix.url}{_PATH}", body, helix.api_key, helix.process)
    return helix, time.monotonic() - begun_s


def _stop(helix: Helix) -> None:
    helix.process.terminate()
    helix.process.wait(60)


def _helix_target(helix: Helix, provider_port: int) -> Target:
    """Register the provider twice, whole and streaming, and make an unlimited key."""
    base = f"http://127.0.0.1:{provider_port}"
    helix.run("providers", "add", "bench", "--base-url", f"{base}/v1", "--model", "bench")
    helix.run("providers", "add", "bench-sse", "--base-url", f"{base}/sse/v1", "--model", "bench")
    made = helix.run("keys", "create", "--name", "bench", "--rate-limit", "100000000", "--json")
    key = str(json.loads(made)["key"])
    url = f"{helix.url}{_PATH}"
    return Target(
        "Helix, all recorded",
        Request(url, body_of("bench/bench", QUESTION, stream=False), key),
        Request(url, body_of("bench-sse/bench", QUESTION, stream=True), key),
        helix.pid,
        helix.postgres_pid,
        metrics_url=f"{helix.url}/metrics",
    )


def _plain_target(name: str, port: int, pid: int) -> Target:
    base = f"http://127.0.0.1:{port}"
    return Target(
        name,
        Request(f"{base}{_PATH}", body_of("bench", QUESTION, stream=False)),
        Request(f"{base}/sse{_PATH}", body_of("bench", QUESTION, stream=True)),
        pid,
    )


def _print_saturated(targets: list[Target]) -> None:
    print(
        f"\nsaturated{'':19} {'calls/s':>8} {'CPU us/call':>12} {'+PostgreSQL':>12} {'p50 ms':>8}"
        f" {'p99 ms':>8} {'errors':>7}"
    )
    for stream in (False, True):
        for target in targets:
            load = target.loads["saturated", stream]
            print(
                f"{target.name + _KIND[stream]:28.28} {statistics.median(load.rate):8.0f}"
                f" {statistics.median(load.cpu_us):12.0f}"
                f" {statistics.median(load.postgres_us):12.0f}"
                f" {statistics.median(load.p50_ms):8.1f} {statistics.median(load.p99_ms):8.1f}"
                f" {load.errors:7d}"
            )


_KIND = {False: ", whole", True: ", stream"}


def _print_half(targets: list[Target], rates: dict[tuple[str, bool], float]) -> None:
    print(
        f"\nhalf load, open loop{'':8} {'calls/s':>8} {'CPU us/call':>12} {'+PostgreSQL':>12}"
        f" {'added p50':>10} {'added p99':>10} {'errors':>7}   (ms to the first byte of the body)"
    )
    for stream in (False, True):
        for target in targets:
            load, base = target.loads["half", stream], target.loads["direct", stream]
            added = [
                statistics.median(ours) - statistics.median(theirs)
                for ours, theirs in ((load.p50_ms, base.p50_ms), (load.p99_ms, base.p99_ms))
            ]
            print(
                f"{target.name + _KIND[stream]:28.28} {rates[target.name, stream]:8.0f}"
                f" {statistics.median(load.cpu_us):12.0f}"
                f" {statistics.median(load.postgres_us):12.0f} {added[0]:10.2f} {added[1]:10.2f}"
                f" {load.errors:7d}"
            )


def _print_lanes(helix: Target) -> None:
    print("\nHelix's commits at half load           calls each  ms each  ms the first waited")
    for kind, told in helix.lanes.items():
        for lane, name in (("admit", "before the provider is called"), ("settle", "at the end")):
            of = f'{{lane="{lane}"}}'
            commits = max(told[f"helix_record_commit_seconds_count{of}"], 1.0)
            print(
                f"{kind[2:]}, {name:{36 - len(kind)}}"
                f" {told[f'helix_record_batch_rows_sum{of}'] / commits:12.1f}"
                f" {told[f'helix_record_commit_seconds_sum{of}'] / commits * 1e3:8.2f}"
                f" {told[f'helix_record_wait_seconds_sum{of}'] / commits * 1e3:20.2f}"
            )


def _measure(
    targets: list[Target], direct: Target, *, seconds: float, rounds: int, connections: int
) -> None:
    """Drive all targets in turn, saturated and then at half load, and print what was found."""
    for stream in (False, True):
        for target in targets:
            target.drive("saturated", stream=stream, seconds=_WARM_S, how=connections)
    for target in targets:
        target.loads.clear()
    for _ in range(rounds):
        for stream in (False, True):
            for target in targets:
                target.drive("saturated", stream=stream, seconds=seconds, how=connections)
    _print_saturated(targets)
    by_name = {target.name: target for target in targets}
    helix = by_name["Helix, all recorded"]
    rates = {
        (target.name, stream): max(
            min(one.median("saturated", stream, "rate") for one in (helix, target)) / 2, _RATE_MIN
        )
        for target in targets
        for stream in (False, True)
    }
    for _ in range(rounds):
        for stream in (False, True):
            for target in targets:
                how = rates[target.name, stream]
                direct.loads.setdefault(("half", stream), Load())
                direct.drive("half", stream=stream, seconds=seconds, how=how)
                base = direct.loads["half", stream]
                beside = target.loads.setdefault(("direct", stream), Load())
                beside.p50_ms.append(base.p50_ms[-1])
                beside.p99_ms.append(base.p99_ms[-1])
                target.drive("half", stream=stream, seconds=seconds, how=how)
    _print_half(targets, rates)
    _print_lanes(helix)


def _print_ratios(targets: list[Target]) -> None:
    nginx_proxy, helix, *peers = targets
    for name, load in (("ratio_nginx_cpu", "half"), ("ratio_nginx_cpu_saturated", "saturated")):
        for kind, stream in (("", False), ("_stream", True)):
            ours = helix.median(load, stream, "cpu_us")
            print(f"{name}{kind}={ours / nginx_proxy.median(load, stream, 'cpu_us'):.1f}")
    for kind, stream in (("", False), ("_stream", True)):
        for peer in peers:
            ours = helix.median("saturated", stream, "rate")
            theirs = peer.median("saturated", stream, "rate")
            print(f"ratio_litellm_throughput{kind}={ours / max(theirs, 0.01):.1f}")
            cpu_us = peer.median("saturated", stream, "cpu_us")
            own_us = helix.median("saturated", stream, "cpu_us")
            both_us = own_us + helix.median("saturated", stream, "postgres_us")
            print(f"ratio_litellm_cpu{kind}={cpu_us / own_us:.1f}")
            print(f"ratio_litellm_cpu{kind}_with_postgresql={cpu_us / both_us:.1f}")


def main() -> None:
    """Run the bench and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="under three minutes")
    parser.add_argument("--seconds", type=float, help="of each load in each round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    seconds = given.seconds or (3.0 if given.short else 5.0)
    rounds = given.rounds or (2 if given.short else 5)
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            sys.exit(f"bench.gateway needs {tool} on the PATH (Debian: apt-get install {tool})")
    print(facts())
    print(f"{given.connections} connections, {rounds} rounds of {seconds:g} s in turn, medians")
    with ExitStack() as stack:
        provider_port, proxy_port = free_port(), free_port()
        provider_pid = stack.enter_context(nginx(provider_port, provider_server(provider_port)))
        upstream = f"upstream provider {{ server 127.0.0.1:{provider_port}; keepalive 64; }}"
        proxy_pid = stack.enter_context(nginx(proxy_port, proxy_server(proxy_port), upstream))
        helix, first_s, second_s = stack.enter_context(_helix())
        started = [f"Helix {first_s:.1f} s with a new database, {second_s:.1f} s with its own"]
        targets = [
            _plain_target("nginx proxy", proxy_port, proxy_pid),
            _helix_target(helix, provider_port),
        ]
        if LITELLM.exists():
            body = body_of("bench", QUESTION, stream=False)
            peer = stack.enter_context(litellm(provider_port, body))
            started.append(f"LiteLLM {peer.start_s:.1f} s")
            said = subprocess.run(
                [LITELLM, "--version"], capture_output=True, text=True, check=False
            )
            print(f"beside {' '.join(said.stdout.split()) or 'LiteLLM'}, no database")
            targets.append(
                Target(
                    "LiteLLM, nothing recorded",
                    Request(peer.url, body, peer.key),
                    Request(peer.url, body_of("bench-sse", QUESTION, stream=True), peer.key),
                    peer.pid,
                    slow=True,
                )
            )
        direct = _plain_target("provider", provider_port, provider_pid)
        _measure(targets, direct, seconds=seconds, rounds=rounds, connections=given.connections)
        print(f"\nfirst answered call after start: {'; '.join(started)}")
        for target in targets:
            print(f"resident memory of {target.name}: {_rss_mib(target.pid):.0f} MiB")
        recorded = helix.sql("SELECT count(*) FROM llm_responses WHERE status = 'completed'")
        print(f"answers on record: {recorded}\n")
        _print_ratios(targets)
        if not LITELLM.exists():
            print("ratio_litellm_throughput=not measured (make bench-litellm installs it)")


if __name__ == "__main__":
    main()
