"""The facts of the machine that a table of figures must stand beside."""

import os
import platform
from pathlib import Path

__all__ = ["cpu_s_of", "facts"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def facts() -> str:
    """Return one line: processor, cores, memory, load, kernel, Python."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{model}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB, load {os.getloadavg()[0]:.1f}, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def cpu_s_of(pid: int, *, with_children: bool = False) -> float:
    """Return the user and system seconds process `pid` has used, by /proc/PID/stat.

    With `with_children` the processes that name it as their parent count too, living or reaped.
    """
    total = _cpu_ticks(pid, reaped=with_children)
    if with_children:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent(int(entry.name)) == pid:
                total += _cpu_ticks(int(entry.name), reaped=True)
    return total / _TICKS_PER_S


def _fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _cpu_ticks(pid: int, *, reaped: bool) -> int:
    fields = _fields(pid)
    if not fields:
        return 0
    own = int(fields[11]) + int(fields[12])
    return own + (int(fields[13]) + int(fields[14]) if reaped else 0)
