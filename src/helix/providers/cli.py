"""`helix providers`: whom Helix may call."""

import asyncio
import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from helix.accounts import Home, Json, say, show, show_json, with_operator
from helix.core.config import Settings, load_settings
from helix.core.db import Connection
from helix.core.errors import HelixError, Misuse
from helix.core.instance import load_keyring
from helix.providers.http import HttpClient, HttpLimits
from helix.providers.openai import OpenAIAdapter
from helix.providers.policy import check_base_url, check_provider_name
from helix.providers.store import Store
from helix.providers.types import Provider, Wire

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COLUMNS = ("name", "protocol", "base_url", "enabled", "priority", "key", "total_models", "origin")
LIST_TIMEOUT_S = 20.0
Name = Annotated[str, typer.Argument(help="The provider's name.", metavar="NAME")]


def main(args: list[str]) -> None:
    """Run `helix providers` with these arguments."""
    app(args=args, prog_name="helix providers")


@app.callback()
def _group() -> None:
    """Providers of models: add, list, show, enable, disable, remove."""


@app.command("list")
def list_providers(home: Home = None, as_json: Json = False) -> None:
    """List providers in the order of preference; keys are never shown."""

    async def work(conn: Connection, settings: Settings) -> list[dict[str, Any]]:
        return [_shown(row) for row in await _store(settings).list_all(conn)]

    providers = with_operator(home, work)
    show(_COLUMNS, providers, as_json=as_json)
    say(f"{len(providers)} providers")


@app.command("show")
def show_provider(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show one provider and the models it lists."""

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        return _shown(await _store(settings).show(conn, name=name))

    provider = with_operator(home, work)
    if as_json:
        show_json(provider)
        return
    for key, value in provider.items():
        if key != "models":
            print(f"{key:<18} {'' if value is None else value}")
    for model in provider["models"]:
        print(f"{'model':<18} {name}/{model}")


@app.command("add")
def add_provider(  # noqa: PLR0917 - options, given by name
    name: Name,
    base_url: Annotated[str, typer.Option(help="Root of its OpenAI-compatible API, with /v1.")],
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with its API key; '-' reads stdin.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it offers; repeat. Without it the provider is asked."),
    ] = None,
    default_model: Annotated[
        str | None, typer.Option(help="What answers when only the provider is named.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, help="Lower goes first.")] = 5,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a provider that speaks OpenAI's format; its key is stored encrypted."""
    check_provider_name(name)
    url = check_base_url(base_url)
    api_key = _read_key(api_key_file)
    for one in [*(model or []), *([default_model] if default_model else [])]:
        if not one.isprintable() or not 0 < len(one) <= 255:
            raise Misuse(f"{one!r} is no name of a model")
    settings = load_settings(os.environ, home=home)
    models = model or _ask_models(settings, name, url, api_key)

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        store = _store(settings)
        await store.insert(
            conn,
            provider_id=uuid4(),
            name=name,
            wire=Wire.OPENAI,
            base_url=url,
            api_key=api_key,
            models=models,
            paid="free" if api_key is None else "api_key",
            default_model=default_model,
            priority=priority,
        )
        return _shown(await store.show(conn, name=name))

    show(_COLUMNS, [with_operator(home, work)], as_json=as_json)
    say(f"{len(models)} models; call one as {name}/{models[0] if models else 'MODEL'}")


@app.command("enable")
def enable(name: Name, home: Home = None) -> None:
    """Let a provider be called again, within a second."""
    _set_enabled(home, name, enabled=True)


@app.command("disable")
def disable(name: Name, home: Home = None) -> None:
    """Call a provider no more, within a second."""
    _set_enabled(home, name, enabled=False)


@app.command("remove")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
    home: Home = None,
) -> None:
    """Remove a provider, its key and its models; recorded calls keep its name."""

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        store = _store(settings)
        provider = await store.show(conn, name=name)
        if yes:
            await store.delete(conn, name=name)
        return provider

    provider = with_operator(home, work)
    what = f"the provider {name}, its stored key and {provider['total_models']} models"
    if not yes:
        raise Misuse(f"this removes {what}: add --yes to do it")
    say(f"removed {what}")


def _set_enabled(home: Path | None, name: str, *, enabled: bool) -> None:
    async def work(conn: Connection, settings: Settings) -> None:
        await _store(settings).set_enabled(conn, name=name, enabled=enabled)

    with_operator(home, work)
    say(f"{name} is {'enabled' if enabled else 'disabled'}")


def _store(settings: Settings) -> Store:
    return Store(load_keyring(settings))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    sealed = row["credential_key_id"]
    return {**row, "key": "encrypted" if sealed else "none", "credential_key_id": sealed}


def _read_key(file: Path | None) -> str | None:
    if file is None:
        if not sys.stdin.isatty():
            return None
        text = getpass("API key (empty for none): ")
    else:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except OSError as exc:
            raise Misuse(f"cannot read {file}: {exc.strerror}") from exc
    key = text.strip()
    if not key.isprintable() or not key.isascii() or " " in key:
        raise Misuse("an API key is one line of printable ASCII")
    return key or None


def _ask_models(settings: Settings, name: str, url: str, api_key: str | None) -> list[str]:
    provider = Provider(
        id=uuid4(),
        name=name,
        wire=Wire.OPENAI,
        base_url=url,
        priority=0,
        default_model=None,
        models=frozenset(),
        api_key=api_key,
    )

    async def ask() -> list[str]:
        http = HttpClient(HttpLimits.of(settings))
        http.start()
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                return await OpenAIAdapter(http).models(provider)
        finally:
            await http.stop()

    try:
        return asyncio.run(ask())
    except (HelixError, TimeoutError) as exc:
        say(f"its models could not be listed: {str(exc) or 'no answer in time'}")
        return []
