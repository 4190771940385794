"""Several gateway processes on one database: limits, budgets and revocation hold over all."""

from pathlib import Path

import pytest

from rigs.limits import (
    budget_round,
    crash_round,
    fleet_of,
    rate_round,
    repeat_round,
    revocation_round,
)


@pytest.mark.timeout(240)  # five processes start: seconds, on a busy machine a minute
async def test_limits_hold_over_four_processes_and_a_crash(
    database_url: str, tmp_path: Path
) -> None:
    """64 clients a process: not one call, not one micro-dollar too many (T1, T2, T3, K4)."""
    async with fleet_of(tmp_path, database_url, gateways=4, clients=64) as fleet:
        assert await rate_round(fleet, calls=500, limit=100, expected=100) == []
        assert await rate_round(fleet, calls=120, limit=101, expected=100)  # the rig sees one more
        assert await budget_round(fleet, calls=128, fit=30) == []
        assert await repeat_round(fleet, calls=100) == []
        longest_s, problems = await revocation_round(fleet)
        assert problems == []
        assert longest_s <= 1.0
        assert await crash_round(fleet, fit=8) == []
