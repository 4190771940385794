"""The night's task and its fellows: when they run, and what they leave behind."""

from datetime import UTC, datetime

import pytest

from helix import conversations
from helix.app.work import fill_registry
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Connection, Database
from helix.core.instance import load_keyring, make_home
from helix.operations.retention import nightly
from helix.operations.retention.errors import RetentionFailed
from tests.factories import make_error
from tests.operations.retention.conftest import months_ago


def crons(db: Database, settings: Settings) -> dict[str, str | None]:
    talks = conversations.build(db, settings)
    registry = fill_registry(db, settings, talks=talks, embedder=None, extractor=None)
    return {one.name: one.cron if one.enabled else None for one in registry.schedules()}


def test_the_night_begins_at_two_if_nothing_else_is_set(db: Database, settings: Settings) -> None:
    found = crons(db, settings)
    assert found["helix.cleanup"] == "0 2 * * *"
    assert found["helix.usage.roll_up"] == "7 * * * *"
    assert found["helix.views.refresh"] == "*/1 * * * *"
    assert found["helix.database.maintain"] == "0 4 * * *"


def test_hour_minute_and_pace_are_settings(db: Database, settings: Settings) -> None:
    set_otherwise = load_settings(
        {
            "HELIX_RETENTION_HOUR": "23",
            "HELIX_RETENTION_MINUTE": "45",
            "HELIX_MAINTENANCE_HOUR": "5",
            "HELIX_VIEWS_REFRESH_MINUTES": "0",
        },
        home=settings.home,
    )
    found = crons(db, set_otherwise)
    assert found["helix.cleanup"] == "45 23 * * *"
    assert found["helix.database.maintain"] == "0 5 * * *"
    assert found["helix.views.refresh"] is None


async def test_a_night_removes_makes_and_refreshes(
    db: Database, owner: Connection, settings: Settings
) -> None:
    make_home(settings.home_dir)
    load_keyring(settings, create=True)
    await make_error(owner, at=months_ago(6))
    done = await nightly(db, settings, clock=SystemClock())
    assert done["rows_removed"] == done["partitions_dropped"] == 1
    assert done["views_refreshed"] == 10
    assert done["partitions_made"] == 1
    assert await owner.fetchval("SELECT max(completed_at) FROM retention_runs") <= datetime.now(UTC)


async def test_a_night_that_could_not_do_all_says_so(
    db: Database, owner: Connection, settings: Settings
) -> None:
    make_home(settings.home_dir)
    load_keyring(settings, create=True)
    await make_error(owner, at=months_ago(6))
    await owner.execute("ALTER TABLE error_log_summary ADD CHECK (count > 5)")
    with pytest.raises(RetentionFailed, match="error_log: "):
        await nightly(db, settings, clock=SystemClock())
    assert await owner.fetchval("SELECT count(*) FROM error_log") == 1
