"""`helix models`: what the providers offer, the catalogue, benchmarks."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from helix.accounts import Home, Json, say, show, show_json, with_operator
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database, Role
from helix.core.errors import HelixError, Misuse
from helix.providers.benchmarks import read_benchmarks
from helix.providers.cli import with_providers
from helix.providers.domain import Providers
from helix.providers.errors import ModelNotFound
from helix.providers.models_store import ModelStore
from helix.providers.modelsdev import CATALOG_URL, ProposePrice, bundled, read_catalog, sync
from helix.providers.policy import check_route_name, split_model
from helix.providers.routes_store import RouteStore, TargetSpec

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COLUMNS = (
    "provider",
    "model",
    "enabled",
    "context_window",
    "max_output_tokens",
    "vision",
    "tools",
    "json_schema",
    "reasoning",
    "pricing_input",
    "pricing_output",
    "benchmark_score",
)
Model = Annotated[str, typer.Argument(help="provider/model", metavar="MODEL")]


def main(args: list[str], *, propose_price: ProposePrice | None = None) -> None:
    """Run `helix models` with these arguments; `propose_price` takes what the catalogue tells."""
    app(args=args, prog_name="helix models", obj=propose_price)


@app.callback()
def _group() -> None:
    """Models of all providers: list, show, sync, refresh, enable, disable, alias, benchmarks."""


@app.command("list")
def list_models(
    provider: Annotated[str | None, typer.Option(help="Only of this provider.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="Disabled ones too.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List models, with what is known of them; prices in US dollars per million tokens."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await ModelStore().list_models(conn, provider=provider, whole=whole)

    models = with_operator(home, work)
    show(_COLUMNS, models, as_json=as_json)
    say(f"{len(models)} models")


@app.command("show")
def show_model(model: Model, home: Home = None, as_json: Json = False) -> None:
    """Show all that is known of one model."""
    provider, name = split_model(model)

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        found = await ModelStore().list_models(conn, provider=provider, model=name, whole=True)
        if not found:
            raise ModelNotFound(model)
        results = await ModelStore().list_benchmarks(conn, provider=provider, model=name)
        return {**found[0], "benchmarks": {r["benchmark"]: r["score"] for r in results}}

    found = with_operator(home, work)
    if as_json:
        show_json(found)
        return
    for key, value in found.items():
        print(f"{key:<20} {'' if value is None else value}")


@app.command("sync")
def sync_models(  # noqa: PLR0917 - options, given by name
    context: typer.Context,
    file: Annotated[Path | None, typer.Option(help="An api.json of models.dev.")] = None,
    url: Annotated[
        str | None, typer.Option(help=f"Fetch it from there, such as {CATALOG_URL}.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None,
    add: Annotated[bool, typer.Option(help="Add models that it does not list itself.")] = False,
    prices: Annotated[bool, typer.Option(help="Take prices where nobody set one.")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fill in what the catalogue knows of models; without --file or --url the bundled snapshot."""
    if file is not None and url is not None:
        raise Misuse("give --file or --url, not both")
    began_s, now = time.monotonic(), SystemClock().now()
    kind = "file" if file is not None else "url" if url is not None else "snapshot"
    propose: ProposePrice | None = context.obj if prices else None

    async def work(providers: Providers, db: Database) -> list[dict[str, Any]]:
        store = ModelStore()
        try:
            if file is not None:
                data = _read(file)
                catalog = read_catalog(data, source="models.dev", dated=f"{now:%Y-%m-%d}")
            elif url is not None:
                catalog = await providers.fetch_catalog(url)
            else:
                catalog = bundled()
        except HelixError as exc:
            async with db.transaction(Role.OPERATOR) as conn:
                await store.sync_failed(conn, kind=kind, error=exc.message, started_at=now)
            raise
        say(f"{catalog.source} as of {catalog.dated}: {catalog.count()} models")
        async with db.transaction(Role.OPERATOR) as conn:
            done = await sync(
                conn,
                store,
                catalog,
                now=now,
                kind=kind,
                provider=provider,
                add=add,
                propose_price=propose,
            )
        return [
            {"provider": d.provider, "models": d.models, "unknown": d.unknown, "prices": d.prices}
            for d in done
        ]

    done = with_providers(home, work)
    show(("provider", "models", "unknown", "prices"), done, as_json=as_json)
    models = sum(one["models"] for one in done)
    say(f"{models} models of {len(done)} providers; {time.monotonic() - began_s:.1f} s")


@app.command("refresh")
def refresh(
    provider: Annotated[str, typer.Argument(help="The provider's name.")], home: Home = None
) -> None:
    """Ask a provider for its models and add those that are new."""

    async def work(providers: Providers, _: Database) -> int:
        return await providers.read_models(provider)

    say(f"{provider} lists {with_providers(home, work)} models")


@app.command("history")
def history(home: Home = None, as_json: Json = False) -> None:
    """List the last hundred runs of the sync."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await ModelStore().list_syncs(conn, max_count=100)

    runs = with_operator(home, work)
    columns = ("started_at", "provider", "refresh_type", "status", "models_refreshed")
    show((*columns, "models_failed", "error_message"), runs, as_json=as_json)
    say(f"{len(runs)} runs")


@app.command("enable")
def enable(model: Model, home: Home = None) -> None:
    """List a model again."""
    _set_enabled(home, model, enabled=True)


@app.command("disable")
def disable(model: Model, home: Home = None) -> None:
    """List a model no more; its full name can still be called."""
    _set_enabled(home, model, enabled=False)


@app.command("alias")
def alias(
    name: Annotated[str, typer.Argument(help="The name to call it by.")],
    model: Model,
    home: Home = None,
) -> None:
    """Let a model be called by another name; `helix routes` changes and removes it."""
    check_route_name(name)
    provider, called = split_model(model)

    async def work(conn: Connection, _: Settings) -> None:
        await RouteStore().insert(
            conn,
            name=name,
            strategy="priority",
            alias=True,
            targets=[TargetSpec(provider, called)],
        )

    with_operator(home, work)
    say(f"{name} is {model} now")


@app.command("benchmarks")
def benchmarks(
    file: Annotated[
        Path | None, typer.Option(help="CSV or JSON: model, benchmark, score, normalized, date.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="List only this one.")] = None,
    source: Annotated[str, typer.Option(help="Where they are from.")] = "operator",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import benchmark results with --file, or list them; routes choose by them (quality)."""
    results = None if file is None else read_benchmarks(_read(file), source=source)

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        store = ModelStore()
        if results is not None:
            unknown = await store.put_benchmarks(conn, results)
            for one in unknown:
                say(f"{one.provider}/{one.model} is not known: left out")
        return await store.list_benchmarks(conn, benchmark=benchmark)

    listed = with_operator(home, work)
    columns = ("benchmark", "provider", "model", "score", "normalized", "rank", "dated", "source")
    show(columns, listed, as_json=as_json)
    say(f"{len(listed)} results")


def _set_enabled(home: Path | None, model: str, *, enabled: bool) -> None:
    provider, name = split_model(model)

    async def work(conn: Connection, _: Settings) -> None:
        await ModelStore().set_enabled(conn, provider=provider, model=name, enabled=enabled)

    with_operator(home, work)
    say(f"{model} is {'enabled' if enabled else 'disabled'}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise Misuse(f"cannot read {file}: {exc.strerror}") from exc
