"""Diagrams drawn from the live catalogue."""

import re

from helix.core.db import Connection
from helix.operations.diagram import diagram_files, read_drawing
from helix.operations.schema_files import domain_of_tables, read_schema_files


async def files_of(conn: Connection) -> dict[str, str]:
    domains = domain_of_tables(read_schema_files())
    return diagram_files(await read_drawing(conn, list(domains)), domains)


async def test_whole_diagrams_show_every_table_and_every_foreign_key(conn: Connection) -> None:
    files = await files_of(conn)
    tables = {
        row["relname"]
        for row in await conn.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'helix_migrations'"
        )
    }
    keys = await conn.fetchval(
        "SELECT count(*) FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid "
        "WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT c.relispartition"
    )
    mermaid, plantuml = files["database-er.mmd"], files["database-er.puml"]
    assert set(re.findall(r"^    (\w+) \{$", mermaid, re.MULTILINE)) == tables
    assert set(re.findall(r"^entity (\w+) \{$", plantuml, re.MULTILINE)) == tables
    arrow = re.compile(r"^ *\w+ (?:\|\||\|o)--(?:o\{|o\|) \w+ : ", re.MULTILINE)
    assert len(arrow.findall(mermaid)) == keys
    assert len(arrow.findall(plantuml)) == keys


async def test_each_domain_has_its_diagrams_and_each_table_one_domain(conn: Connection) -> None:
    files = await files_of(conn)
    assert {"users_sessions.mmd", "users_sessions.puml", "debate_system.mmd"} <= files.keys()
    whole = re.findall(r"^    (\w+) \{$", files["database-er.mmd"], re.MULTILINE)
    parts = [
        table
        for name, text in files.items()
        if name.endswith(".mmd") and name != "database-er.mmd"
        for table in re.findall(r"^    (\w+) \{$", text, re.MULTILINE)
    ]
    assert sorted(parts) == sorted(whole)


async def test_columns_show_type_and_keys(conn: Connection) -> None:
    files = await files_of(conn)
    assert "        varchar(255) email UK\n" in files["users_sessions.mmd"]
    assert "        uuid user_id FK\n" in files["users_sessions.mmd"]
    assert "    * id : uuid <<PK>>\n    --\n" in files["users_sessions.puml"]
    assert '    users ||--o{ api_keys : "user_id"\n' in files["users_sessions.mmd"]
    assert '    users ||--o| github_credentials : "user_id"\n' in files["database-er.mmd"]
    assert '    users |o--o{ llm_requests : "user_id"\n' in files["database-er.mmd"]


async def test_mermaid_types_are_single_words(conn: Connection) -> None:
    for name, text in (await files_of(conn)).items():
        if name.endswith(".mmd"):
            for line in re.findall(r"^        (.*)$", text, re.MULTILINE):
                assert re.fullmatch(r"[A-Za-z_][\w\[\]()-]* \w+( (PK|FK|UK)(, (FK|UK))*)?", line), (
                    line
                )


async def test_the_same_catalogue_gives_the_same_text(conn: Connection) -> None:
    assert await files_of(conn) == await files_of(conn)
