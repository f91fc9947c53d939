"""A refused message to its dead letter: the original bytes, and headers that say why.

In: a batch and one of its rejects. Out: key, value and headers, all but the header `time`, which
only the moment of publishing knows. Does not know how a message was refused, nor who publishes.

The value is the original, byte for byte, except
- empty, without key and without the sender's headers, where a card number was found or the account
  was erased (`schema.BLANKED`), or where a message that was never examined holds a card number;
- its first MAX_MESSAGE_BYTES bytes where it was too large: the whole could be too large again.
The sender's headers come first and ours after them, so that in a mapping by name ours stand.
"""

from __future__ import annotations

from typing import Final

from streams.batch import Batch, Headers
from streams.columns import Rejected
from streams.entry import DeadRow
from streams.schema import BLANKED, MAX_ID_LENGTH, MAX_MESSAGE_BYTES, SCHEMA_VERSION, Reject
from streams.validate import check_headers, pan_in_message

MAX_KEY_BYTES: Final = 4 * MAX_ID_LENGTH
"""No account id is longer in UTF-8. A longer key is left out; the source's place finds it."""

UNSEARCHED: Final = (Reject.QUARANTINED, Reject.ID_CONFLICT)
"""Reasons that do not come from `validate.examine`: nobody has looked for card numbers in the whole
message, its headers included."""


def _senders(headers: Headers) -> Headers:
    if check_headers(headers) is not None:
        return ()
    return tuple((name, content or b"") for name, content in headers)


def dead_letter(batch: Batch, rejected: Rejected) -> DeadRow:
    """The dead letter of one reject."""
    row, offset = rejected.row, int(batch.offsets[rejected.row])
    key, value = batch.keys[row], batch.values[row]
    sent = () if batch.headers is None else batch.headers[row]
    blanked = rejected.reason in BLANKED or (
        rejected.reason in UNSEARCHED and pan_in_message(value, key, sent)
    )
    headers = () if blanked else _senders(sent)
    return DeadRow(
        offset=offset,
        key=None if blanked or key is None or len(key) > MAX_KEY_BYTES else key,
        value=b"" if blanked else value if value is None else value[:MAX_MESSAGE_BYTES],
        headers=(
            *headers,
            ("reason", rejected.reason.encode()),
            ("detail", rejected.detail.encode()),
            ("topic", batch.topic.encode()),
            ("partition", b"%d" % batch.partition),
            ("offset", b"%d" % offset),
            ("schema_version", b"%d" % SCHEMA_VERSION),
        ),
    )
