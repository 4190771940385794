"""`helix keys`: API keys from the command line of whoever runs this Helix."""

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

import typer

from helix.accounts import service
from helix.accounts.audited import record_key
from helix.accounts.cli_users import find_user
from helix.accounts.errors import KeyExceedsParent, KeyNotFound
from helix.accounts.policy import KEY_MARK, RANDOM_BYTES, key_prefix, scopes_of_role
from helix.accounts.render import shown_key
from helix.accounts.store import Store
from helix.accounts.types import ApiKey, NewKey, Scope
from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show, show_json, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COLUMNS = (
    "id",
    "prefix",
    "name",
    "user_id",
    "scopes",
    "rate_limit",
    "status",
    "created_at",
    "expires_at",
    "last_used_at",
)
_SPAN = re.compile(r"(\d{1,5})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def main(args: list[str]) -> None:
    """Run `helix keys` with these arguments."""
    app(args=args, prog_name="helix keys")


@app.callback()
def _group() -> None:
    """API keys: create, list, revoke."""


@app.command("list")
def list_keys(
    user: Annotated[str | None, typer.Option(help="Only of this email, user name or id.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List keys, newest first; what is shown of a key opens nothing."""

    async def work(conn: Connection, _: Settings) -> list[ApiKey]:
        user_id = None if user is None else (await find_user(conn, user)).id
        return await Store().list_keys(conn, user_id=user_id)

    keys = with_operator(home, work)
    show(_COLUMNS, [shown_key(key) for key in keys], as_json=as_json)
    say(f"{len(keys)} keys")


@app.command("create")
def create_key(  # noqa: PLR0917 - options, given by name
    user: Annotated[
        str, typer.Option(help="Whose key: email, user name or id.")
    ] = "admin@localhost",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; repeat for more. [completions]")
    ] = None,
    rate_limit: Annotated[int, typer.Option(min=0, help="Requests per minute.")] = 1_000,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 12h, 30d, 8w, or an ISO time. [never]")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    now = SystemClock().now()
    expires_at = None if expires is None else _read_expiry(expires, now)
    scopes = frozenset(scope or [Scope.COMPLETIONS])

    async def work(conn: Connection, _: Settings) -> NewKey:
        owner = await find_user(conn, user)
        excess = sorted(scopes - scopes_of_role(owner.role))
        if excess:
            raise KeyExceedsParent(f"a {owner.role} cannot have the scope {', '.join(excess)}")
        made = await service.issue_key(
            conn,
            Store(),
            user_id=owner.id,
            key_id=uuid4(),
            noise=os.urandom(RANDOM_BYTES),
            name=name,
            scopes=scopes,
            rate_limit=rate_limit,
            expires_at=expires_at,
            now=now,
        )
        await record_key(conn, "api_key.created", by_command(), made.record)
        return made

    made = with_operator(home, work)
    if as_json:
        show_json({"key": made.key, **shown_key(made.record)})
        return
    print(made.key)
    say(f"key {made.record.id} of {user}: it is shown this once and cannot be read again")


@app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Id, shown beginning, or the key itself.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """End a key for good; no process accepts it a second later."""

    async def work(conn: Connection, _: Settings) -> ApiKey:
        key_id = await _find_key(conn, key)
        ended = await Store().revoke_key(conn, key_id=key_id, user_id=None, now=SystemClock().now())
        await record_key(conn, "api_key.revoked", by_command(), ended)
        return ended

    show(_COLUMNS, [shown_key(with_operator(home, work))], as_json=as_json)


async def _find_key(conn: Connection, key: str) -> UUID:
    if not key.startswith(KEY_MARK):
        try:
            return UUID(key)
        except ValueError:
            raise Misuse("name a key by its id or by its shown beginning hx_live_…") from None
    found = await Store().find_keys_by_prefix(conn, prefix=key_prefix(key))
    if not found:
        raise KeyNotFound
    if len(found) > 1:
        raise Misuse(f"several keys begin with {key_prefix(key)}: name it by its id")
    return found[0].id


def _read_expiry(text: str, now: datetime) -> datetime:
    if span := _SPAN.fullmatch(text):
        return now + timedelta(hours=int(span.group(1)) * _HOURS[span.group(2)])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(f"{text!r} is no time: write 12h, 30d, 8w or 2027-01-31T00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
