"""`helix db …`: plan, apply and take back migrations, compare catalogues, write what is generated.

Data goes to stdout, talk to stderr. With the embedded database not running, it is started for the
time of the command.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from helix.core.command import Home, Json, say, show_json
from helix.core.config import load_settings
from helix.core.db import redacted_url
from helix.core.errors import HelixError, Misuse
from helix.core.instance import lock_home, make_home
from helix.operations import embedded_postgres
from helix.operations.check import check as compare
from helix.operations.command import database
from helix.operations.drift import generated_files
from helix.operations.errors import DeletionsNotConfirmed
from helix.operations.guard import require_backup, without_backup
from helix.operations.migrate import (
    current as stand,
)
from helix.operations.migrate import (
    downgrade as take_back,
)
from helix.operations.migrate import (
    load,
    open_migrator,
)
from helix.operations.migrate import (
    upgrade as apply,
)
from helix.operations.plan import plan as try_out
from helix.operations.plan import render_plan
from helix.operations.revisions import create_revision
from helix.operations.runner import read_applied
from helix.operations.types import Guard

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The database's schema: migrations, comparison, generated files.",
)

Target = Annotated[
    str, typer.Argument(help="A revision, its beginning, head, base, +N or -N.", metavar="[REV]")
]


WithoutBackup = Annotated[
    bool,
    typer.Option("--without-backup", help="Destroy data though no tested backup is there; logged."),
]


def _guard(*, unguarded: bool) -> Guard:
    return without_backup(say) if unguarded else require_backup


def main(args: list[str]) -> None:
    """Run `helix db` with these arguments."""
    app(args, prog_name="helix db")


@app.command("plan")
def plan_command(
    target: Target = "head",
    home: Home = None,
    as_json: Json = False,
    offline: Annotated[
        bool, typer.Option("--no-measure", help="Do not try the statements out on the database.")
    ] = False,
) -> None:
    """Print the SQL between the database and REV, with the locks and rows of each statement.

    It is tried out in a transaction that is rolled back, so its locks are real while it lasts.
    """

    async def work() -> None:
        async with database(home, "helix db plan") as (_, url):
            planned = await try_out(url, target=target, measure=not offline)
        for statement in planned if as_json else ():
            show_json(statement)
        if planned and not as_json:
            print(render_plan(planned, load()), end="")
        revisions = len({statement.revision for statement in planned})
        say(f"{len(planned)} statements in {revisions} revisions; nothing was changed")

    asyncio.run(work())


@app.command("upgrade")
def upgrade_command(
    target: Target = "head",
    home: Home = None,
    as_json: Json = False,
    unguarded: WithoutBackup = False,
) -> None:
    """Apply the revisions up to REV (default: head).

    Before one that destroys data a tested backup of the last 24 hours has to be there.
    """

    async def work() -> None:
        async with database(home, "helix db upgrade") as (_, url):
            await apply(url, target=target, report=say, guard=_guard(unguarded=unguarded))
            if as_json:
                show_json(await stand(url))

    asyncio.run(work())


@app.command("downgrade")
def downgrade_command(
    target: Target = "-1",
    home: Home = None,
    as_json: Json = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Drop the tables and columns that are listed.")
    ] = False,
    unguarded: WithoutBackup = False,
) -> None:
    """Take revisions back until the database is at REV (default: one back).

    Tables and columns that go are listed with their rows; without --yes nothing is done then.
    If rows go, a tested backup of the last 24 hours has to be there.
    """

    async def work() -> None:
        async with database(home, "helix db downgrade") as (_, url):
            try:
                await take_back(
                    url,
                    target=target,
                    confirmed=yes,
                    report=say,
                    guard=_guard(unguarded=unguarded),
                )
            except DeletionsNotConfirmed as exc:
                for lost in exc.deletions:
                    if as_json:
                        show_json(lost)
                    else:
                        print(f"drops {lost.kind} {lost.name}: {lost.rows} rows")
                raise
            if as_json:
                show_json(await stand(url))

    asyncio.run(work())


@app.command("current")
def current_command(home: Home = None, as_json: Json = False) -> None:
    """Say at which revision the database is, and what is pending."""

    async def work() -> None:
        async with database(home, "helix db current") as (_, url):
            version = await stand(url)
        if as_json:
            show_json(version)
            return
        print(version.revision or "base")
        if version.interrupted:
            say(f"revision {version.interrupted} is half done: run `helix db upgrade`")
        if version.pending:
            say(f"pending: {', '.join(version.pending)}")

    asyncio.run(work())


@app.command("history")
def history_command(home: Home = None, as_json: Json = False) -> None:
    """List every revision and when this database got it."""

    async def work() -> None:
        async with database(home, "helix db history") as (_, url), open_migrator(url) as conn:
            applied = {row.id: row for row in await read_applied(conn)}
        for revision in load():
            row = applied.get(revision.id)
            same = row is None or row.checksum == revision.up.checksum
            if as_json:
                show_json(
                    {
                        "revision": revision.id,
                        "title": revision.title,
                        "state": row.state if row else "pending",
                        "applied_at": row.applied_at if row else None,
                        "same_text": same,
                    }
                )
                continue
            when = f"{row.applied_at:%Y-%m-%d %H:%M}" if row and row.applied_at else "pending"
            other = "" if same else "  (applied from another text)"
            print(f"{revision.id}  {when:<16}  {revision.title}{other}")

    asyncio.run(work())


@app.command("revision")
def revision_command(
    message: Annotated[str, typer.Option("-m", "--message", help="What it does, in words.")],
    home: Home = None,
) -> None:
    """Write a new, empty revision into the source tree."""
    load_settings(os.environ, home=home)
    for path in create_revision(message):
        print(path)


@app.command("check")
def check_command(home: Home = None, as_json: Json = False) -> None:
    """Compare the catalogues of the schema files, the migrations and this database.

    Each difference is a line on stdout; the exit status is 1 when there is one.
    """

    async def work() -> None:
        started = time.monotonic()
        async with database(home, "helix db check") as (_, url):
            result = await compare(url)
        for difference in result.differences:
            if as_json:
                show_json(difference)
            else:
                print(difference)
        if result.foreign:
            say(f"not Helix's, left alone: {', '.join(result.foreign)}")
        took = f"{result.compared} things compared in {time.monotonic() - started:.1f} s"
        if result.differences:
            raise HelixError(f"{len(result.differences)} differences; {took}")
        say(f"schema files, migrations and this database agree; {took}")

    asyncio.run(work())


@app.command("schema")
def schema_command(
    home: Home = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write it; - is stdout.", show_default=False)
    ] = None,
) -> None:
    """Write sql/complete_schema.sql from the live catalogue."""
    asyncio.run(_write_generated(home, "schema", output))


@app.command("diagram")
def diagram_command(
    home: Home = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory to write them to.", show_default=False)
    ] = None,
) -> None:
    """Write docs/diagrams (Mermaid and PlantUML, whole and by domain) from the live catalogue."""
    asyncio.run(_write_generated(home, "diagram", output))


async def _write_generated(home: Path | None, what: str, output: Path | None) -> None:
    async with database(home, f"helix db {what}") as (settings, url):
        pending = (await stand(url)).pending
        if pending:
            raise Misuse(
                f"the database lacks {', '.join(pending)}: `helix db upgrade` first, "
                "or what is drawn is not what it will be"
            )
        files = await generated_files(url, settings, kinds=(what,))
    for path, text in files.items():
        if output is not None and str(output) == "-":
            print(text, end="")
            continue
        target = path if output is None else (output / path.name if what == "diagram" else output)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise Misuse(f"cannot write {target}: {exc.strerror}") from exc
        say(f"wrote {target}")


@app.command("start")
def start_command(home: Home = None, as_json: Json = False) -> None:
    """Start only the embedded PostgreSQL, in the foreground; Ctrl-C stops it."""

    async def work() -> None:
        settings = load_settings(os.environ, home=home)
        if settings.external_url() is not None:
            raise Misuse("DATABASE_URL or DB_HOST name an outside database: nothing to start")
        make_home(settings.home_dir)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        with lock_home(settings.home_dir, "helix db start"):
            async with embedded_postgres(settings, report=say) as server:
                for number in (signal.SIGINT, signal.SIGTERM):
                    with contextlib.suppress(NotImplementedError):
                        loop.add_signal_handler(number, ended.set)
                if as_json:
                    show_json({"database_url": server.url, "version": server.version})
                else:
                    print(redacted_url(server.url))
                sys.stdout.flush()
                say(f"PostgreSQL {server.version} runs; Ctrl-C stops it")
                await ended.wait()

    asyncio.run(work())
