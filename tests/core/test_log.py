"""Logs never carry a secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from helix.core.log import configure, get_log, redact


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    configure("debug")
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "secret",
    [
        "hx_live_" + "a1B2" * 8,
        "hx1:0123456789ab:QUJDREVGRw==",
        "sk-proj-abcdefghijklmnop",
        "ghp_abcdefghijklmnop",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_what_is_shaped_like_a_secret_is_cut_out(secret: str) -> None:
    assert redact(f"before {secret} after") == "before [secret] after"


def test_the_password_of_a_url_is_cut_out() -> None:
    assert redact("postgresql://u:hush@h/d") == "postgresql://[secret]@h/d"


def test_an_event_is_one_json_line_with_its_fields(lines: io.StringIO) -> None:
    get_log("helix.test").info("thing_done", thing_id=7, note="a\nb")
    line = json.loads(lines.getvalue())
    assert (line["event"], line["thing_id"], line["level"]) == ("thing_done", 7, "info")
    assert lines.getvalue().count("\n") == 1


def test_a_secret_in_a_traceback_is_cut_out(lines: io.StringIO) -> None:
    key = "hx_live_" + "a1B2" * 8
    get_log("helix.test").error("failed", exc=ValueError(f"bad {key}"), given=key)
    assert key not in lines.getvalue()
    assert "ValueError" in lines.getvalue()
