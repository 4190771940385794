"""`helix prices`, run as the shell runs it."""

from pathlib import Path

import pytest

from helix.ledger import cli
from tests.fakes.command import Ran, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path))


def prices(capsys: Capture, *args: str) -> Ran:
    return run(cli.main, capsys, *args)


def test_seeded_prices_are_listed(capsys: Capture) -> None:
    listed = prices(capsys, "list", "--json")
    by_model = {price["model"]: price for price in listed.json}
    assert by_model["gpt-4"]["input_cost_per_million"] == "30.000000"
    assert "gpt-4" in prices(capsys, "list").out


def test_new_price_follows_the_old_one_which_stays(capsys: Capture) -> None:
    made = prices(
        capsys, "set", "gpt-4", "--input", "2.5", "--output", "10", "--by", "ada",
        "--notes", "new contract", "--json",
    )  # fmt: skip
    assert made.code == 0
    assert made.json[0]["updated_by"] == "ada"
    assert made.json[0]["notes"] == "new contract"
    now = prices(capsys, "list", "--model", "gpt-4", "--json").json
    every = prices(capsys, "list", "--model", "gpt-4", "--all", "--json").json
    assert [price["input_cost_per_million"] for price in now] == ["2.500000"]
    assert [price["input_cost_per_million"] for price in every] == ["30.000000", "2.500000"]


def test_same_moment_is_refused(capsys: Capture) -> None:
    args = ("set", "m", "--input", "1", "--output", "1", "--effective", "2030-01-01T00:00:00Z")
    assert prices(capsys, *args).code == 0
    assert prices(capsys, *args).code == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--input", "free"),
        ("--input", "-1"),
        ("--input", "nan"),
        ("--input", "inf"),
        ("--input", "1000000"),
        ("--input", "0.0000001"),
        ("--effective", "yesterday"),
    ],
)
def test_amount_or_time_that_is_none_is_misuse(capsys: Capture, option: str, value: str) -> None:
    given = {"--input": "1", "--output": "1", option: value}
    ran = prices(capsys, "set", "m", *(word for pair in given.items() for word in pair))
    assert ran.code == 2
