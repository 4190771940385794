"""`helix conversations` on a real database, as its own process would run it."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from helix.conversations import service
from helix.conversations.cli import main
from helix.core.db import Connection, Role, connect
from tests.conversations.support import CLOCK, IDS, said
from tests.factories import make_user
from tests.fakes.command import run


def on(url: str, work: Any) -> Any:
    async def connected() -> Any:
        conn = await connect(url)
        try:
            return await work(conn)
        finally:
            await conn.close()

    return asyncio.run(connected())


async def a_talk(conn: Connection) -> UUID:
    await conn.execute(f"SET ROLE {Role.OPERATOR.value}")
    user_id: UUID = (await make_user(conn))["id"]
    made = await service.create(conn, user_id=user_id, external_id="support-7")
    for number in range(6):
        fresh = await service.get(conn, conversation_id=made.id, user_id=user_id, lock=True)
        body = said("user", f"Please ship crate {number} to Anna Schmidt in Berlin.")
        await service.add_message(conn, conversation=fresh, body=body, ids=IDS, clock=CLOCK)
    return made.id


@pytest.fixture
def talk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return str(on(database_url, a_talk))


def test_a_conversation_is_listed_and_shown_as_it_was(talk: str, capsys: Any) -> None:
    listed = run(main, capsys, "list", "--json")
    assert [(one["id"], one["external_id"]) for one in listed.json] == [(talk, "support-7")]
    assert listed.err.startswith("1 conversation, ")
    shown = run(main, capsys, "show", talk, "--at", "1", "--json").json[0]
    assert [one["message"]["content"] for one in shown["state"]["messages"]] == [
        "Please ship crate 0 to Anna Schmidt in Berlin."
    ]
    table = run(main, capsys, "show", talk)
    assert "Please ship crate 5 to Anna Schmidt in Berlin." in table.out
    assert table.err.startswith("6 messages, ")


def test_a_conversation_is_replayed_kept_and_condensed(talk: str, capsys: Any) -> None:
    [taken] = run(main, capsys, "snapshot", talk, "--json").json
    assert taken["message_count"] == 6
    [full] = run(main, capsys, "replay", talk, "--json").json
    [short] = run(main, capsys, "replay", talk, "--type", "snapshot", "--json").json
    assert (full["to_sequence"], short["to_sequence"]) == (10, 10)
    assert (full["events_replayed"], short["events_replayed"]) == (10, 1)
    assert full["state"] == short["state"]
    done = run(main, capsys, "compress", talk, "--strategy", "entity_graph")
    assert "Anna Schmidt" in done.out
    assert done.err.startswith("1 compression, ")


def test_an_export_holds_every_event_in_order(talk: str, capsys: Any) -> None:
    told = run(main, capsys, "export", talk)
    head, *events = told.json
    assert head["conversation"]["id"] == talk
    assert [one["event"]["sequence_number"] for one in events] == list(range(1, 10))
    assert msgspec.json.encode(events[0]).startswith(b'{"event":{"id":')


def test_misuse_and_absence_are_one_line(talk: str, capsys: Any) -> None:
    wrong = run(main, capsys, "show", talk, "--at", "soon")
    assert wrong.code == 1
    assert wrong.out.startswith("at='soon' is no point of a conversation")
    gone = run(main, capsys, "show", "01980000-0000-7000-8000-000000000000")
    assert (gone.code, gone.out) == (
        1, "there is no conversation 01980000-0000-7000-8000-000000000000 of yours\n",
    )  # fmt: skip


def test_the_sweep_says_what_it_did(talk: str, capsys: Any) -> None:
    assert run(main, capsys, "sweep", "--json").json == [{"recorded": 0, "failed": 0, "dropped": 0}]
