"""`helix users`: accounts from the command line of whoever runs this Helix."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import typer

from helix.accounts import service
from helix.accounts.errors import UserNotFound
from helix.accounts.passwords import NO_PASSWORD, hash_now
from helix.accounts.render import shown_user
from helix.accounts.store import Store
from helix.accounts.types import User, UserRole, UserStatus
from helix.core import audit
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse

__all__ = ["app", "find_user", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COLUMNS = ("id", "email", "username", "name", "role", "status", "created_at", "last_login")
Who = Annotated[str, typer.Argument(help="Email, user name or id.", metavar="USER")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File with the password; '-' reads stdin; without it, it is asked for."),
]


def main(args: list[str]) -> None:
    """Run `helix users` with these arguments."""
    app(args=args, prog_name="helix users")


@app.callback()
def _group() -> None:
    """Accounts: add, list, suspend, activate, set a password, erase."""


@app.command("list")
def list_users(home: Home = None, as_json: Json = False) -> None:
    """List accounts, oldest first."""

    async def work(conn: Connection, _: Settings) -> list[User]:
        return await Store().list_users(conn)

    users = with_operator(home, work)
    show(_COLUMNS, [shown_user(user) for user in users], as_json=as_json)
    say(f"{len(users)} users")


@app.command("add")
def add_user(  # noqa: PLR0917 - options, given by name
    email: Annotated[str, typer.Argument(help="Address; also the name to log in with.")],
    username: Annotated[str | None, typer.Option(help="A second name to log in with.")] = None,
    name: Annotated[str | None, typer.Option(help="Name to show.")] = None,
    role: Annotated[UserRole, typer.Option(help="What the account is.")] = UserRole.USER,
    password_file: PasswordFile = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="The account only uses API keys.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add an account."""
    if "@" not in email.strip("@"):
        raise Misuse(f"{email!r} is not an email address")
    password = None if no_password else _read_password(password_file)

    async def work(conn: Connection, settings: Settings) -> User:
        cost = settings.bcrypt_cost
        user = await Store().insert_user(
            conn,
            user_id=uuid4(),
            email=email,
            username=username,
            name=name,
            role=role,
            password_hash=NO_PASSWORD if password is None else hash_now(password, cost),
        )
        await _record(conn, "user.created", user, role=role.value)
        return user

    show(_COLUMNS, [shown_user(with_operator(home, work))], as_json=as_json)


@app.command("suspend")
def suspend(who: Who, home: Home = None, as_json: Json = False) -> None:
    """Refuse an account's keys and logins, within a second, until it is activated."""
    _set_status(home, who, UserStatus.SUSPENDED, as_json=as_json)


@app.command("activate")
def activate(who: Who, home: Home = None, as_json: Json = False) -> None:
    """Accept a suspended account again."""
    _set_status(home, who, UserStatus.ACTIVE, as_json=as_json)


@app.command("set-password")
def set_password(
    who: Who, password_file: PasswordFile = None, home: Home = None, as_json: Json = False
) -> None:
    """Set an account's password; every session of it ends."""
    password = _read_password(password_file)

    async def work(conn: Connection, settings: Settings) -> User:
        user = await find_user(conn, who)
        await service.change_password(
            conn,
            Store(),
            user_id=user.id,
            password_hash=hash_now(password, settings.bcrypt_cost),
            now=SystemClock().now(),
        )
        await _record(conn, "user.password_changed", user)
        return user

    show(_COLUMNS, [shown_user(with_operator(home, work))], as_json=as_json)


async def find_user(conn: Connection, who: str) -> User:
    """Return the account meant by an address, a user name or an id; raises UserNotFound."""
    try:
        return await Store().get_user(conn, user_id=UUID(who))
    except ValueError:
        facts = await Store().find_login(conn, login=who)
        if facts is None:
            raise UserNotFound from None
        return facts.user


def _set_status(home: Path | None, who: str, status: UserStatus, *, as_json: bool) -> None:
    async def work(conn: Connection, _: Settings) -> User:
        user = await find_user(conn, who)
        changed = await service.change_status(
            conn, Store(), user_id=user.id, status=status, now=SystemClock().now()
        )
        await _record(conn, "user.status_changed", user, status=status.value)
        return changed

    show(_COLUMNS, [shown_user(with_operator(home, work))], as_json=as_json)


async def _record(conn: Connection, operation: str, user: User, **details: str) -> None:
    await audit.record(
        conn,
        operation,
        actor=audit.by_command(),
        subject="user",
        subject_id=user.id,
        details=details or None,
    )


def _read_password(file: Path | None) -> str:
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except OSError as exc:
            raise Misuse(f"cannot read {file}: {exc.strerror}") from exc
        return text.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Misuse("no terminal to ask for the password on: give --password-file (or -)")
    first = getpass("password: ")
    if first != getpass("again: "):
        raise Misuse("the two passwords differ")
    return first
