"""What is generated from the catalogue, and that it is what the repository holds."""

from pathlib import Path

import pytest

from helix.core.config import load_settings
from helix.core.db import Connection, connect
from helix.core.sql import split_statements
from helix.operations import drift as drift_module
from helix.operations.catalogue import Difference, differences
from helix.operations.check import CheckResult, catalogue_of
from helix.operations.drift import drift, generated_files
from helix.operations.migrate import current, require_known_schema, upgrade
from helix.operations.scripts import revision_ids
from tests.conftest import ROOT

SETTINGS = load_settings({})


async def complete_schema_of(url: str) -> str:
    files = await generated_files(url, SETTINGS, ("schema",))
    return files[ROOT / "sql" / "complete_schema.sql"]


async def test_complete_schema_makes_the_same_database_and_helix_goes_on_from_it(
    database_url: str, empty_database_url: str
) -> None:
    conn = await connect(empty_database_url)
    for statement in split_statements(await complete_schema_of(database_url)):
        await conn.execute(statement)
    found = differences(
        await catalogue_of(database_url), await catalogue_of(empty_database_url), ("a", "b")
    )
    assert [str(difference) for difference in found] == []
    await require_known_schema(conn)
    assert await conn.fetchval("SELECT count(*) FROM llm_pricing WHERE model = 'gpt-4'") == 1
    assert await conn.fetchval("SELECT count(*) FROM rls_gaps") == 0
    await conn.close()
    told: list[str] = []
    await upgrade(empty_database_url, report=told.append)
    assert told == [f"the schema is at {revision_ids()[-1]} already"]
    assert (await current(empty_database_url)).pending == ()


async def test_complete_schema_knows_no_day_no_owner_and_no_guest(
    database_url: str, owner: Connection
) -> None:
    before = await complete_schema_of(database_url)
    await owner.execute("SELECT helix_create_partitions(4, 8)")
    await owner.execute(
        "CREATE TABLE guest (id serial PRIMARY KEY, user_id uuid REFERENCES users (id))"
    )
    await owner.execute("CREATE FUNCTION guess() RETURNS int LANGUAGE sql RETURN 1")
    await owner.execute("COMMENT ON FUNCTION guess() IS 'x'")
    after = await complete_schema_of(database_url)
    assert after == before
    assert "OWNER TO" not in after
    assert "_p20" not in after


async def test_generated_files_in_the_repository_are_current(database_url: str) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in (await generated_files(database_url, SETTINGS)).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == []


async def test_drift_names_each_stale_missing_and_left_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagrams = tmp_path / "docs" / "diagrams"
    diagrams.mkdir(parents=True)
    (tmp_path / "sql").mkdir()
    (diagrams / "old.mmd").write_text("")
    (diagrams / "users.mmd").write_text("stale")
    (tmp_path / "docs" / "settings.md").write_text("fresh")
    (tmp_path / "docs" / "errors.md").write_text("stale")

    async def differ(url: str) -> CheckResult:
        return CheckResult((Difference("table users", "is odd"),), (), 1)

    async def generate(url: str, settings: object) -> dict[Path, str]:
        return {diagrams / "users.mmd": "new", tmp_path / "sql" / "complete_schema.sql": "new"}

    monkeypatch.setattr(drift_module, "check", differ)
    monkeypatch.setattr(drift_module, "generated_files", generate)
    monkeypatch.setattr(
        drift_module, "_PAGES", {"settings.md": ("settings",), "errors.md": ("reference", "errors")}
    )
    monkeypatch.setattr(drift_module, "_page", lambda words: "fresh")
    assert await drift(tmp_path) == [
        "table users: is odd",
        "docs/diagrams/users.mmd is stale: make diagram",
        "sql/complete_schema.sql is missing: make schema",
        "docs/errors.md is stale: helix reference errors > docs/errors.md",
        "docs/diagrams/old.mmd is left over: nothing generates it",
    ]
