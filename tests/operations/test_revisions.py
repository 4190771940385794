"""The revisions: one line, readable SQL, and new ones that fit."""

from pathlib import Path

import pytest

from helix.core.errors import Misuse
from helix.operations.migrate import load, resolve
from helix.operations.revisions import create_revision, load_revisions
from helix.operations.scripts import (
    MIGRATIONS,
    concurrent_index,
    created_names,
    dropped_columns,
    dropped_tables,
    parse_script,
    revision_ids,
)
from tests.operations.test_migrate import revision_directory


def test_file_names_tell_the_same_line_as_alembic() -> None:
    assert revision_ids() == tuple(revision.id for revision in load())


def test_every_statement_of_every_revision_runs_in_one_transaction() -> None:
    assert {len(revision.up.steps) for revision in load()} == {1}
    assert {len(revision.down.steps) for revision in load()} == {1}


def test_new_revision_follows_the_head(tmp_path: Path) -> None:
    directory = revision_directory(tmp_path, ("SELECT 1;", "SELECT 1;"))
    (tmp_path / "script.py.mako").write_text((MIGRATIONS / "script.py.mako").read_text())
    paths = create_revision("Add new table.", directory)
    assert [path.name for path in paths] == [
        "002_add_new_table.py",
        "002_add_new_table.up.sql",
        "002_add_new_table.down.sql",
    ]
    first, second = load_revisions(directory)
    assert (first.id, second.id, second.title) == ("001", "002", "Add new table")
    assert second.up.statements == ()


def test_revision_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="needs a message"):
        create_revision(" - ", tmp_path)


def test_two_heads_are_refused(tmp_path: Path) -> None:
    directory = revision_directory(tmp_path, ("SELECT 1;", ""), ("SELECT 2;", ""))
    (tmp_path / "versions" / "003_other.py").write_text(
        '"""x."""\nrevision = "003"\ndown_revision = "001"\n'
    )
    with pytest.raises(Misuse, match="not one line: heads 002, 003"):
        load_revisions(directory)


def test_missing_script_is_named(tmp_path: Path) -> None:
    directory = revision_directory(tmp_path, ("SELECT 1;", ""))
    (tmp_path / "sql" / "001_r.down.sql").unlink()
    with pytest.raises(Misuse, match=r"001_r\.down\.sql: No such file"):
        load_revisions(directory)


def test_directive_makes_a_step_of_its_own() -> None:
    script = parse_script(
        "x", "SELECT 1; SELECT 2;\n-- helix: outside a transaction\nVACUUM;\nSELECT 3;"
    )
    assert [(len(step.statements), step.transactional) for step in script.steps] == [
        (2, True),
        (1, False),
        (1, True),
    ]


def test_unknown_directive_and_unfinished_text_are_refused() -> None:
    with pytest.raises(Misuse, match="x: unknown directive '-- helix: quickly'"):
        parse_script("x", "-- helix: quickly\nSELECT 1;")
    with pytest.raises(Misuse, match="x: a quotation opened with ' does not end"):
        parse_script("x", "SELECT 'oops")


def test_checksum_is_of_what_the_statements_say() -> None:
    plain = parse_script("x", "CREATE TABLE a (id integer);").checksum
    assert parse_script("y", "-- More words.\nCREATE TABLE a\n  (id integer)").checksum == plain
    assert parse_script("x", "CREATE TABLE b (id integer);").checksum != plain


def test_names_are_read_from_statements() -> None:
    script = parse_script(
        "x",
        "CREATE UNLOGGED TABLE IF NOT EXISTS a (id int);"
        " CREATE OR REPLACE VIEW public.b AS SELECT 1;"
        ' CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "C" ON a (id); CREATE TYPE d AS ENUM ();'
        " CREATE MATERIALIZED VIEW e AS SELECT 1; CREATE FUNCTION f() RETURNS int RETURN 1;"
        " DROP TABLE g, h CASCADE; ALTER TABLE ONLY i DROP COLUMN j, DROP COLUMN IF EXISTS k",
    )
    assert created_names(script) == {
        ("relation", "a"),
        ("relation", "b"),
        ("relation", "C"),
        ("type", "d"),
        ("relation", "e"),
        ("function", "f"),
    }
    assert dropped_tables(script) == ["g", "h"]
    assert dropped_columns(script) == [("i", "j"), ("i", "k")]
    assert concurrent_index(script.statements[2]) == "C"
    assert concurrent_index(script.statements[0]) is None


def test_targets_are_found_by_id_beginning_and_distance() -> None:
    revisions = load()
    assert resolve("head", revisions, 3) == len(revisions)
    assert resolve("base", revisions, 3) == 0
    assert resolve("012", revisions, 0) == 5
    assert resolve("003", revisions, 7) == 3
    assert resolve("-2", revisions, 7) == 5
    assert resolve("+1", revisions, 0) == 1
