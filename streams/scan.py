"""The members and the depth of one message, which a parser does not tell.

In: the raw bytes of a JSON message. Out: how many members all its objects have, repeated ones
included, and how deep it nests. Does not know the schema.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def outline(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Members of all objects and depth of one message, exact if it is JSON."""
    inside, members, level, deepest, at = False, 0, 0, 0, 0
    while at < len(data):
        byte = data[at]
        if byte == 34:
            inside = not inside
        elif inside:
            at += byte == 92  # what follows a backslash in a string never ends it
        elif byte == 58:
            members += 1
        elif byte == 123 or byte == 91:
            level += 1
            deepest = max(deepest, level)
        elif byte == 125 or byte == 93:
            level -= 1
        at += 1
    return members, deepest
