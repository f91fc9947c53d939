"""Amounts in words."""

from __future__ import annotations

import pytest

from streams.codes import CURRENCIES
from streams.money import amount_text, exponent


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (123_450, "EUR", "EUR 1,234.50"),
        (5, "USD", "USD 0.05"),
        (0, "GBP", "GBP 0.00"),
        (1_234, "JPY", "JPY 1,234"),
        (1_234, "KWD", "KWD 1.234"),
        (12_345, "CLF", "CLF 1.2345"),
        (10**15 - 1, "EUR", "EUR 9,999,999,999,999.99"),
        (-250, "EUR", "EUR -2.50"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(minor: int, currency: str, text: str) -> None:
    assert amount_text(minor, currency) == text


def test_most_currencies_have_hundredths() -> None:
    assert sum(exponent(currency) == 2 for currency in CURRENCIES) > 130
    assert {exponent(currency) for currency in CURRENCIES} == {0, 2, 3, 4}
