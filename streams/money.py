"""Amounts as people read them: the currency and its own number of decimals.

In: minor units and an ISO 4217 code. Out: text like "EUR 1,234.50" or "JPY 1,234", and of an amount
whose currency nobody kept "123,450 minor units".
Does not know exchange rates, nor the reader's language.
"""

from __future__ import annotations

from typing import Final

from model.inputs import NO_CURRENCY

DEFAULT_EXPONENT: Final = 2
_WHOLE: Final = (
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF XAU XAG XPT XPD XDR"
)
EXPONENTS: Final = {
    **dict.fromkeys(_WHOLE.split(), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
"""Currencies whose minor unit is not a hundredth."""


def exponent(currency: str) -> int:
    """Decimals of the currency."""
    return EXPONENTS.get(currency, DEFAULT_EXPONENT)


def units(amount_minor: float, currency: str) -> float:
    """Minor units as units of the currency, for a figure or a plot: not exact."""
    found: float = amount_minor / 10 ** exponent(currency)
    return found


def amount_text(amount_minor: int, currency: str) -> str:
    """The amount in the currency's major unit, with all its decimals; exact."""
    if currency == NO_CURRENCY:
        return f"{amount_minor:,} minor units"
    digits = exponent(currency)
    whole, part = divmod(abs(amount_minor), 10**digits)
    sign = "-" if amount_minor < 0 else ""
    decimals = f".{part:0{digits}d}" if digits else ""
    return f"{currency} {sign}{whole:,}{decimals}"
