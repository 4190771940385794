"""`helix providers`: whom Helix may call."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from getpass import getpass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import typer

from helix.accounts import Home, Json, say, show, show_json, with_operator
from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Connection, Database, PoolLimits, Role
from helix.core.errors import HelixError, Misuse
from helix.core.instance import load_keyring, locate
from helix.providers.adapters import adapters
from helix.providers.audited import record_change
from helix.providers.domain import Providers, build
from helix.providers.health_store import HealthStore
from helix.providers.http import HttpClient, HttpLimits
from helix.providers.models_store import ModelStore
from helix.providers.policy import check_base_url, check_provider_name, private_host
from helix.providers.store import Store
from helix.providers.types import ListedModel, Provider, Wire

__all__ = ["main", "with_providers"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
T = TypeVar("T")

_COLUMNS = (
    "name",
    "protocol",
    "base_url",
    "enabled",
    "priority",
    "weight",
    "key",
    "health_status",
    "verification_score",
    "total_models",
    "origin",
)
_VERIFIED = ("provider", "model", "score", "correctness", "availability", "speed", "tokens")
LIST_TIMEOUT_S = 20.0
WEIGHT_MAX = Decimal(999)
Name = Annotated[str, typer.Argument(help="The provider's name.", metavar="NAME")]
Private = Annotated[
    bool | None,
    typer.Option(
        "--private/--public",
        help="Whether it may stand at a loopback or private address. [as its host does now]",
    ),
]
Rate = Annotated[int | None, typer.Option(min=0, help="Most calls a minute; 0: no limit.")]
AtATime = Annotated[int | None, typer.Option(min=0, help="Most calls at a time; 0: the default.")]


def main(args: list[str]) -> None:
    """Run `helix providers` with these arguments."""
    app(args=args, prog_name="helix providers")


def with_providers(home: Path | None, work: Callable[[Providers, Database], Awaitable[T]]) -> T:
    """Run `work` with the registry read and ready to call."""
    settings = load_settings(os.environ, home=home)
    target, keyring = locate(settings), load_keyring(settings)

    async def run() -> T:
        db = Database(target.database_url, {role: PoolLimits(kept=0, maximum=4) for role in Role})
        try:
            async with build(db, settings, keyring=keyring).opened() as providers:
                return await work(providers, db)
        finally:
            await db.close()

    return asyncio.run(run())


@app.callback()
def _group() -> None:
    """Providers of models: add, list, show, set, key, enable, disable, test, verify, remove."""


@app.command("list")
def list_providers(home: Home = None, as_json: Json = False) -> None:
    """List providers in the order of preference; keys are never shown."""

    async def work(conn: Connection, settings: Settings) -> list[dict[str, Any]]:
        return await _store(settings).list_all(conn)

    providers = with_operator(home, work)
    show(_COLUMNS, providers, as_json=as_json)
    say(f"{len(providers)} providers")


@app.command("show")
def show_provider(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show one provider and the models it lists."""

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        return await _whole(conn, settings, name)

    provider = with_operator(home, work)
    if as_json:
        show_json(provider)
        return
    for key, value in provider.items():
        if key != "models":
            print(f"{key:<22} {'' if value is None else value}")
    for model in provider["models"]:
        print(f"{'model':<22} {name}/{model}")


