"""`helix users erase`: put beside the other commands of users by helix.cli.users."""

import time
from typing import Annotated
from uuid import UUID

import typer

from helix.accounts import find_user
from helix.core import audit
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, connected, say, show
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.operations.erasure.service import Erased, count_rows, erase

__all__ = ["erase_command"]


def erase_command(
    who: Annotated[str, typer.Argument(help="Email, user name or id.", metavar="USER")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; it cannot be undone.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=3_600, help="Seconds calls under way get to end.")
    ] = 30.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Erase all that a user said, made and was; accounts and audit stay, unlinked.

    Without --yes it only shows what would go. Its id is kept beside the backups, so that a restored
    copy erases it again before it is released.
    """
    began = time.monotonic()

    async def plan(conn: Connection, _: Settings) -> tuple[UUID, dict[str, tuple[int, bool]]]:
        user = await find_user(conn, who)
        return user.id, await count_rows(conn, user_id=user.id)

    async def work(conn: Connection, settings: Settings) -> Erased:
        user = await find_user(conn, who)
        return await erase(
            conn,
            user_id=user.id,
            backups=settings.backup_path,
            actor=audit.by_command(),
            now=SystemClock().now(),
            wait_s=wait,
        )

    if not yes:
        user_id, found = connected(home, plan)
        show(
            ("table", "rows", "what"),
            [
                {"table": t, "rows": count, "what": "goes" if owned else "is unlinked, texts go"}
                for t, (count, owned) in found.items()
            ],
            as_json=as_json,
        )
        raise Misuse(f"this erases all content of the user {user_id}, for good: add --yes to do it")
    done = connected(home, work)
    show(
        ("table", "rows"),
        [{"table": table, "rows": rows} for table, rows in done.rows.items()],
        as_json=as_json,
    )
    say(
        f"user {done.user_id} erased: {sum(done.rows.values())} rows of {len(done.rows)} tables; "
        f"{time.monotonic() - began:.1f} s"
    )
