"""The columns of accepted messages: every bit of the event words, and what stands beside them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import xxhash

from model import inputs
from streams.codes import country_code
from streams.columns import NO_POSITION
from tests.messages import FULL, SMALL, decode_all, decode_one, message


def field(word: int, shift: int, mask: int) -> int:
    return (word >> shift) & mask


def test_words_hold_what_model_inputs_says() -> None:
    value = message()
    columns = decode_one(value)
    w0, w1, w2, w3 = (int(word) for word in columns.words[0])
    assert w0 >> inputs.TIME_SHIFT == FULL["event_time"]
    assert field(w0, inputs.TYPE_SHIFT, inputs.TYPE_MASK) == 1
    assert field(w0, inputs.DIRECTION_SHIFT, inputs.DIRECTION_MASK) == 1
    assert field(w0, inputs.CHANNEL_SHIFT, inputs.CHANNEL_MASK) == 1
    assert field(w0, inputs.ENTRY_SHIFT, inputs.ENTRY_MASK) == 1
    assert field(w0, inputs.AUTH_SHIFT, inputs.AUTH_MASK) == 1
    assert field(w0, inputs.COUNTS_SHIFT, 1) == 1
    assert w0 & 0x1F == 0
    assert w1 >> inputs.AMOUNT_SHIFT == FULL["amount"]
    assert w1 & inputs.MCC_MASK == 5411
    assert w2 >> inputs.ID_SHIFT == xxhash.xxh3_64_intdigest(b"tx-1") >> 16
    assert w2 & inputs.CONTENT_MASK == xxhash.xxh3_64_intdigest(value) >> 48
    assert w3 >> inputs.PLACE_SHIFT == xxhash.xxh3_64_intdigest(b"m-1") >> 32
    assert field(w3, inputs.COUNTRY_SHIFT, inputs.COUNTRY_MASK) == country_code("FR")
    assert w3 & inputs.DEVICE_MASK == xxhash.xxh3_64_intdigest(b"d-1") >> 42


def test_columns_beside_the_words() -> None:
    columns = decode_one(message())
    assert columns.account_id == ["acct-1"]
    assert columns.transaction_id == ["tx-1"]
    assert columns.tenant_id == ["bank-1"]
    assert columns.currency == ["EUR"]
    assert columns.event_time.tolist() == [FULL["event_time"]]
    assert columns.amount.tolist() == [FULL["amount"]]
    assert columns.merchant.tolist() == [xxhash.xxh3_64_intdigest(b"m-1")]
    assert columns.terminal.tolist() == [xxhash.xxh3_64_intdigest(b"t-1")]
    assert columns.billing_country.tolist() == [country_code("DE")]
    assert columns.ip_country.tolist() == [country_code("GB")]
    assert columns.latitude.tolist() == [48_858_370]
    assert columns.longitude.tolist() == [2_294_481]


def test_what_is_not_given_is_zero() -> None:
    columns = decode_one(orjson.dumps(SMALL))
    w0, w1, _, w3 = (int(word) for word in columns.words[0])
    assert w0 == SMALL["event_time"] << inputs.TIME_SHIFT | 1 << inputs.COUNTS_SHIFT
    assert w1 == SMALL["amount"] << inputs.AMOUNT_SHIFT
    assert w3 == 0
    assert columns.merchant[0] == columns.terminal[0] == 0
    assert columns.latitude[0] == columns.longitude[0] == NO_POSITION
    assert columns.tenant_id == [None]


def test_the_place_is_merchant_then_terminal_then_counterparty() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"merchant_id": None},
        {"merchant_id": None, "terminal_id": ...},
        {"merchant_id": ..., "terminal_id": ..., "counterparty_account_id": None},
    ]
    columns = decode_all([message(**each) for each in changes], [b"acct-1"] * 4)
    places = [int(word) >> inputs.PLACE_SHIFT for word in columns.words[:, 3]]
    tops = [xxhash.xxh3_64_intdigest(name) >> 32 for name in (b"m-1", b"t-1", b"acct-2")]
    assert places == [*tops, 0]


@pytest.mark.parametrize("event_type", [None, *inputs.EVENT_TYPES])
@pytest.mark.parametrize("direction", [None, *inputs.DIRECTIONS])
def test_counts_is_money_that_leaves(event_type: str | None, direction: str | None) -> None:
    columns = decode_one(message(event_type=event_type, direction=direction))
    leaves = event_type in (None, "authorization", "capture", "transfer") and direction != "credit"
    assert field(int(columns.words[0, 0]), inputs.COUNTS_SHIFT, 1) == leaves


def test_codes_of_every_enumeration() -> None:
    lists = {
        "event_type": (inputs.EVENT_TYPES, inputs.TYPE_SHIFT, inputs.TYPE_MASK),
        "direction": (inputs.DIRECTIONS, inputs.DIRECTION_SHIFT, inputs.DIRECTION_MASK),
        "channel": (inputs.CHANNELS, inputs.CHANNEL_SHIFT, inputs.CHANNEL_MASK),
        "entry_mode": (inputs.ENTRY_MODES, inputs.ENTRY_SHIFT, inputs.ENTRY_MASK),
        "auth_response": (inputs.AUTH_RESPONSES, inputs.AUTH_SHIFT, inputs.AUTH_MASK),
    }
    for name, (values, shift, mask) in lists.items():
        columns = decode_all(
            [message(**{name: value}) for value in values], [b"acct-1"] * len(values)
        )
        found = [field(int(word), shift, mask) for word in columns.words[:, 0]]
        assert found == list(range(1, len(values) + 1))
    other = decode_one(message(entry_mode="fax"))
    assert field(int(other.words[0, 0]), inputs.ENTRY_SHIFT, 7) == inputs.OTHER_CODE
