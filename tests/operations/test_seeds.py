"""Every table, column and index that the five founding documents name in SQL is found in Helix."""

import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest

from helix.core.db import Connection
from helix.core.sql import split_statements, strip
from tests.conftest import ROOT

SEEDS = ROOT.parent / "shared" / "seeds"
NAMES = tomllib.loads((ROOT / "sql" / "seed_names.toml").read_text(encoding="utf-8"))
CORE = (
    "users user_sessions api_keys llm_providers provider_configs llm_models llm_benchmarks "
    "llm_requests llm_responses llm_pricing llm_token_usage prompts prompt_tests "
    "prompt_test_results agent_permissions tool_audit_log github_credentials error_log "
    "error_log_summary projects project_state cancelled_projects archived_projects rag_knowledge "
    "background_tasks task_events task_execution_history dead_letter_queue debates debate_rounds "
    "debate_arguments debate_votes code_versions memories memory_entities memory_relations "
    "distributed_memory mcp_servers mcp_tools acp_agents lsp_servers clickhouse_analytics "
    "streaming_analytics"
).split()
BIG_DATA = (
    "conversation_events conversation_compressions conversation_snapshots "
    "conversation_replay_stats distributed_memory_events memory_snapshots memory_conflicts "
    "memory_nodes memory_event_checkpoints cross_session_patterns learned_insights "
    "user_preferences entity_cooccurrences debate_strategy_success conversation_flow_patterns "
    "knowledge_accumulation learning_statistics"
).split()
_NOT_COLUMNS = {"UNIQUE", "PRIMARY", "CHECK", "FOREIGN", "CONSTRAINT", "EXCLUDE"}

needs_seeds = pytest.mark.skipif(
    not SEEDS.is_dir(), reason=f"the founding documents are not in {SEEDS}"
)


@dataclass
class Named:
    """What the documents name: tables with their columns, and indexes as (name, table, columns)."""

    columns: dict[str, set[str]] = field(default_factory=dict)
    indexes: set[tuple[str, str, str]] = field(default_factory=set)
    relations: set[str] = field(default_factory=set)
    partitioned: set[str] = field(default_factory=set)


@dataclass
class Live:
    """What the catalogue has: relations with columns, and indexes with their tables."""

    columns: dict[str, set[str]]
    indexes: dict[str, tuple[str, str]]
    partitioned: set[str]


def _body(statement: str) -> list[str]:
    """Return the parts between commas of a CREATE TABLE's parentheses."""
    parts, depth, part = [], 0, ""
    for char in statement[statement.index("(") + 1 : statement.rindex(")")]:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += char
    return [*parts, part.strip()]


