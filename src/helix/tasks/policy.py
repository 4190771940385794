"""Pure decisions of the queue: when to try again, when a cron line is due, whom a webhook may call.

Values in, values out; no clock, no database.
"""

import hashlib
import hmac
import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter  # type: ignore[import-untyped] # has no types

from helix.core.addresses import refusal_of_address
from helix.tasks.errors import BadSchedule, WebhookRefused

__all__ = [
    "RetryPolicy",
    "address_allowed",
    "check_schedule",
    "check_webhook_url",
    "next_tick",
    "retry_delay_s",
    "sign_webhook",
    "unique_key",
    "webhook_delay_s",
    "webhook_secret",
]

WEBHOOK_ATTEMPTS_MAX = 8
_DELAY_S_MAX = 7 * 86_400.0
_CRON_FIELDS = 5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is made again.

    The wait before retry n (from 1) is `delay_s` times `factor` to the power n-1, at most
    `delay_s_max`, and then up to `jitter` (0 to 1) of it longer or shorter, by chance.
    """

    max_retries: int = 3
    delay_s: int = 60
    factor: float = 2.0
    delay_s_max: float = 3_600.0
    jitter: float = 0.1


def retry_delay_s(policy: RetryPolicy, *, retry: int, delay_s: float, chance: float) -> float:
    """Return the seconds to wait before retry number `retry` (from 1).

    `delay_s` is the task's own base, `chance` a random number in [0, 1).
    """
    limit = min(policy.delay_s_max, _DELAY_S_MAX)
    try:
        wait = min(limit, delay_s * math.pow(policy.factor, max(0, retry - 1)))
    except OverflowError:
        wait = limit
    return wait * (1 + policy.jitter * (2 * chance - 1))


def webhook_delay_s(attempts: int) -> float | None:
    """Return the wait after `attempts` failed deliveries, or None to give up.

    10 s, doubling: the last of eight attempts is made about 21 minutes after the first.
    """
    return None if attempts >= WEBHOOK_ATTEMPTS_MAX else 10.0 * 2 ** (attempts - 1)


def check_schedule(cron: str, time_zone: str) -> None:
    """Refuse a cron line or time zone that cannot be read; raises BadSchedule."""
    if len(cron.split()) != _CRON_FIELDS or not croniter.is_valid(cron):
        raise BadSchedule(f"cannot read the cron line {cron!r}: minute hour day month weekday")
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise BadSchedule(f"there is no time zone {time_zone!r}") from exc


def next_tick(cron: str, time_zone: str, after: datetime) -> datetime:
    """Return the first moment strictly after `after` that the cron line names, in UTC.

    A local time that a change of the clocks skips runs when the clocks have moved on. A local time
    that occurs twice runs at its first occurrence only, unless the line repeats within the day
    (its hour is `*` or a step of it): then it keeps its pace through both. Raises BadSchedule.
    """
    check_schedule(cron, time_zone)
    at = after.astimezone(ZoneInfo(time_zone))
    every_hour = cron.split()[1].startswith("*")
    try:
        ticks = croniter(cron, at)
        while True:
            tick: datetime = ticks.get_next(datetime)
            if (tick.fold == 0 or every_hour) and tick.astimezone(UTC) > after:
                return tick.astimezone(UTC)
    except CroniterError as exc:
        raise BadSchedule(f"the cron line {cron!r} never comes due") from exc


def unique_key(*, user_id: object, task_type: str, key: str) -> str:
    """Return the stored form of a unique key: its tenant, type and a hash of the key."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:40]
    return f"{user_id or 'system'}/{task_type}/{digest}"


def sign_webhook(*secrets: bytes, timestamp: int, body: bytes) -> str:
    """Return the value of the header `Helix-Signature`: `t=<seconds>,v1=<hex HMAC-SHA-256>`.

    What is signed is the timestamp, a full stop and the body; a receiver refuses old timestamps.
    There is a `v1` for each secret, the newest first: one that fits is enough.
    """
    signed = str(timestamp).encode() + b"." + body
    digests = [hmac.new(secret, signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])


def webhook_secret(master: bytes, user_id: object) -> bytes:
    """Return the signing secret of a tenant's webhooks, derived from the instance's key."""
    return hmac.new(master, f"webhook/{user_id or 'system'}".encode(), hashlib.sha256).digest()


def address_allowed(address: str) -> bool:
    """Whether an IP address is a public one that a tenant may make Helix call.

    Refused: private, loopback, link-local (cloud metadata), multicast, reserved, unspecified, and
    IPv6 forms that carry such an IPv4 address.
    """
    return refusal_of_address(address, private=False) is None


def check_webhook_url(url: str, *, allowed_hosts: Collection[str] = ()) -> None:
    """Refuse an address that no webhook may have; raises WebhookRefused.

    Names are resolved only when called, and the address is checked again then. `allowed_hosts`
    are an operator's exceptions, written `host` or `host:port`, which may also be plain http.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as exc:
        raise WebhookRefused("the webhook's URL cannot be read", param="webhook_url") from exc
    if host in allowed_hosts or f"{host}:{port}" in allowed_hosts:
        if parts.scheme not in {"http", "https"}:
            raise WebhookRefused("a webhook's URL begins with https://", param="webhook_url")
        return
    if not host.isascii():
        raise WebhookRefused(
            "a webhook's host is written in ASCII, other scripts as xn--…", param="webhook_url"
        )
    if parts.scheme != "https" or not host:
        raise WebhookRefused("a webhook's URL begins with https://", param="webhook_url")
    if parts.username is not None or parts.password is not None:
        raise WebhookRefused("a webhook's URL carries no password", param="webhook_url")
    is_address = host.replace(".", "").isdigit() or ":" in host
    if (is_address and not address_allowed(host)) or host == "localhost":
        raise WebhookRefused(f"webhooks may not call {host}", param="webhook_url")
