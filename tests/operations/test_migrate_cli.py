"""`helix db …` as a person and a program use it."""

import json
import os
import subprocess
import sys

from helix.core.db import Connection
from helix.operations.scripts import revision_ids

LATER = [revision for revision in revision_ids() if revision > "014"]
"""The revisions after those that the documents name."""


def helix_db(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX_", "DB_"))}
    return subprocess.run(
        [sys.executable, "-m", "helix", "db", *arguments],
        env=environment | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_upgrade_plan_current_and_history(empty_database_url: str) -> None:
    planned = helix_db(empty_database_url, "plan", "001", "--json")
    first = json.loads(planned.stdout.splitlines()[0])
    assert (first["revision"], first["number"], first["rows"]) == ("001", 0, "CREATE EXTENSION")
    assert "nothing was changed" in planned.stderr
    upgraded = helix_db(empty_database_url, "upgrade", "012", "--json")
    assert upgraded.returncode == 0
    assert json.loads(upgraded.stdout) == {
        "revision": "012",
        "interrupted": None,
        "pending": ["013", "014", *LATER],
    }
    current = helix_db(empty_database_url, "current")
    assert (current.stdout, current.stderr) == (
        "012\n",
        f"pending: {', '.join(['013', '014', *LATER])}\n",
    )
    history = helix_db(empty_database_url, "history", "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in history] == ["applied"] * 5 + ["pending"] * (
        2 + len(LATER)
    )


async def test_downgrade_without_yes_lists_and_exits_2(
    database_url: str, owner: Connection
) -> None:
    await owner.execute("INSERT INTO memory_nodes (node_id) VALUES ('n1')")
    helix_db(database_url, "downgrade", "014", "--yes", "--without-backup")
    refused = helix_db(database_url, "downgrade")
    assert refused.returncode == 2
    assert "drops table memory_nodes: 1 rows\n" in refused.stdout
    assert "repeat it with --yes" in refused.stderr
    assert await owner.fetchval("SELECT count(*) FROM memory_nodes") == 1
    done = helix_db(database_url, "downgrade", "--yes", "--json", "--without-backup")
    assert json.loads(done.stdout)["revision"] == "013"


async def test_check_exits_1_and_names_the_difference(database_url: str, owner: Connection) -> None:
    await owner.execute("ALTER TABLE users DISABLE ROW LEVEL SECURITY")
    head, before = revision_ids()[-1], revision_ids()[-2]
    await owner.execute("DELETE FROM helix_migrations WHERE revision = $1", head)
    await owner.execute("CREATE TABLE guest (id integer)")
    found = helix_db(database_url, "check")
    assert found.returncode == 1
    assert found.stdout == (
        f"schema version: is {before} in this database, {head} at the head\n"
        "table users: row-level security is `on` in the migrations, `off` in this database\n"
    )
    assert found.stderr.startswith("not Helix's, left alone: table guest\nhelix: 2 differences; ")


def test_schema_goes_to_stdout_on_request(database_url: str) -> None:
    written = helix_db(database_url, "schema", "--output", "-")
    assert written.returncode == 0
    assert written.stdout.startswith("-- complete_schema.sql: the whole schema in one file.")


def test_start_is_refused_for_an_outside_database(database_url: str) -> None:
    refused = helix_db(database_url, "start")
    assert refused.returncode == 2
    assert "outside database: nothing to start" in refused.stderr


def test_bad_target_is_one_line(database_url: str) -> None:
    refused = helix_db(database_url, "upgrade", "nowhere")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"helix: no revision 'nowhere': there are {', '.join(revision_ids())}\n"
    )