def read_seeds() -> Named:
    named = Named()
    for path in sorted(SEEDS.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
            for statement in map(strip, split_statements(block)):
                _read_statement(statement, named)
        # The domain tables of the overview: | Domain | `a`, `b` | `sql/schema/….sql` |
        for cells in re.findall(r"^\|[^|]*\|((?: `\w+`,?)+) \| `sql/", text, re.MULTILINE):
            named.relations.update(re.findall(r"`(\w+)`", cells))
    return named


def _read_statement(statement: str, named: Named) -> None:
    if found := re.match(r"CREATE TABLE (\w+) PARTITION OF (\w+)", statement):
        named.partitioned.add(found.group(2))
    elif found := re.match(r"CREATE TABLE (\w+) \(", statement):
        words = set(re.findall(r"(?:^|\n)(\w+)", "\n".join(_body(statement))))
        named.columns.setdefault(found.group(1), set()).update(words - _NOT_COLUMNS)
    elif found := re.match(r"CREATE INDEX (\w+) ON (\w+) ?(?:USING \w+ ?)?\(([^)]*)\)", statement):
        named.indexes.add((found.group(1), found.group(2), found.group(3)))
    else:
        named.relations.update(
            name
            for name in re.findall(
                r"(?:FROM|JOIN|INSERT INTO|ANALYZE|REINDEX TABLE CONCURRENTLY|"
                r"REFRESH MATERIALIZED VIEW CONCURRENTLY) (\w+)",
                statement,
            )
            if not name.startswith("pg_") and name not in {"SELECT", "helix_readonly", "PUBLIC"}
        )


@pytest.fixture
async def live(conn: Connection) -> Live:
    columns: dict[str, set[str]] = {}
    for row in await conn.fetch(
        "SELECT c.relname, a.attname "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') "
        "AND a.attnum > 0 AND NOT a.attisdropped"
    ):
        columns.setdefault(row["relname"], set()).add(row["attname"])
    indexes = {
        row["name"]: (row["table_name"], row["definition"])
        for row in await conn.fetch(
            "SELECT i.relname AS name, t.relname AS table_name, "
            "pg_get_indexdef(i.oid) AS definition "
            "FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid "
            "JOIN pg_class AS t ON t.oid = x.indrelid "
            "WHERE t.relnamespace = 'public'::regnamespace AND NOT t.relispartition"
        )
    }
    partitioned = {
        row["relname"]
        for row in await conn.fetch("SELECT relname FROM pg_class WHERE relkind = 'p'")
    }
    return Live(columns, indexes, partitioned)


def _entry(section: str, key: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = NAMES[section].get(key)
    return found


def _column_exists(live: Live, name: str) -> bool:
    table, _, column = name.partition(".")
    return column in live.columns.get(table, set())


@needs_seeds
def test_the_documents_hold_what_was_counted() -> None:
    named = read_seeds()
    assert len(named.indexes) == 93  # of 89 names: some stand on two tables
    assert len({name for name, _, _ in named.indexes}) == 89
    assert len(named.columns) == 40


@needs_seeds
async def test_every_table_of_the_documents_is_found(live: Live) -> None:
    named = read_seeds()
    missing = [
        table
        for table in sorted(named.columns.keys() | named.relations)
        if table not in live.columns and _entry("tables", table) is None
    ]
    assert missing == []
    assert named.partitioned <= live.partitioned


@needs_seeds
async def test_every_column_of_the_documents_is_found(live: Live) -> None:
    missing = [
        f"{table}.{column}"
        for table, columns in sorted(read_seeds().columns.items())
        for column in sorted(columns)
        if not _column_exists(live, f"{table}.{column}")
        and _entry("columns", f"{table}.{column}") is None
    ]
    assert missing == []


@needs_seeds
async def test_every_index_of_the_documents_is_found(live: Live) -> None:
    missing = []
    for name, table, columns in sorted(read_seeds().indexes):
        key = f"{name} on {table}({columns})"
        if _entry("indexes", key) is not None:
            continue
        at, definition = live.indexes.get(name, ("", ""))
        wanted = [part.split()[0] for part in columns.split(",")]
        if at != table or not all(re.search(rf"\b{column}\b", definition) for column in wanted):
            missing.append(f"{key}: {at} {definition}")
    assert missing == []


async def test_every_entry_of_the_published_map_leads_somewhere(live: Live) -> None:
    wrong = []
    for section, exists in (
        ("tables", lambda name: name in live.columns),
        ("columns", lambda name: _column_exists(live, name)),
        ("indexes", lambda name: name in live.indexes),
    ):
        for key, entry in NAMES[section].items():
            refused = len(entry.get("refused", "")) > 10 and "to" not in entry
            if not (refused or exists(entry.get("to", ""))):
                wrong.append(f"{section}: {key}: {entry}")
    assert wrong == []


@needs_seeds
def test_the_published_map_maps_only_what_the_documents_name() -> None:
    keys = {f"{name} on {table}({columns})" for name, table, columns in read_seeds().indexes}
    assert set(NAMES["indexes"]) - keys == set()


async def test_there_are_42_core_and_17_big_data_tables(conn: Connection) -> None:
    tables = {
        row["relname"]
        for row in await conn.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition"
        )
    }
    assert len(BIG_DATA) == 17
    assert len(CORE) == 42 + 1  # the 42 of the checklist, and prompt_tests
    assert {*CORE, *BIG_DATA} - tables == set()


async def test_there_are_over_100_indexes_apart_from_keys(conn: Connection) -> None:
    assert (
        await conn.fetchval(
            "SELECT count(*) FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid "
            "WHERE t.relnamespace = 'public'::regnamespace AND NOT t.relispartition "
            "AND t.relkind IN ('r', 'p') "
            "AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = x.indexrelid)"
        )
        >= 100
    )


async def test_ten_materialized_views_can_be_refreshed_under_their_readers(
    database_url: str, owner: Connection
) -> None:
    views = [
        row["matviewname"]
        for row in await owner.fetch(
            "SELECT matviewname FROM pg_matviews WHERE schemaname = 'public'"
        )
    ]
    assert len(views) >= 10
    assert "mv_daily_stats" in views
    for view in views:
        await owner.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