@app.command("add")
def add_provider(  # noqa: PLR0917 - options, given by name
    name: Name,
    base_url: Annotated[str, typer.Option(help="Root of its API, such as https://host/v1.")],
    wire: Annotated[Wire, typer.Option(help="The format it speaks.")] = Wire.OPENAI,
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
    weight: Annotated[str, typer.Option(help="Share of the calls among equals, 0 to 999.")] = "1",
    requests_per_minute: Rate = None,
    concurrent_max: AtATime = None,
    private: Private = None,
    catalogue: Annotated[str | None, typer.Option(help="Its id at models.dev.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a provider; its key is stored encrypted, for it and its host alone."""
    check_provider_name(name)
    url = check_base_url(base_url)
    share = _read_weight(weight)
    api_key = _read_key(api_key_file)
    for one in [*(model or []), *([default_model] if default_model else [])]:
        _check_model(one)
    settings = load_settings(os.environ, home=home)
    if private is None:
        private = _resolves_private(url)
        if private:
            say(f"{name} stands at a private address, and may; --public forbids it")
    models = model or _ask_models(settings, name, url, api_key, wire, private=private)
    limits = {
        key: value
        for key, value in {
            "requests_per_minute": requests_per_minute,
            "concurrent_max": concurrent_max,
        }.items()
        if value
    }

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        store = _store(settings)
        await store.insert(
            conn,
            provider_id=uuid4(),
            name=name,
            wire=wire,
            base_url=url,
            api_key=api_key,
            models=models,
            paid="free" if api_key is None else "api_key",
            default_model=default_model,
            priority=priority,
            weight=share,
            rate_limits=limits,
            private=private,
            modelsdev_provider_id=catalogue,
        )
        await record_change(conn, "provider.added", by_command(), name, base_url=url)
        return await store.show(conn, name=name)

    show(_COLUMNS, [with_operator(home, work)], as_json=as_json)
    say(f"{len(models)} models; call one as {name}/{models[0] if models else 'MODEL'}")


@app.command("set")
def set_provider(  # noqa: PLR0917 - options, given by name
    name: Name,
    base_url: Annotated[
        str | None, typer.Option(help="Another host makes its stored key unusable.")
    ] = None,
    display_name: Annotated[str | None, typer.Option(help="Empty takes it away.")] = None,
    default_model: Annotated[str | None, typer.Option(help="Empty takes it away.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, help="Lower goes first.")] = None,
    weight: Annotated[str | None, typer.Option(help="Share among equals, 0 to 999.")] = None,
    requests_per_minute: Rate = None,
    concurrent_max: AtATime = None,
    private: Private = None,
    catalogue: Annotated[str | None, typer.Option(help="Its id at models.dev.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Change a provider; what is not given stays."""
    change: dict[str, Any] = {
        "base_url": None if base_url is None else check_base_url(base_url),
        "priority": priority,
        "weight": None if weight is None else _read_weight(weight),
        "private": private,
    }
    change = {key: value for key, value in change.items() if value is not None}
    emptied = {
        "display_name": display_name,
        "default_model": default_model,
        "modelsdev_provider_id": catalogue,
        "requests_per_minute": requests_per_minute,
        "concurrent_max": concurrent_max,
    }
    change |= {key: value or None for key, value in emptied.items() if value is not None}
    if default_model:
        _check_model(default_model)
    if not change:
        raise Misuse("nothing to change: give an option")
    if "base_url" in change and private is None:
        change["private"] = _resolves_private(change["base_url"])

    async def work(conn: Connection, settings: Settings) -> dict[str, Any]:
        changed = await _store(settings).change(conn, name=name, change=change)
        await record_change(conn, "provider.changed", by_command(), name, fields=sorted(change))
        return changed

    provider = with_operator(home, work)
    show(_COLUMNS, [provider], as_json=as_json)
    if provider["key_needed"]:
        say(f"{name} leads to another host now: store its key again, `helix providers key {name}`")


@app.command("key")
def store_key(
    name: Name,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the API key; '-' reads stdin.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the stored key.")] = False,
    home: Home = None,
) -> None:
    """Store a provider's API key anew, encrypted for it and its host; or delete it."""
    api_key = None if delete else _read_key(api_key_file)
    if api_key is None and not delete:
        raise Misuse("give the key by --api-key-file, or delete it with --delete")

    async def work(conn: Connection, settings: Settings) -> None:
        await _store(settings).set_key(conn, name=name, api_key=api_key)
        done = "provider.key_deleted" if delete else "provider.key_stored"
        await record_change(conn, done, by_command(), name)

    with_operator(home, work)
    say(f"the key of {name} is {'deleted' if delete else 'stored'}")


@app.command("test")
def ask_provider(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Ask a provider whether it serves, and write down how it went; exits 1 when it does not."""

    async def work(providers: Providers, _: Database) -> dict[str, Any]:
        probe = await providers.probe_now(name)
        return {
            "name": name,
            "serves": probe.healthy,
            "latency_ms": round(probe.latency_ms),
            "status": probe.status,
            "models": probe.models,
            "problem": probe.problem,
        }

    found = with_providers(home, work)
    show(tuple(found), [found], as_json=as_json)
    if not found["serves"]:
        raise SystemExit(1)


@app.command("verify")
def verify_provider(
    name: Name,
    model: Annotated[str | None, typer.Option(help="By which model. [its default]")] = None,
    history: Annotated[bool, typer.Option("--history", help="List earlier ones only.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Run six small calls against a provider and store its score, 0 to 10."""
    began_s = time.monotonic()

    async def work(providers: Providers, db: Database) -> list[dict[str, Any]]:
        if not history:
            await providers.verify(name, model=model)
        async with db.connection(Role.OPERATOR) as conn:
            return await HealthStore().list_verifications(
                conn, name=name, max_count=100 if history else 1
            )

    found = with_providers(home, work)
    show(("verified_at", *_VERIFIED), found, as_json=as_json)
    if not history and not as_json:
        for check, how in found[0]["checks"].items():
            passed = {True: "passed", False: "failed", None: "skipped"}[how["passed"]]
            print(f"  {check:<14} {passed:<8} {how['note']}")
    say(f"{len(found)} verifications; {time.monotonic() - began_s:.1f} s")


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
            await record_change(conn, "provider.removed", by_command(), name)
        return provider

    provider = with_operator(home, work)
    what = f"the provider {name}, its stored key and {provider['total_models']} models"
    if not yes:
        raise Misuse(f"this removes {what}: add --yes to do it")
    say(f"removed {what}")


def _set_enabled(home: Path | None, name: str, *, enabled: bool) -> None:
    async def work(conn: Connection, settings: Settings) -> None:
        await _store(settings).set_enabled(conn, name=name, enabled=enabled)
        await record_change(conn, "provider.changed", by_command(), name, enabled=enabled)

    with_operator(home, work)
    say(f"{name} is {'enabled' if enabled else 'disabled'}")


def _store(settings: Settings) -> Store:
    return Store(load_keyring(settings))


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


def _ask_models(
    settings: Settings, name: str, url: str, api_key: str | None, wire: Wire, *, private: bool
) -> list[str]:
    provider = Provider(
        id=uuid4(),
        name=name,
        wire=wire,
        base_url=url,
        priority=0,
        default_model=None,
        models=frozenset(),
        api_key=api_key,
        private=private,
    )

    async def ask() -> list[ListedModel]:
        http = HttpClient(HttpLimits.of(settings))
        http.start()
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                return await adapters(http, SystemClock())[wire].models(provider)
        finally:
            await http.stop()

    try:
        return [model.name for model in asyncio.run(ask())]
    except (HelixError, TimeoutError) as exc:
        say(f"its models could not be listed: {str(exc) or 'no answer in time'}")
        return []


async def _whole(conn: Connection, settings: Settings, name: str) -> dict[str, Any]:
    provider = await _store(settings).show(conn, name=name)
    models = await ModelStore().list_models(conn, provider=name)
    return {**provider, "models": [model["model"] for model in models]}


def _check_model(name: str) -> None:
    if not name.isprintable() or not 0 < len(name) <= 255:
        raise Misuse(f"{name!r} is no name of a model")


def _read_weight(text: str) -> Decimal:
    try:
        weight = Decimal(text)
    except ArithmeticError:
        weight = Decimal(-1)
    if not weight.is_finite() or not 0 <= weight <= WEIGHT_MAX or weight != round(weight, 2):
        raise Misuse(f"--weight: {text!r} is no number from 0 to {WEIGHT_MAX}, two decimals")
    return weight


def _resolves_private(url: str) -> bool:
    """Say whether a URL leads to a private address now; a name that is not known: no."""
    if private_host(url):
        return True
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(not ip_address(str(info[4][0]).partition("%")[0]).is_global for info in found)
