from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.tasks import BadSchedule, RetryPolicy, WebhookRefused
from helix.tasks.policy import (
    address_allowed,
    check_webhook_url,
    next_tick,
    retry_delay_s,
    sign_webhook,
    webhook_delay_s,
)

EARLIEST, LATEST = datetime.fromisoformat("2020-01-01"), datetime.fromisoformat("2035-01-01")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(cron: str, zone: str, start: str, count: int) -> list[str]:
    found, at = [], utc(start)
    for _ in range(count):
        at = next_tick(cron, zone, at)
        found.append(at.strftime("%m-%d %H:%M"))
    return found


def test_daily_tick_in_a_skipped_hour_runs_when_the_clocks_have_moved_on() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 3) == [
        "03-29 01:00",
        "03-30 00:30",
        "03-31 00:30",
    ]


def test_daily_tick_in_a_repeated_hour_runs_once() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", 3) == [
        "10-25 00:30",
        "10-26 01:30",
        "10-27 01:30",
    ]


def test_half_hourly_ticks_keep_their_pace_through_a_repeated_hour() -> None:
    assert ticks("*/30 * * * *", "Europe/Berlin", "2026-10-24 23:50", 6) == [
        "10-25 00:00",
        "10-25 00:30",
        "10-25 01:00",
        "10-25 01:30",
        "10-25 02:00",
        "10-25 02:30",
    ]


@given(
    st.datetimes(EARLIEST, LATEST),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.sampled_from(["*/15 * * * *", "30 2 * * *", "0 * * * *", "5 1,3 * * 0", "0 0 29 2 *"]),
)
def test_next_tick_is_later_and_does_not_depend_on_where_one_asks_from(
    at: datetime, zone: str, cron: str
) -> None:
    after = at.replace(tzinfo=UTC)
    tick = next_tick(cron, zone, after)
    assert tick > after
    middle = after + (tick - after) / 2
    assert next_tick(cron, zone, middle) == tick


@pytest.mark.parametrize(
    ("cron", "zone"), [("* * * *", "UTC"), ("61 * * * *", "UTC"), ("0 2 * * *", "Mars/Olympus")]
)
def test_unreadable_schedule_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(BadSchedule):
        next_tick(cron, zone, utc("2026-01-01 00:00"))


def test_retry_delays_double_and_stop_growing() -> None:
    policy = RetryPolicy(delay_s=60, delay_s_max=1000, jitter=0)
    waits = [retry_delay_s(policy, retry=n, delay_s=60, chance=0.5) for n in (1, 2, 3, 6, 10_000)]
    assert waits == [60, 120, 240, 1000, 1000]


def test_jitter_spreads_a_delay_evenly_around_itself() -> None:
    policy = RetryPolicy(jitter=0.5)
    assert retry_delay_s(policy, retry=1, delay_s=100, chance=0.0) == 50
    assert retry_delay_s(policy, retry=1, delay_s=100, chance=0.5) == 100


def test_webhook_is_given_up_after_eight_attempts() -> None:
    assert [webhook_delay_s(n) for n in (1, 2, 7, 8)] == [10, 20, 640, None]


def test_webhook_signature_covers_time_and_body() -> None:
    digest = "3dd49b2593d0f9a349e9e71c4bde3e2b862c2be4003fe9b4ba81332029310158"
    assert sign_webhook(b"k", timestamp=1, body=b"{}") == f"t=1,v1={digest}"
    assert digest not in sign_webhook(b"k", timestamp=2, body=b"{}")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "ff02::1", "nonsense", "",
        "168.63.129.16", "192.0.0.192", "64:ff9b:1::7f00:1", "::7f00:1", "fec0::1",
    ],
)  # fmt: skip
def test_inner_address_is_refused(address: str) -> None:
    assert not address_allowed(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_address_is_allowed(address: str) -> None:
    assert address_allowed(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/",
        "https://u:p@example.com/", "ftp://example.com/", "https://", "https://[::1", "gopher:x",
        "https://１２７.0.0.1/", "https://127。0。0。1/", "https://①②⑦.⓪.⓪.①/",
    ],
)  # fmt: skip
def test_webhook_url_into_the_house_is_refused(url: str) -> None:
    with pytest.raises(WebhookRefused):
        check_webhook_url(url)


def test_operator_may_allow_a_host_by_name_and_port() -> None:
    check_webhook_url("http://127.0.0.1:9000/x", allowed_hosts=["127.0.0.1:9000"])
    with pytest.raises(WebhookRefused):
        check_webhook_url("http://127.0.0.1:9001/x", allowed_hosts=["127.0.0.1:9000"])
