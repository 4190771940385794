"""Exact money."""

from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.money import cost_of_tokens

PRICES = st.decimals(min_value=0, max_value=999_999, places=6)
TOKENS = st.integers(min_value=0, max_value=2**31 - 1)


@given(st.lists(TOKENS, max_size=8), PRICES)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(tokens: list[int], price: Decimal) -> None:
    parts = sum((cost_of_tokens(each, price) for each in tokens), Decimal(0))
    assert parts == cost_of_tokens(sum(tokens), price)


@given(TOKENS, PRICES)
def test_a_cost_fits_twelve_decimals_exactly(tokens: int, price: Decimal) -> None:
    cost = cost_of_tokens(tokens, price)
    assert cost == cost.quantize(Decimal("1e-12"))
    assert cost * 1_000_000 == tokens * price


def test_one_token_at_half_a_dollar_a_million_is_half_a_micro_dollar() -> None:
    assert cost_of_tokens(1, Decimal("0.50")) == Decimal("0.0000005")


def test_a_cost_that_would_have_to_round_raises() -> None:
    with pytest.raises(Inexact):
        cost_of_tokens(10**20 + 1, Decimal("1.0000000000000000000000001"))
