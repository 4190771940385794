"""`helix debate TOPIC`: have models debate a question, and see whether it paid.

It is held by the Helix that runs here; where none does, by this command itself.
"""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
import typer

from helix import debates, providers
from helix.cli.own import database, worked_on
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show_json
from helix.core.config import Settings, load_settings
from helix.core.db import Connection, Database, Role, connect
from helix.core.errors import Misuse
from helix.core.instance import load_keyring
from helix.core.log import configure
from helix.debates import DebateSpec, Protocol, VotingMethod

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix debate TOPIC`."""
    app(args, prog_name="helix debate")


@app.command()
def debate(  # noqa: PLR0917 - options, given by name
    topic: Annotated[str, typer.Argument(help="What is asked.")],
    model: Annotated[
        list[str] | None, typer.Option(help="provider/model of a participant; twice or more.")
    ] = None,
    position: Annotated[
        list[str] | None, typer.Option(help="What is voted on; default: the participants.")
    ] = None,
    panel: Annotated[str | None, typer.Option(help="Begin with this stored panel.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Begin with this JSON file, a DebateSpec without topic.")
    ] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="Who speaks when.")] = None,
    method: Annotated[VotingMethod | None, typer.Option(help="How votes are counted.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=20, help="Rounds at most.")] = None,
    judge: Annotated[str | None, typer.Option(help="provider/model of the judge.")] = None,
    synthesizer: Annotated[str | None, typer.Option(help="Who writes the conclusion.")] = None,
    check: Annotated[list[str] | None, typer.Option(help="A validation pass to make.")] = None,
    budget: Annotated[str | None, typer.Option(help="Most dollars it may cost.")] = None,
    expected: Annotated[str | None, typer.Option(help="The right position, if known.")] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Git repository it is about, below a configured root.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Revision to hold its HEAD against.")] = None,
    email: Annotated[
        str | None, typer.Option("--user", help="Account that pays; default: the first admin.")
    ] = None,
    detach: Annotated[bool, typer.Option(help="Do not watch; print the id.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have models debate a question, watch them, and see whether it paid."""
    given: dict[str, Any] = _read_file(file)
    given["topic"] = topic
    if model:
        given["participants"] = _participants(model)
    if check:
        given["validation"] = {"passes": check}
    if budget is not None:
        given["limits"] = {**given.get("limits", {}), "budget_usd": budget}
    if method is not None:
        given["voting"] = {**given.get("voting", {}), "method": method.value}
    if repository is not None:
        given["code"] = {"repository": str(repository.resolve()), "base": base}
    plain = {
        "positions": position, "protocol": protocol and protocol.value, "rounds": rounds,
        "judge": judge, "synthesizer": synthesizer, "expected": expected,
    }  # fmt: skip
    given |= {name: told for name, told in plain.items() if told}

    settings = load_settings(os.environ, home=home)
    configure(settings.log_level)
    asyncio.run(_debate(settings, given, panel, email, detach=detach, as_json=as_json))


async def _debate(
    settings: Settings,
    given: dict[str, Any],
    panel: str | None,
    email: str | None,
    *,
    detach: bool,
    as_json: bool,
) -> None:
    async with database(settings) as url:
        conn = await connect(url, role=Role.OPERATOR, application_name="helix debate")
        try:
            user_id: UUID = await debates.payer(conn, email)
            told = {**await _config(conn, user_id, panel), **given}
            if told.get("participants"):
                _check(told, settings)  # before anything is started for it
            async with worked_on(settings, url, work_here=not detach) as here:
                if not told.get("participants"):
                    chosen = await _choose(settings, url)
                    told = debates.fill(told, lambda: chosen)
                async with conn.transaction():
                    begun = await debates.start(
                        conn,
                        spec=_check(told, settings),
                        debate_id=debates.DebateId(uuid4()),
                        created_by=user_id,
                        now=SystemClock().now(),
                        panel=panel,
                    )
                if detach:
                    show_json({"id": str(begun.id)}) if as_json else print(begun.id)
                    return
                stops = "it goes on with `helix up`" if here else "not the debate"
                say(f"debate {begun.id}; Ctrl-C stops watching, {stops}")
                await debates.follow(conn, begun.id, as_json=as_json)
        finally:
            await conn.close()


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        told = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as exc:
        raise Misuse(f"--file {file}: {exc}") from exc
    if not isinstance(told, dict):
        raise Misuse(f"--file {file}: it must hold a JSON object")
    return told


def _participants(models: list[str]) -> list[dict[str, str]]:
    if len(models) == 1:
        raise Misuse("a debate needs two participants or more: give --model again")
    names = [model.rpartition("/")[2][:90] for model in models]
    return [
        {"name": name if names.count(name) == 1 else f"{name} {n}", "model": model}
        for n, (name, model) in enumerate(zip(names, models, strict=True), 1)
    ]


async def _config(conn: Connection, user_id: UUID, panel: str | None) -> dict[str, Any]:
    """Return the stored panel that a debate begins with; nothing for the default."""
    if panel is None:
        return {}
    try:
        return (await debates.get_panel(conn, user_id=user_id, kind="debate", name=panel)).config
    except debates.PanelNotFound:
        if panel != debates.DEFAULT:
            raise
        return {}


def _check(told: dict[str, Any], settings: Settings) -> DebateSpec:
    """Return the debate that is asked for. Raises BadDebate, RepositoryRefused."""
    spec = debates.read_spec(told)
    if spec.code is not None:
        debates.Repositories(settings.debate_code_root_list).locate(spec.code.repository)
    return spec


async def _choose(settings: Settings, url: str) -> list[str]:
    """Return who takes part where nobody is named, by the registry as it is now."""
    db = Database(url, settings.pool_limits())
    try:
        known = providers.build(db, settings, keyring=load_keyring(settings))
        async with known.opened():
            return debates.choose(debates.places_of(known))
    finally:
        await db.close()
