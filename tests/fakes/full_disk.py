"""A disk that is full as PostgreSQL tells it: SQLSTATE 53100 for whatever needs new room.

Triggers raise it, on the tables that are named and on every table that is made anew; the real
thing, a full file system, is rigs/disk_full.py.
"""

from collections.abc import Sequence

from helix.core.db import Connection

_FUNCTION = """
CREATE OR REPLACE FUNCTION rig_no_room() RETURNS {kind} LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$
"""


async def fill(owner: Connection, tables: Sequence[str]) -> None:
    """Let the disk be full for those who write to these tables."""
    await owner.execute(_FUNCTION.format(kind="event_trigger"))
    await owner.execute(
        "CREATE EVENT TRIGGER rig_no_new_table ON ddl_command_start"
        " WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION rig_no_room()"
    )
    await owner.execute(_FUNCTION.replace("rig_no_room", "rig_no_row").format(kind="trigger"))
    for table in tables:
        await owner.execute(
            f"CREATE TRIGGER rig_no_row BEFORE INSERT OR UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION rig_no_row()"
        )


async def empty(owner: Connection, tables: Sequence[str]) -> None:
    """Let there be room again."""
    for table in tables:
        await owner.execute(f"DROP TRIGGER rig_no_row ON {table}")
    await owner.execute("DROP EVENT TRIGGER rig_no_new_table")
