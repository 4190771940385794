"""Costs are exact, and by the price that held at the time."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.ledger.policy import charge, price_book
from helix.ledger.types import TOKENS_MAX, Price, Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
usd = st.decimals(0, Decimal("999999.999999"), places=6)
tokens = st.integers(0, TOKENS_MAX)


def price(days: int = 0, model: str = "m", **fields: object) -> Price:
    given: dict[str, object] = {
        "id": uuid4(),
        "model": model,
        "effective_date": START + timedelta(days=days),
        "input_per_million": Decimal(3),
        "output_per_million": Decimal(6),
        **fields,
    }
    return Price(**given)  # type: ignore[arg-type]


@given(
    prompt=tokens,
    completion=tokens,
    parts=st.tuples(tokens, tokens),
    main=st.tuples(usd, usd),
    special=st.tuples(st.none() | usd, st.none() | usd, st.none() | usd),
)
def test_cost_is_exact_and_fits_its_column(
    prompt: int,
    completion: int,
    parts: tuple[int, int],
    main: tuple[Decimal, Decimal],
    special: tuple[Decimal | None, Decimal | None, Decimal | None],
) -> None:
    cached, reasoning = min(parts[0], prompt), min(parts[1], completion)
    cached_usd, reasoning_usd, per_request = special
    made = charge(
        Usage(prompt, completion, cached, reasoning),
        price(
            input_per_million=main[0],
            output_per_million=main[1],
            cached_input_per_million=cached_usd,
            reasoning_per_million=reasoning_usd,
            per_request=per_request,
        ),
    )
    true = (
        Fraction(main[0]) * (prompt - (cached if cached_usd is not None else 0))
        + Fraction(main[1]) * (completion - (reasoning if reasoning_usd is not None else 0))
        + Fraction(cached_usd or 0) * cached
        + Fraction(reasoning_usd or 0) * reasoning
    ) / 1_000_000 + Fraction(per_request or 0)
    assert Fraction(made.cost_usd) == true
    exponent = made.cost_usd.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -12
    assert made.cost_usd < 10**8


@pytest.mark.parametrize(
    ("usage", "fields", "cost"),
    [
        (Usage(11, 7), {}, "0.000075"),
        (Usage(1, 0), {"input_per_million": Decimal("0.000001")}, "0.000000000001"),
        (Usage(1_000_000, 0, cached=400_000), {}, "3"),
        (
            Usage(1_000_000, 0, cached=400_000),
            {"cached_input_per_million": Decimal("0.3")},
            "1.92",
        ),
        (
            Usage(0, 1_000_000, reasoning=500_000),
            {"reasoning_per_million": Decimal(12)},
            "9",
        ),
        (Usage(0, 0), {"per_request": Decimal("0.01")}, "0.01"),
    ],
)
def test_cost_of_an_answer(usage: Usage, fields: dict[str, Decimal], cost: str) -> None:
    assert charge(usage, price(**fields)).cost_usd == Decimal(cost)


def test_answer_without_a_price_costs_nothing_and_says_so() -> None:
    made = charge(Usage(5, 5), None)
    assert (made.cost_usd, made.pricing_id) == (0, None)


@given(days=st.lists(st.integers(0, 1_000), unique=True, max_size=20), at=st.integers(-10, 1_010))
def test_price_is_the_newest_that_began(days: list[int], at: int) -> None:
    book = price_book([price(day) for day in days])
    found = book.price_at(["m"], START + timedelta(days=at))
    began = [day for day in days if day <= at]
    expected = START + timedelta(days=max(began)) if began else None
    assert (None if found is None else found.effective_date) == expected


def test_first_name_that_has_a_price_at_that_time_counts() -> None:
    book = price_book([price(0, "m"), price(10, "p/m")])
    early = book.price_at(["p/m", "m"], START + timedelta(days=5))
    late = book.price_at(["p/m", "m"], START + timedelta(days=15))
    assert early is not None
    assert late is not None
    assert (early.model, late.model) == ("m", "p/m")
    assert book.price_at(["x"], START) is None
