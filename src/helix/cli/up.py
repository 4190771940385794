"""`helix up`: everything in the foreground, from an empty directory to a served call.

In order: settings, home, port, database, migrations, first key, server. What can be wrong with the
first three, or with an outside database, is said in one line before anything is made. What serves
(`serving`) takes a second to import, so it is imported once the first three are right.
"""

import errno
import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from helix.core.config import Settings, load_settings
from helix.core.errors import Misuse
from helix.core.instance import check_home, lock_home
from helix.core.log import configure

__all__ = ["BACKLOG", "app", "main"]

BACKLOG = 2_048
"""Connections that wait to be accepted."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix up` with these arguments."""
    app(args, prog_name="helix up")


@app.command()
def up(
    home: Annotated[
        Path | None, typer.Option(help="Directory of the database, keys and logs. [HELIX_HOME]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the server; 0 takes any free one. [HELIX_PORT]")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address the server listens on. [HELIX_HOST]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line once it serves.")
    ] = False,
) -> None:
    """Start Helix in the foreground: PostgreSQL, migrations, first key, server. Ctrl-C stops it."""
    settings = load_settings(os.environ, home=home, port=port, host=host)
    configure(settings.log_level)
    with ExitStack() as stack:
        check_home(settings.home_dir)
        is_new = not settings.home_dir.exists()
        if not is_new:
            stack.enter_context(lock_home(settings.home_dir, "helix up"))
        listener = stack.enter_context(_listener(settings))
        serving = importlib.import_module("helix.cli.serving")
        serving.serve(settings, listener, is_new=is_new, as_json=as_json)


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """Take the port, so that nobody else does while the database starts; raises Misuse.

    It listens at once: two sockets may bind one port as long as neither listens. Who connects
    early is answered as soon as Helix serves.
    """
    where = f"port {settings.port} of {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise Misuse(f"cannot listen on {settings.host}: {exc.strerror or exc}") from exc
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise Misuse(f"{where} is in use: choose another with --port or HELIX_PORT") from exc
        raise Misuse(f"cannot listen on {where}: {exc.strerror}") from exc
    with listener:
        yield listener
