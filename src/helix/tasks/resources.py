"""What this process uses, from Linux's /proc, for the samples of long-running tasks.

Handlers of one worker share its process: a sample tells of the process while the task ran, and is
the task's own only where it runs alone (`concurrency=1`, or a worker of its own for its queue).
"""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "Usage", "read_usage", "sample_between"]

_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of the process since it started, and what it holds now."""

    at_s: float
    cpu_s: float
    rss_bytes: int | None = None
    memory_percent: float | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    open_fds: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of task_resource_snapshots; totals are since the task's first sight."""

    cpu_percent: float
    rss_bytes: int | None
    memory_percent: float | None
    read_bytes: int | None
    write_bytes: int | None
    open_fds: int | None
    threads: int | None


def read_usage(at_s: float) -> Usage:
    """Return what the process uses now, at `at_s`; what the system does not tell is None."""
    times = os.times()
    held = _fields(_PROC / "status")
    moved = _fields(_PROC / "io")
    rss = _kibibytes(held.get("VmRSS"))
    total = _kibibytes(_fields(Path("/proc/meminfo")).get("MemTotal"))
    return Usage(
        at_s=at_s,
        cpu_s=times.user + times.system,
        rss_bytes=rss,
        memory_percent=None if not rss or not total else min(100.0, 100 * rss / total),
        read_bytes=_number(moved.get("read_bytes")),
        write_bytes=_number(moved.get("write_bytes")),
        open_fds=_count(_PROC / "fd"),
        threads=_number(held.get("Threads")),
    )


def sample_between(first: Usage, last: Usage, now: Usage) -> Sample:
    """Return the sample at `now`: the processor since `last`, the totals since `first`."""
    seconds = max(now.at_s - last.at_s, 1e-3)
    return Sample(
        cpu_percent=min(99_999.0, max(0.0, 100 * (now.cpu_s - last.cpu_s) / seconds)),
        rss_bytes=now.rss_bytes,
        memory_percent=now.memory_percent,
        read_bytes=_since(first.read_bytes, now.read_bytes),
        write_bytes=_since(first.write_bytes, now.write_bytes),
        open_fds=now.open_fds,
        threads=now.threads,
    )


def _since(first: int | None, now: int | None) -> int | None:
    return None if first is None or now is None else max(0, now - first)


def _fields(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _kibibytes(text: str | None) -> int | None:
    number = _number(text.partition(" ")[0]) if text is not None else None
    return None if number is None else number * 1024


def _count(directory: Path) -> int | None:
    try:
        return sum(1 for _ in directory.iterdir())
    except OSError:
        return None
