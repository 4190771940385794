"""What Helix tells its own PostgreSQL: helix.conf, written anew at each start."""

import os
from collections.abc import Mapping
from pathlib import Path

from helix.core.config import Settings
from helix.core.log import get_log
from helix.operations.postgres_programs import Programs

__all__ = [
    "ALWAYS_ON",
    "INCLUDES",
    "LOCAL_CONFIG",
    "config_text",
    "connections_max",
    "memory_bytes",
]

_LOG = get_log(__name__)
_MB = 1 << 20
_GB = 1 << 30
_CONNECTIONS_BESIDE_POOLS = 30
"""For commands, listeners, maintenance and a person at psql."""

ALWAYS_ON = ("fsync", "full_page_writes", "synchronous_commit")
"""Without these an acknowledged commit can be lost; given on the command line, which wins."""

INCLUDES = """
# Helix writes helix.conf anew at each start. Put settings of your own into local.conf.
include_if_exists = 'helix.conf'
include_if_exists = 'local.conf'
"""

LOCAL_CONFIG = """\
# Your own settings for Helix's PostgreSQL; they win over helix.conf. Read at each start.
"""


def connections_max(settings: Settings) -> int:
    """Return how many connections PostgreSQL must allow for the pools of one server."""
    pooled = sum(limits.maximum for limits in settings.pool_limits().values())
    return max(100, pooled + _CONNECTIONS_BESIDE_POOLS)


def memory_bytes() -> int:
    """Return the memory this process may count on: the machine's, or the container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def config_text(
    settings: Settings, programs: Programs, further: Mapping[str, str] | None = None
) -> str:
    """Return helix.conf for this machine, with `further` parameters, spelt as in the file."""
    memory = memory_bytes()
    values = {
        "listen_addresses": "''",
        "max_connections": str(connections_max(settings)),
        "max_locks_per_transaction": "256",
        "shared_buffers": _megabytes(min(_GB, max(128 * _MB, memory // 16))),
        "effective_cache_size": _megabytes(memory // 2),
        "work_mem": "8MB",
        "maintenance_work_mem": _megabytes(min(256 * _MB, max(64 * _MB, memory // 32))),
        "random_page_cost": "1.1",
        "jit": "off",
        "wal_level": "replica",
        "wal_compression": "pglz",
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "password_encryption": "scram-sha-256",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "lc_messages": "'C'",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_line_prefix": "'%m [%p] %q%a '",
        "log_checkpoints": "off",
        "log_lock_waits": "on",
        "log_error_verbosity": "terse",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
    if _shared_memory_is_small():
        values["dynamic_shared_memory_type"] = "sysv"
    if programs.has_library("pg_stat_statements"):
        values["shared_preload_libraries"] = "'pg_stat_statements'"
    values |= further or {}
    lines = [f"{name} = {value}" for name, value in values.items()]
    return "\n".join(
        [
            "# Written by Helix at each start: changes here are lost. Use local.conf.",
            "# Details and parameters stay out of the log: they hold what users wrote.",
            *lines,
            "",
        ]
    )


def _megabytes(count: int) -> str:
    return f"{count // _MB}MB"


def _shared_memory_is_small() -> bool:
    # Containers get 64 MB of /dev/shm by default: too little for one parallel index build.
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - asked, not used
    except OSError:
        return True
    return found.f_frsize * found.f_blocks < 512 * _MB
