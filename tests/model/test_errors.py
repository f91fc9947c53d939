"""Ctrl-C is found wherever it fell; what is damaged is told with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import data
from model.errors import DatasetError, stoppable
from tests.model import streams_of_words as made


def _hidden() -> None:
    """As a compiled function does it that is just being called: one SystemError behind another."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise SystemError("a function returned a result with an exception set") from stop
    except SystemError as error:
        raise SystemError("CPUDispatcher returned a result with an exception set") from error


def test_ctrl_c_that_a_compiled_function_hid_is_one_again() -> None:
    with pytest.raises(KeyboardInterrupt), stoppable():
        _hidden()


def test_any_other_error_stays_as_it_is() -> None:
    with pytest.raises(SystemError, match="a defect"), stoppable():
        raise SystemError("a defect")
    with pytest.raises(ValueError, match="odd"), stoppable():
        raise ValueError("odd")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "shorter", "manifest"])
def test_a_damaged_training_set_says_what_to_do(damage: str, tmp_path: Path) -> None:
    data.write(made.dataset(3, 40), tmp_path)
    path = tmp_path / (data.MANIFEST if damage == "manifest" else "label_time.npy")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= damage == "flip"
    path.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "shorter":
        np.save(path, np.zeros(7, np.int64))
    with pytest.raises(DatasetError, match="write it again with `fraudstream dataset`") as failure:
        data.read(tmp_path, check=True)
    assert damage == "manifest" or path.name in str(failure.value)
