"""Two tenants with a row in every table, and spare rows to try to insert.

Made by tests/operations/generate.py from the catalogue, so a new table is covered when it appears.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from tests.factories import make_entity, make_user
from tests.operations.generate import Rows, Shape, insert_rows, read_shape

A, B = 0, 1
_TENANTS = 2
_SPARE = 6  # row i + 6 lies in the month of row i, as its parents do


@dataclass(frozen=True)
class Tenants:
    """Users A and B, and for each table the row of A and the row of B, as they were inserted."""

    shape: Shape
    rows: Rows
    users: tuple[UUID, UUID]
    keys: dict[str, tuple[str, ...]]
    partners: tuple[UUID, UUID]

    def key(self, table: str, tenant: int) -> dict[str, Any]:
        """Return the primary key of the tenant's row."""
        row = self.rows.made[table][tenant]
        return {name: row[name] for name in self.keys[table]}

    def spare(self, table: str, tenant: int, **changes: object) -> dict[str, Any]:
        """Return a row that was not inserted: of this tenant, referring to the tenant's rows."""
        return {**_row(self, table, tenant + _SPARE), **changes}

    def references(self, table: str, tenant: int) -> list[tuple[str, dict[str, Any]]]:
        """Return each parent the table refers to, and the columns that name the tenant's row."""
        return [
            (
                key.parent,
                {
                    column: self.rows.made[key.parent][tenant][parent_column]
                    for column, parent_column in zip(key.columns, key.parent_columns, strict=True)
                },
            )
            for key in self.shape.keys[table]
        ]


def _row(tenants: Tenants, table: str, i: int) -> dict[str, Any]:
    row = tenants.shape.row(table, i, tenants.rows)
    if "task_id" in row:  # not always a foreign key
        row["task_id"] = tenants.rows.made["background_tasks"][i]["id"]
    if table == "llm_responses":  # made beside its request
        row["id"] = row["request_id"][:14] + row["id"][14:]
    if table == "llm_response_bodies":
        row["request_id"] = row["response_id"][:14] + row["request_id"][14:]
    if table == "entity_cooccurrences":
        own = str(tenants.rows.made["memory_entities"][i]["id"])
        pair = sorted([own, str(tenants.partners[i % _TENANTS])])
        row["entity1_id"], row["entity2_id"] = pair
    return row


async def settle(conn: Connection) -> Tenants:
    """Insert two users and, for each of them, a row into every other table."""
    shape = await read_shape(conn)
    rows = Rows(base=datetime.now(UTC))
    users = [await make_user(conn) for _ in range(_TENANTS)]
    partners = [await make_entity(conn, user_id=user["id"]) for user in users]
    keys = await conn.fetch(
        "SELECT k.conrelid::regclass::text AS name, array_agg(a.attname::text) AS columns "
        "FROM pg_constraint AS k JOIN pg_attribute AS a "
        "ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) "
        "WHERE k.contype = 'p' GROUP BY k.conrelid"
    )
    tenants = Tenants(
        shape,
        rows,
        (users[A]["id"], users[B]["id"]),
        {row["name"]: tuple(row["columns"]) for row in keys},
        (partners[A]["id"], partners[B]["id"]),
    )
    rows.made["users"] = [{"id": str(user["id"])} for user in users] * 4
    for table in shape.tables():
        if table == "users":
            continue
        made = [_row(tenants, table, i) for i in range(_TENANTS)]
        try:
            await insert_rows(conn, table, made)
        except Exception as exc:
            exc.add_note(f"while filling {table}")
            raise
        rows.made[table] = made * 4  # rows 6 and 7 refer to the parents of 0 and 1
    return tenants
