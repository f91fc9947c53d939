"""The closed code lists of schema v1 and the tables from a text to its small integer.

In: nothing. Out: currencies (ISO 4217), countries (ISO 3166-1 alpha-2), merchant category codes
and the enumerations of `model/inputs.py`, each as a mapping whose lookup is check and code in one.
Does not know fields or messages.

The lists are frozen with schema v1: adding a code is compatible, taking one away is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from model.inputs import AUTH_RESPONSES, CHANNELS, DIRECTIONS, ENTRY_MODES, EVENT_TYPES

_CURRENCIES: Final = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
    CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP
    GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR
    KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN
    MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
    SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX
    USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD
    XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG
    ANG BGN BYR CUC HRK LTL LVL MRO SLL STD VEF ZMK ZWL
"""
CURRENCIES: Final = frozenset(_CURRENCIES.split())
"""ISO 4217, then (last line) codes withdrawn since 2013, which recordings still hold."""

_COUNTRIES: Final = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
    LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
    SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    XK
"""
COUNTRIES: Final = frozenset(_COUNTRIES.split())
"""ISO 3166-1 alpha-2, and XK (Kosovo), which the card schemes use."""


def country_code(country: str) -> int:
    """The number of a two-letter country in an event word."""
    return 26 * (ord(country[0]) - 65) + ord(country[1]) - 65 + 1


def _numbered(names: tuple[str, ...]) -> Mapping[str | None, int]:
    return {None: 0, **{name: code for code, name in enumerate(names, 1)}}


# None is in every table of an optional field: not given is code 0.
COUNTRY_CODES: Final[Mapping[str | None, int]] = {
    None: 0,
    **{country: country_code(country) for country in sorted(COUNTRIES)},
}
MCC_CODES: Final[Mapping[str | None, int]] = {
    None: 0,
    **{f"{number:04}": number for number in range(10_000)},
}
"""Four digits to the number; "0000" is the same as not given."""

EVENT_TYPE_CODES: Final = _numbered(EVENT_TYPES)
DIRECTION_CODES: Final = _numbered(DIRECTIONS)
CHANNEL_CODES: Final = _numbered(CHANNELS)
ENTRY_MODE_CODES: Final = _numbered(ENTRY_MODES)
AUTH_RESPONSE_CODES: Final = _numbered(AUTH_RESPONSES)
