"""`helix providers`, run as the shell runs it."""

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix.core.crypto import new_key
from helix.providers import cli
from tests.fakes.command import Ran, run
from tests.fakes.openai_upstream import OpenAIUpstream

Capture = pytest.CaptureFixture[str]
KEY = "sk-the-secret-of-a-provider"


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path))
    monkeypatch.setenv("HELIX_SECRET_KEYS", new_key())
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


@pytest.fixture
def upstream() -> Iterator[OpenAIUpstream]:
    """A fake provider in a loop of its own, since commands bring theirs."""
    fake, loop = OpenAIUpstream(), asyncio.new_event_loop()
    loop.run_until_complete(fake.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield fake
    asyncio.run_coroutine_threadsafe(fake.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def providers(capsys: Capture, *args: str) -> Ran:
    return run(cli.main, capsys, *args)


def test_provider_is_asked_for_its_models_when_it_is_added(
    capsys: Capture, upstream: OpenAIUpstream, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    made = providers(
        capsys, "add", "here", "--base-url", upstream.url, "--api-key-file", str(tmp_path / "key")
    )
    assert made.code == 0
    assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"
    shown = providers(capsys, "show", "here", "--json")
    assert shown.json[0]["models"] == ["gpt-4", "tiny"]
    assert shown.json[0]["key"] == "encrypted"
    for ran in (made, shown, providers(capsys, "list"), providers(capsys, "show", "here")):
        assert KEY not in ran.out + ran.err
        assert "hx1:" not in ran.out + ran.err


def test_provider_that_does_not_answer_is_added_with_the_models_given(capsys: Capture) -> None:
    nowhere = "http://127.0.0.1:1/v1"
    assert providers(capsys, "add", "a", "--base-url", nowhere).code == 0
    named = ("--model", "m1", "--model", "m2", "--default-model", "m1", "--priority", "1")
    assert providers(capsys, "add", "b", "--base-url", nowhere, *named).code == 0
    listed = providers(capsys, "list", "--json").json
    assert [(one["name"], one["total_models"], one["key"]) for one in listed] == [
        ("b", 2, "none"),
        ("a", 0, "none"),
    ]
    assert providers(capsys, "add", "b", "--base-url", nowhere, "--model", "x").code == 1


def test_provider_is_disabled_enabled_and_removed_with_a_yes(capsys: Capture) -> None:
    providers(capsys, "add", "a", "--base-url", "http://127.0.0.1:1/v1", "--model", "m")
    assert providers(capsys, "disable", "a").code == 0
    assert not providers(capsys, "list", "--json").json[0]["enabled"]
    assert providers(capsys, "enable", "a").code == 0
    assert providers(capsys, "remove", "a").code == 2
    assert len(providers(capsys, "list", "--json").json) == 1
    assert providers(capsys, "remove", "a", "--yes").code == 0
    assert providers(capsys, "list", "--json").json == []
    assert providers(capsys, "remove", "a", "--yes").code == 1


@pytest.mark.parametrize(
    "args",
    [
        ["add", "A", "--base-url", "http://x/v1"],
        ["add", "a", "--base-url", "x"],
        ["add", "a"],
        ["add", "a", "--base-url", "http://x/v1", "--api-key-file", "/nowhere"],
        ["add", "a", "--base-url", "http://127.0.0.1:1/v1", "--model", "a\x00b"],
    ],
)
def test_misuse_ends_with_2(capsys: Capture, args: list[str]) -> None:
    assert providers(capsys, *args).code == 2
