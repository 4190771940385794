"""A text put into every column of a tenant's rows that takes it, and found wherever it is.

The columns are those of the catalogue: a new table or column is covered when it appears.
"""

import asyncpg

from helix.core.db import Connection
from tests.schema.tenants import Tenants

CANARY = "wren-of-user-A"
COLUMNS = """
SELECT c.relname AS table_name, a.attname AS name, t.typname AS type,
       t.typcategory::text AS category
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = ANY ($1::"char"[])
  AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname, a.attnum
"""
VALUES = {
    "json": ['{"canary": "wren-of-user-A"}', '["wren-of-user-A"]'],
    "jsonb": ['{"canary": "wren-of-user-A"}', '["wren-of-user-A"]'],
    "bytea": ["\\x7772656e2d6f662d757365722d41", "\\x" + b"wren-of-user-A".hex() + "00" * 18],
    "_text": ["{wren-of-user-A}"],
    "_varchar": ["{wren-of-user-A}"],
    "_jsonb": ['{"{\\"canary\\": \\"wren-of-user-A\\"}"}'],
}


async def plant(conn: Connection, tenants: Tenants, tenant: int) -> set[str]:
    """Put the canary into every column of the tenant's rows that takes it; return those columns."""
    planted = set()
    tables = {
        row["relname"]
        for row in await conn.fetch(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relispartition"
        )
    }
    await conn.execute("SET session_replication_role = replica")  # no triggers, no foreign keys
    for row in await conn.fetch(COLUMNS, [b"r", b"p"]):
        table, column = row["table_name"], row["name"]
        if table not in tables:
            continue
        values = VALUES.get(row["type"], [CANARY] if row["category"] == "S" else [])
        key = " AND ".join(f"{k}::text = '{v}'" for k, v in tenants.key(table, tenant).items())
        if column in tenants.keys[table]:
            continue
        for value in values:
            try:
                async with conn.transaction():
                    await conn.execute(
                        f'UPDATE {table} SET "{column}" = $1::text::{row["type"]} WHERE {key}',
                        value,
                    )
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError):
                continue
            planted.add(f"{table}.{column}")
            break
    await conn.execute("RESET session_replication_role")
    return planted


async def traces(conn: Connection) -> set[str]:
    """Return every column of every table and materialized view that holds the canary."""
    found = set()
    for row in await conn.fetch(COLUMNS, [b"r", b"p", b"m"]):
        table, column = row["table_name"], row["name"]
        hit = await conn.fetchval(
            f'SELECT EXISTS (SELECT FROM {table} WHERE position($1 IN "{column}"::text) > 0 '
            f'OR position($2 IN "{column}"::text) > 0)',
            CANARY,
            CANARY.encode().hex(),
        )
        if hit:
            found.add(f"{table}.{column}")
    return found
