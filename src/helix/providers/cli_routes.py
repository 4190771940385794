"""`helix routes`: virtual models and aliases."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from helix.accounts import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.providers.plan import Strategy
from helix.providers.policy import check_route_name
from helix.providers.routes_store import RouteStore, TargetSpec

__all__ = ["main", "read_target"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COLUMNS = ("name", "alias", "strategy", "enabled", "targets", "retries_max", "total_ms", "cache_s")
Name = Annotated[str, typer.Argument(help="The route's name, without route/.", metavar="NAME")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="provider/model or */model, then if wished @PRIORITY and *WEIGHT; repeat.",
    ),
]
Retries = Annotated[int | None, typer.Option(min=0, max=20, help="Attempts after the first.")]
Connect = Annotated[int | None, typer.Option(min=1, max=86_400_000, help="To connect, ms.")]
First = Annotated[int | None, typer.Option(min=1, max=86_400_000, help="To the first byte, ms.")]
Between = Annotated[int | None, typer.Option(min=1, max=86_400_000, help="Of silence, ms.")]
Total = Annotated[int | None, typer.Option(min=1, max=86_400_000, help="Over all, ms.")]
After = Annotated[int | None, typer.Option(min=0, max=3_600_000, help="Longest Retry-After, ms.")]
Cache = Annotated[int | None, typer.Option(min=0, max=2_592_000, help="Give answers again, s.")]
Description = Annotated[str | None, typer.Option(help="What it is for.")]


def main(args: list[str]) -> None:
    """Run `helix routes` with these arguments."""
    app(args=args, prog_name="helix routes")


@app.callback()
def _group() -> None:
    """Virtual models, called as route/NAME: list, add, set, enable, disable, remove."""


@app.command("list")
def list_routes(home: Home = None, as_json: Json = False) -> None:
    """List routes and aliases with their targets."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await RouteStore().list_all(conn)

    _show(with_operator(home, work), as_json=as_json)


@app.command("show")
def show_route(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show one route."""

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await RouteStore().show(conn, name=name)

    _show([with_operator(home, work)], as_json=as_json)


@app.command("add")
def add_route(  # noqa: PLR0917 - options, given by name
    name: Name,
    target: Targets = None,
    strategy: Annotated[Strategy, typer.Option(help="How to choose.")] = Strategy.PRIORITY,
    alias: Annotated[bool, typer.Option(help="Called by its bare name too.")] = False,
    description: Description = None,
    retries_max: Retries = None,
    connect_ms: Connect = None,
    first_token_ms: First = None,
    between_tokens_ms: Between = None,
    total_ms: Total = None,
    retry_after_max_ms: After = None,
    cache_s: Cache = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a route; targets of one priority share the calls by weight."""
    check_route_name(name)
    targets = [read_target(text) for text in target or []]
    policy = {
        "retries_max": retries_max,
        "connect_ms": connect_ms,
        "first_token_ms": first_token_ms,
        "between_tokens_ms": between_tokens_ms,
        "total_ms": total_ms,
        "retry_after_max_ms": retry_after_max_ms,
        "cache_s": cache_s,
    }

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await RouteStore().insert(
            conn,
            name=name,
            strategy=strategy.value,
            alias=alias,
            targets=targets,
            description=description,
            policy=policy,
        )

    _show([with_operator(home, work)], as_json=as_json)
    say(f"call it as route/{name}" + (f" or {name}" if alias else ""))


@app.command("set")
def set_route(  # noqa: PLR0917 - options, given by name
    name: Name,
    target: Targets = None,
    strategy: Annotated[Strategy | None, typer.Option(help="How to choose.")] = None,
    alias: Annotated[bool | None, typer.Option(help="Called by its bare name too.")] = None,
    description: Description = None,
    retries_max: Retries = None,
    connect_ms: Connect = None,
    first_token_ms: First = None,
    between_tokens_ms: Between = None,
    total_ms: Total = None,
    retry_after_max_ms: After = None,
    cache_s: Cache = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Change a route; what is not given stays, targets that are given replace all."""
    given = {
        "strategy": None if strategy is None else strategy.value,
        "is_alias": alias,
        "description": description,
        "retries_max": retries_max,
        "connect_ms": connect_ms,
        "first_token_ms": first_token_ms,
        "between_tokens_ms": between_tokens_ms,
        "total_ms": total_ms,
        "retry_after_max_ms": retry_after_max_ms,
        "cache_s": cache_s,
    }
    change = {key: value for key, value in given.items() if value is not None}
    targets = [read_target(text) for text in target] if target else None
    if not change and targets is None:
        raise Misuse("nothing to change: give an option")
    _change(home, name, change, targets, as_json=as_json)


@app.command("enable")
def enable(name: Name, home: Home = None) -> None:
    """Let a route be called again, within a second."""
    _change(home, name, {"enabled": True}, None, as_json=False)


@app.command("disable")
def disable(name: Name, home: Home = None) -> None:
    """Let a route be called no more, within a second."""
    _change(home, name, {"enabled": False}, None, as_json=False)


@app.command("remove")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
    home: Home = None,
) -> None:
    """Remove a route or alias; its targets' providers stay."""
    if not yes:
        raise Misuse(f"this removes the route {name}: add --yes to do it")

    async def work(conn: Connection, _: Settings) -> None:
        await RouteStore().delete(conn, name=name)

    with_operator(home, work)
    say(f"removed the route {name}")


def _change(
    home: Path | None,
    name: str,
    change: dict[str, Any],
    targets: list[TargetSpec] | None,
    *,
    as_json: bool,
) -> None:
    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await RouteStore().change(conn, name=name, change=change, targets=targets)

    _show([with_operator(home, work)], as_json=as_json)


def _show(routes: list[dict[str, Any]], *, as_json: bool) -> None:
    if not as_json:
        routes = [{**r, "targets": [_written(t) for t in r["targets"]]} for r in routes]
    show(_COLUMNS, routes, as_json=as_json)
    say(f"{len(routes)} routes")


def _written(target: dict[str, Any]) -> str:
    provider = target["provider"] or "*"
    return f"{provider}/{target['model']}@{target['priority']}*{target['weight'].normalize():f}"


def read_target(text: str) -> TargetSpec:
    """Read `provider/model@PRIORITY*WEIGHT`; the last two may be left out. Raises Misuse.

    `*/model` is every provider that lists the model.
    """
    rest, priority, weight = text, "5", "1"
    head, star, tail = rest.rpartition("*")
    if star and head and tail and not tail.startswith("/"):
        rest, weight = head, tail
    head, at, tail = rest.rpartition("@")
    if at and tail.isdigit():
        rest, priority = head, tail
    provider, slash, model = rest.partition("/")
    try:
        share = Decimal(weight)
    except ArithmeticError:
        share = Decimal(-1)
    if not slash or not provider or not model or not model.isprintable() or len(model) > 255:
        raise Misuse(f"--target: {text!r} is not provider/model@PRIORITY*WEIGHT")
    if not share.is_finite() or not 0 <= share <= 999 or int(priority) > 1_000_000:
        raise Misuse(f"--target: {text!r}: a weight is 0 to 999, a priority 0 to 1000000")
    return TargetSpec(None if provider == "*" else provider, model, int(priority), share)
