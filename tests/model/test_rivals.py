"""The models to beat: what their scores are read from."""

from __future__ import annotations

import numpy as np

from model.data import Dataset
from model.finetune import logits_of
from model.loop import Source
from model.rivals import logits_by_chunks
from model.transformer import Transformer


def test_every_row_is_scored_with_its_own_past(data: Dataset, model: Transformer) -> None:
    """The last one, too, which fills the last chunk up."""
    rows = np.arange(len(data))
    assert len(rows) % 64
    found = logits_by_chunks(model, Source(data, model.knots.numpy()), rows)
    assert np.allclose(found, logits_of(model, data, rows), atol=1e-4)
