"""`helix prices`, `budgets`, `usage` and `reprice`, run as the shell runs them."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from helix.core.ids import uuid7
from helix.ledger import cli, cli_budgets, cli_reprice, cli_usage
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


# ---- budgets, usage, repricing


@pytest.fixture
def spent(database_url: str) -> str:
    """A user who spent 0.30 dollars on three calls in November; return the address."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        user_id = uuid4()
        conn.execute(
            "INSERT INTO users (id, email, role, password_hash)"
            " VALUES (%s, 'ada@x.org', 'user', '!')",
            (user_id,),
        )
        for day in (3, 3, 4):
            at = datetime(2026, 11, day, 12, tzinfo=UTC)
            request_id = uuid7(int(at.timestamp() * 1_000))
            conn.execute(
                "INSERT INTO llm_token_usage (id, timestamp, user_id, provider_name, model,"
                " request_id, response_id, input_tokens, output_tokens, cost_usd)"
                " VALUES (%s, %s, %s, 'up', 'o3', %s, %s, 1000, 100, 0.1)",
                (uuid7(int(at.timestamp() * 1_000)), at, user_id, request_id, request_id),
            )
    return "ada@x.org"


NOVEMBER = ("--from", "2026-11-01T00:00Z", "--to", "2026-12-01T00:00Z")


def test_usage_is_summed_up_by_day_and_as_csv(capsys: Capture, spent: str) -> None:
    found = run(cli_usage.main, capsys, *NOVEMBER, "--by", "day,model", "--user", spent, "--json")
    assert [(row["call_count"], row["cost_usd"]) for row in found.json] == [
        (2, "0.200000000000"),
        (1, "0.100000000000"),
    ]
    table = run(cli_usage.main, capsys, *NOVEMBER, "--user", spent)
    assert "3 calls, 0.3 USD" in table.err
    lines = run(cli_usage.main, capsys, *NOVEMBER, "--csv").out.splitlines()
    assert lines[0].startswith("model,")
    assert lines[1].startswith("o3,3,")


@pytest.mark.parametrize(
    "args", [("--by", "moon"), ("--from", "yesterday"), ("--user", "nobody@x.org")]
)
def test_question_that_cannot_be_answered_is_refused(
    capsys: Capture, args: tuple[str, ...]
) -> None:
    refused = run(cli_usage.main, capsys, *args)
    assert refused.code == (1 if "--user" in args else 2)
    assert len(refused.out.splitlines()) == 1  # the error, in one line


def test_budget_is_set_shown_changed_and_removed(capsys: Capture, spent: str) -> None:
    made = run(
        cli_budgets.main, capsys, "set", "5.25", "--user", spent, "--period", "total", "--json"
    )
    (budget,) = made.json
    assert (budget["scope"], budget["period"]) == ("user", "total")
    assert (budget["limit_usd"], budget["settled_usd"]) == ("5.250000000000", "0.300000000000")
    again = run(cli_budgets.main, capsys, "set", "1", "--user", spent, "--period", "total")
    assert again.code == 1  # there is one
    changed = run(cli_budgets.main, capsys, "change", budget["id"], "--limit", "1", "--json").json
    assert changed[0]["left_usd"] == "0.700000000000"
    plan = run(cli_budgets.main, capsys, "remove", budget["id"])
    assert "would remove" in plan.err
    assert [one["id"] for one in run(cli_budgets.main, capsys, "list", "--json").json] == [
        budget["id"]
    ]
    assert "removed" in run(cli_budgets.main, capsys, "remove", budget["id"], "--yes").err
    assert run(cli_budgets.main, capsys, "list", "--json").json == []


@pytest.mark.parametrize(
    "args",
    [
        ("set", "free"),
        ("set", "-1"),
        ("set", "1", "--period", "year"),
        ("set", "1", "--agent", "a", "--key", str(uuid4())),
        ("change", "x", "--limit", "1"),
    ],
)
def test_budget_that_makes_no_sense_is_misuse(capsys: Capture, args: tuple[str, ...]) -> None:
    assert run(cli_budgets.main, capsys, *args).code == 2


@pytest.mark.parametrize(
    "args",
    [
        ("change", str(uuid4()), "--limit", "1"),
        ("remove", str(uuid4()), "--yes"),
        ("set", "1", "--user", "nobody@x.org"),
    ],
)
def test_budget_of_nobody_is_not_found(capsys: Capture, args: tuple[str, ...]) -> None:
    assert run(cli_budgets.main, capsys, *args).code == 1


def test_repricing_shows_the_difference_and_writes_nothing(
    capsys: Capture, spent: str, database_url: str
) -> None:
    args = ("set", "up/o3", "--input", "50", "--output", "500", "--effective", "2026-11-04T00:00Z")
    assert prices(capsys, *args).code == 0
    month = ("--month", "2026-11", "--model", "o3")
    with psycopg.connect(database_url, autocommit=True) as conn:
        book = "SELECT count(*), sum(cost_usd), count(DISTINCT xmin::text) FROM llm_token_usage"
        before = conn.execute(book).fetchone()
        shown = run(cli_reprice.main, capsys, *month, "--dry-run", "--json")
        refused = run(cli_reprice.main, capsys, *month)
        assert conn.execute(book).fetchone() == before
    (row,) = shown.json
    assert (row["call_count"], row["cost_usd"]) == (3, "0.300000000000")
    assert refused.code == 2
    assert "say --dry-run" in refused.out
    assert run(cli_reprice.main, capsys, "--month", "November", "--dry-run").code == 2
