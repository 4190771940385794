"""Running the checks: each within its time, and one that fails is a finding, not a crash."""

import asyncio
from collections.abc import Callable, Collection, Sequence

import asyncpg

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import OUTAGES, Connection, connect
from helix.core.errors import HelixError, Misuse, Unavailable
from helix.core.log import get_log
from helix.operations.doctor import checks_helix, checks_server, checks_tables
from helix.operations.doctor.scene import Breakers, Check, Scene
from helix.operations.doctor.types import Examination, Finding, Measure, Severity

__all__ = ["CHECKS", "CHECK_LIMIT_S", "CODES", "chosen_codes", "examine"]

_LOG = get_log(__name__)
CHECKS: tuple[Check, ...] = (*checks_server.CHECKS, *checks_tables.CHECKS, *checks_helix.CHECKS)
"""Every check, in the order in which findings are told."""
CODES = tuple(check.code for check in CHECKS)
CHECK_LIMIT_S = 5.0
_STATEMENT_LIMIT_MS = 4_500
_TROUBLE = (*OUTAGES, asyncpg.PostgresError, asyncpg.InternalClientError, HelixError, ValueError)


def chosen_codes(text: str | None) -> frozenset[str]:
    """Return the codes named in `text`, with commas; all without it. Raises Misuse."""
    if not text:
        return frozenset(CODES)
    codes = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(codes - set(CODES))
    if unknown:
        raise Misuse(f"there is no check {', '.join(unknown)}: there are {', '.join(CODES)}")
    return codes


async def examine(
    url: str,
    settings: Settings,
    *,
    clock: Clock,
    keyring: Keyring | None,
    breakers: Breakers | None = None,
    only: Collection[str] | None = None,
    checks: Sequence[Check] = CHECKS,
    limit_s: float = CHECK_LIMIT_S,
    say: Callable[[str], None] | None = None,
) -> Examination:
    """Look at everything, or at `only` these codes, as the login of `url`; changes nothing.

    A check that takes longer than `limit_s`, or that fails, is a warning under its code. `say` is
    told the code of each check before it begins. Raises Unavailable when the database is away.
    """
    began_s, at = clock.monotonic_s(), clock.now()
    conn = await _open(url)
    findings: list[Finding] = []
    try:
        for check in checks:
            if only is not None and check.code not in only:
                continue
            if say is not None:
                say(check.code)
            if conn.is_closed():
                conn = await _open(url)
            scene = Scene(
                conn=conn,
                url=url,
                settings=settings,
                clock=clock,
                keyring=keyring,
                **({} if breakers is None else {"breakers": breakers}),
            )
            findings.append(await _look(check, scene, limit_s))
    finally:
        conn.terminate()
    return Examination(at, clock.monotonic_s() - began_s, tuple(findings))


async def _open(url: str) -> Connection:
    try:
        conn = await connect(url, application_name="helix doctor", timeout_s=CHECK_LIMIT_S)
        await conn.execute(
            "SELECT set_config('statement_timeout', $1, false),"
            " set_config('lock_timeout', '1000', false),"
            " set_config('default_transaction_read_only', 'on', false)",
            str(_STATEMENT_LIMIT_MS),
        )
    except _TROUBLE as exc:
        raise Unavailable(
            f"the database cannot be examined: {str(exc) or type(exc).__name__}", retry_after_s=1
        ) from exc
    return conn


async def _look(check: Check, scene: Scene, limit_s: float) -> Finding:
    began_s = scene.clock.monotonic_s()
    try:
        async with asyncio.timeout(limit_s):
            return await check.look(scene)
    except TimeoutError:
        seen = f"the check did not end within {limit_s:.0f} s"
    except asyncpg.InsufficientPrivilegeError as exc:
        return Finding(
            check.code,
            Severity.WARNING,
            f"this login may not look: {exc.args[0]}",
            "use the login that Helix serves with, or GRANT pg_monitor, helix_operator TO this one",
            measures=(Measure("helix_doctor_check_failed", 1, check.code),),
        )
    except Exception as exc:  # noqa: BLE001 - the edge of a check: the others must still run
        seen = f"the check failed: {str(exc)[:300] or type(exc).__name__}"
        if not isinstance(exc, _TROUBLE):
            _LOG.error("doctor_check_failed", exc=exc, code=check.code)
    took_s = scene.clock.monotonic_s() - began_s
    return Finding(
        check.code,
        Severity.WARNING,
        seen,
        f"helix doctor --only {check.code}; if it fails again, see the server's log",
        round(took_s, 3),
        "s",
        measures=(Measure("helix_doctor_check_failed", 1, check.code),),
    )
