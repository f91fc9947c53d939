"""The search for card numbers (PANs): the only one there is, for fields, logs and dead letters.

In: bytes. Out: where a card number stands, or that there is none.
Does not know messages or the schema, except the names of the number fields that are exempt.

1. A *sequence* is digits, with up to MAX_GAP spaces or dashes between two of them.
   The digits between separators are its groups.
2. A candidate is a row of whole neighbouring groups with 13 to 19 digits together. One run of 20
   digits is no candidate, and neither is any part of it.
3. A candidate that passes Luhn is a card number, except
   a. the number of a field that holds such numbers by nature, known by the key before it:
      event_time, observed_time, label_time, amount, and the fraction of latitude and longitude;
   b. inside a hash or UUID: 32 or more hexadecimal digits (the dashes of a UUID aside), at least
      one of them a letter. Hashes are digits by chance, one in 200 times long enough;
   c. inside a longer token (`tx-1234567890123452`, `9f1234567890123452c`), where its first digits
      and length are those of no card scheme, or a dash parts it as no card is printed (a group of
      more than 6 digits). One that stands alone needs neither.
4. Luhn from the left: which digits double depends on how many follow, so both sums are kept and
   the one that fits is looked at when a group ends.
5. A row of bytes is searched in strides: a candidate is part of a run of at least 13 digits, spaces
   and dashes, and such a run covers a multiple of 13 places from any start. All else is skipped.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.schema import MAX_AMOUNT_MINOR, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS

MAX_AMOUNT_DIGITS: Final = len(str(MAX_AMOUNT_MINOR))
MIN_PAN: Final = 13
MAX_PAN: Final = 19
MAX_GAP: Final = 3
MAX_PRINTED_GROUP: Final = 6
MIN_HASH: Final = 32
UUID_LENGTH: Final = 36


def _doubled() -> NDArray[np.uint8]:
    return np.array([2 * digit - 9 * (digit > 4) for digit in range(10)], np.uint8)


_DOUBLED: Final = _doubled()
# The key, its closing quote and the colon: what stands before an exempt number.
_EVENT_TIME: Final = np.frombuffer(b'"event_time":', np.uint8)
_OBSERVED_TIME: Final = np.frombuffer(b'"observed_time":', np.uint8)
_LABEL_TIME: Final = np.frombuffer(b'"label_time":', np.uint8)
_AMOUNT: Final = np.frombuffer(b'"amount":', np.uint8)
_LATITUDE: Final = np.frombuffer(b'"latitude":', np.uint8)
_LONGITUDE: Final = np.frombuffer(b'"longitude":', np.uint8)


@njit(cache=True)
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@njit(cache=True)
def _is_hex(byte: int) -> bool:
    return 48 <= byte <= 57 or 97 <= byte <= 102 or 65 <= byte <= 70


@njit(cache=True)
def _is_word(byte: int) -> bool:
    return 48 <= byte <= 57 or 97 <= byte <= 122 or 65 <= byte <= 90


@njit(cache=True)
def _follows(data: NDArray[np.uint8], low: int, at: int, key: NDArray[np.uint8]) -> bool:
    """Does `key` (with its colon), then only white space, stand before `at`?"""
    while at > low and data[at - 1] in (9, 10, 13, 32):
        at -= 1
    j = len(key) - 1
    while j >= 0:
        if at <= low:
            return False
        at -= 1
        if data[at] != key[j]:
            # White space may stand between the closing quote and the colon.
            if j == len(key) - 2 and data[at] in (9, 10, 13, 32):
                continue
            return False
        j -= 1
    return True


@njit(cache=True)
def _exempt_number(data: NDArray[np.uint8], low: int, start: int, stop: int, high: int) -> bool:
    """Step 3a, for the single group [start, stop)."""
    if start > low and data[start - 1] == 46:
        at = start - 1
        while at > low and start - at < 5 and _is_digit(data[at - 1]):
            at -= 1
        if at > low and data[at - 1] == 45:
            at -= 1
        return _follows(data, low, at, _LATITUDE) or _follows(data, low, at, _LONGITUDE)
    if stop < high and (data[stop] == 46 or _is_word(data[stop])):
        return False  # a fraction, an exponent or a word follows: no whole number
    length = stop - start
    if length > MAX_AMOUNT_DIGITS:
        return False
    if _follows(data, low, start, _AMOUNT):
        return True
    number = 0
    for i in range(start, stop):
        number = 10 * number + data[i] - 48
    return MIN_EVENT_TIME_MS <= number <= MAX_EVENT_TIME_MS and (
        _follows(data, low, start, _EVENT_TIME)
        or _follows(data, low, start, _OBSERVED_TIME)
        or _follows(data, low, start, _LABEL_TIME)
    )


@njit(cache=True)
def _hexadecimal(data: NDArray[np.uint8], start: int, stop: int, dashes: bool) -> bool:
    """Are these hexadecimal digits, a letter among them, with the dashes of a UUID or with none?"""
    letters = False
    for i in range(start, stop):
        dash = dashes and i - start in (8, 13, 18, 23)
        if dash != (data[i] == 45) or not (dash or _is_hex(data[i])):
            return False
        letters = letters or data[i] > 57
    return letters


@njit(cache=True)
def _in_hash(data: NDArray[np.uint8], low: int, start: int, stop: int, high: int) -> bool:
    """Step 3b: is [start, stop) inside one hash or UUID?"""
    a, b = start, stop
    while a > low and (_is_word(data[a - 1]) or data[a - 1] == 45):
        a -= 1
    while b < high and (_is_word(data[b]) or data[b] == 45):
        b += 1
    if b - a == UUID_LENGTH and _hexadecimal(data, a, b, True):
        return True
    a, b = start, stop  # a hash has no dashes: take the word around the candidate
    while a > low and _is_word(data[a - 1]):
        a -= 1
    while b < high and _is_word(data[b]):
        b += 1
    return b - a >= MIN_HASH and _hexadecimal(data, a, b, False)


@njit(cache=True)
def _stands_alone(data: NDArray[np.uint8], low: int, start: int, stop: int, high: int) -> bool:
    """Does [start, stop) neither go on a token (after a letter, digit, dash, dot or underscore)
    nor a token go on after it?"""
    if start > low and (_is_word(data[start - 1]) or data[start - 1] in (45, 46, 95)):
        return False
    return stop == high or not (_is_word(data[stop]) or data[stop] in (45, 95))


@njit(cache=True)
def _of_a_scheme(data: NDArray[np.uint8], start: int, digits: int) -> bool:
    """Step 3c: Diners 30, 36, 38, 39; American Express 34, 37; all others 2 to 6, 16 to 19 long."""
    first, second, at = data[start] - 48, 0, start + 1
    while not _is_digit(data[at]):
        at += 1
    second = data[at] - 48
    if digits == 14:
        return first == 3 and second in (0, 6, 8, 9)
    if digits == 15:
        return first == 3 and second in (4, 7)
    return digits >= 16 and 2 <= first <= 6


@njit(cache=True)
def _find_in_sequence(
    data: NDArray[np.uint8], low: int, start: int, stop: int, high: int
) -> tuple[int, int]:
    """The first card number in the sequence [start, stop), else (-1, -1)."""
    first = start
    while first < stop:
        even, odd, digits = 0, 0, 0  # sums with the last digit single, with it doubled
        group, longest, at = 0, 0, first
        while at < stop and digits <= MAX_PAN:
            if _is_digit(data[at]):
                digit = data[at] - 48
                even, odd = odd + digit, even + _DOUBLED[digit]
                digits += 1
                group += 1
                ends = at + 1 == stop or not _is_digit(data[at + 1])
                if ends and MIN_PAN <= digits <= MAX_PAN and even % 10 == 0:
                    single = at + 1 - first == digits
                    printed = single or max(group, longest) <= MAX_PRINTED_GROUP
                    if (
                        (
                            _stands_alone(data, low, first, at + 1, high)
                            or (printed and _of_a_scheme(data, first, digits))
                        )
                        and not (single and _exempt_number(data, low, first, at + 1, high))
                        and not _in_hash(data, low, first, at + 1, high)
                    ):
                        return first, at + 1
            else:
                longest, group = max(group, longest), 0
            at += 1
        while first < stop and _is_digit(data[first]):
            first += 1
        while first < stop and not _is_digit(data[first]):
            first += 1
    return -1, -1


@njit(cache=True)
def _sequence_end(data: NDArray[np.uint8], start: int, high: int) -> tuple[int, int]:
    """The end of the sequence that begins at the digit `start`, and its digits."""
    stop, digits, gap, at = start, 0, 0, start
    while at < high:
        if _is_digit(data[at]):
            digits += 1
            gap = 0
            stop = at + 1
        elif data[at] == 32 or data[at] == 45:
            gap += 1
            if gap > MAX_GAP:
                break
        else:
            break
        at += 1
    return stop, digits


@njit(cache=True)
def next_pan(
    data: NDArray[np.uint8], low: int, start: int, stop: int, high: int
) -> tuple[int, int]:
    """The first card number that begins in [start, stop), else (-1, -1).

    `start` must not be inside a sequence. [low, high) is the text to which it belongs.
    """
    at = start
    while at < stop:
        if not _is_digit(data[at]):
            at += 1
            continue
        end, digits = _sequence_end(data, at, high)
        if digits >= MIN_PAN:
            found, last = _find_in_sequence(data, low, at, end, high)
            if found >= 0:
                return found, last
        at = end
    return -1, -1


@njit(cache=True)
def _in_run(byte: int) -> bool:
    return 48 <= byte <= 57 or byte == 32 or byte == 45


@njit(cache=True)
def holds_pan(data: NDArray[np.uint8], low: int, high: int) -> bool:
    """Is there a card number in data[low:high]? Step 5."""
    at = low + MIN_PAN - 1
    while at < high:
        if not _in_run(data[at]):
            at += MIN_PAN
            continue
        start, stop = at, at + 1
        while start > low and _in_run(data[start - 1]):
            start -= 1
        while stop < high and _in_run(data[stop]):
            stop += 1
        if stop - start >= MIN_PAN and next_pan(data, low, start, stop, high)[0] >= 0:
            return True
        at = stop + MIN_PAN
    return False
