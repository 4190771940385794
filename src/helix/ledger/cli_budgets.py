"""`helix budgets`: what may be spent, by whom, and what is left of it."""

from typing import Annotated, Any
from uuid import UUID

import typer

from helix.accounts import find_user
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.ledger.cli import read_usd
from helix.ledger.errors import BudgetNotFound
from helix.ledger.store import Store
from helix.ledger.types import BudgetTarget

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COLUMNS = (
    "id",
    "user_id",
    "scope",
    "period",
    "limit_usd",
    "reserved_usd",
    "settled_usd",
    "left_usd",
    "hard",
    "enabled",
)


def main(args: list[str]) -> None:
    """Run `helix budgets` with these arguments."""
    app(args=args, prog_name="helix budgets")


@app.callback()
def _group() -> None:
    """Spending limits: list, set, change, remove. A call that may cost more is refused."""


@app.command("list")
def list_budgets(
    user: Annotated[str | None, typer.Option(help="Only of this email, user name or id.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List budgets, with what is reserved, spent and left of the running period."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        user_id = None if user is None else (await find_user(conn, user)).id
        return await Store().list_budgets(conn, now=SystemClock().now(), user_id=user_id)

    found = with_operator(home, work)
    show(_COLUMNS, found, as_json=as_json)
    say(f"{len(found)} budgets")


@app.command("set")
def set_budget(  # noqa: PLR0917 - options, given by name
    limit: Annotated[str, typer.Argument(help="US dollars per period.")],
    user: Annotated[str, typer.Option(help="Whose: email, user name or id.")] = "admin@localhost",
    period: Annotated[str, typer.Option(help="day, month (UTC) or total.")] = "month",
    key: Annotated[UUID | None, typer.Option(help="Only what this key spends, by its id.")] = None,
    project: Annotated[UUID | None, typer.Option(help="Only of this project, by its id.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    soft: Annotated[bool, typer.Option(help="Only count, refuse nothing.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a budget; what its period has spent so far counts."""
    if period not in {"day", "month", "total"}:
        raise Misuse(f"--period: {period!r} is neither day, month nor total")
    if sum(one is not None for one in (key, project, agent)) > 1:
        raise Misuse("a budget limits one of --key, --project and --agent, or everything")
    limit_usd, target = read_usd("LIMIT", limit), BudgetTarget(key, project, agent)

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        store, now = Store(), SystemClock().now()
        owner = await find_user(conn, user)
        if not await store.owns_target(conn, user_id=owner.id, target=target):
            raise BudgetNotFound
        made = await store.insert_budget(
            conn,
            user_id=owner.id,
            target=target,
            period=period,
            limit_usd=limit_usd,
            hard=not soft,
            now=now,
        )
        return await store.list_budgets(conn, now=now, budget_id=made)

    show(_COLUMNS, with_operator(home, work), as_json=as_json)


@app.command("change")
def change_budget(  # noqa: PLR0917 - options, given by name
    budget: Annotated[UUID, typer.Argument(help="Its id.")],
    limit: Annotated[str | None, typer.Option(help="US dollars per period.")] = None,
    hard: Annotated[
        bool | None, typer.Option("--hard/--soft", help="Refuse calls beyond it, or only count.")
    ] = None,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Whether it holds.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Change a budget; the next call is judged by it."""
    limit_usd = None if limit is None else read_usd("--limit", limit)

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        store = Store()
        await store.change_budget(
            conn, budget_id=budget, limit_usd=limit_usd, hard=hard, enabled=enabled
        )
        return await store.list_budgets(conn, now=SystemClock().now(), budget_id=budget)

    show(_COLUMNS, with_operator(home, work), as_json=as_json)


@app.command("remove")
def remove_budget(
    budget: Annotated[UUID, typer.Argument(help="Its id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only say what.")] = False,
    home: Home = None,
) -> None:
    """Remove a budget, with what is known of its periods; the ledger stays as it is."""

    async def work(conn: Connection, _: Settings) -> str:
        store = Store()
        found = await store.list_budgets(conn, now=SystemClock().now(), budget_id=budget)
        if not found:
            raise BudgetNotFound
        if yes:
            await store.delete_budget(conn, budget_id=budget)
        one = found[0]
        return (
            f"the {one['scope']} budget of {one['limit_usd'].normalize():f} USD a {one['period']}"
        )

    told = with_operator(home, work)
    say(f"removed {told}" if yes else f"would remove {told}: repeat with --yes")
