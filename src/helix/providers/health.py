"""The rule of health: pure.

A provider is probed about once in probe_interval_s by one of all processes (it is asked for its
models, which costs nothing), and every call of it is counted.

    unknown     never probed and no calls
    unhealthy   the last UNHEALTHY_AFTER probes failed, or more than half of the calls of the last
                minute did, of at least CALLS_MIN
    degraded    the last probe failed; or it went well, but slower than SLOW_MS, or as the first
                one after unhealthy; or more than a tenth of the calls failed
    healthy     else

What probes say is stored and seen by every process; what calls say each process adds for itself.
The worse of the two holds. Unhealthy providers are passed over as long as another is left.
"""

from helix.providers.facts import Health

__all__ = ["CALLS_WINDOW_S", "health_of_calls", "health_of_probe", "worse"]

UNHEALTHY_AFTER = 3
SLOW_MS = 5_000.0
CALLS_MIN = 10
CALLS_WINDOW_S = 60.0
DEGRADED_SHARE = 0.1
UNHEALTHY_SHARE = 0.5
STREAK_MAX = 1_000

_SEVERITY = {Health.HEALTHY: 0, Health.UNKNOWN: 1, Health.DEGRADED: 2, Health.UNHEALTHY: 3}


def health_of_probe(
    before: Health, streak: int, *, ok: bool, latency_ms: float
) -> tuple[Health, int]:
    """Return health and streak after a probe; `streak` counts probes alike, negative: failed."""
    if not ok:
        streak = max(min(streak, 0) - 1, -STREAK_MAX)
        return (Health.UNHEALTHY if -streak >= UNHEALTHY_AFTER else Health.DEGRADED), streak
    streak = min(max(streak, 0) + 1, STREAK_MAX)
    recovering = before is Health.UNHEALTHY
    return (Health.DEGRADED if recovering or latency_ms > SLOW_MS else Health.HEALTHY), streak


def health_of_calls(good: int, bad: int) -> Health:
    """Return what the calls of the last minute say; UNKNOWN for too few."""
    calls = good + bad
    if calls < CALLS_MIN:
        return Health.UNKNOWN
    if bad > UNHEALTHY_SHARE * calls:
        return Health.UNHEALTHY
    return Health.DEGRADED if bad > DEGRADED_SHARE * calls else Health.HEALTHY


def worse(stored: Health, seen: Health) -> Health:
    """Return the worse of what is stored and what was seen; what is unknown does not count."""
    if seen is Health.UNKNOWN:
        return stored
    if stored is Health.UNKNOWN:
        return seen
    return max(stored, seen, key=_SEVERITY.__getitem__)
