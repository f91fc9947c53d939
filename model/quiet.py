"""Quiet places, those without a known fraud: what a fit must not learn of them.

In: a training set and the rows to be learnt from. Out: the set with these rows' volumes dealt anew.
Does not know the fit.

How many payments a place has, and of what mean amount, hardly changes from week to week: for a fit
it is half a name. A training set holds some hundred places that went bad before anybody knew, so a
fit learns which sizes were hit, and that is luck: it then ranks the next such frauds worse than
chance would (`model/LOG.md`, 2026-11-28). So in training each row of a quiet place gets the volume,
the mean amount and the share of fraud of another such row, all of one row together. They are then
of the usual kind and say nothing, which is what the model learns about them. Beside known frauds
they stay: two of three payments are something else than two of a thousand. For how long nothing
good has been known of a place stays too: what may have happened since has a cause. A model that
serves sees them all as they are.

Where the size of a place is a reason in itself (new and small merchants, say), this takes it away.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.data import Dataset

PLACES: Final = ("merchant", "terminal")
KNOWN: Final = "30d_frauds"
"""Of a place: frauds known in the longest of the windows; none, and it is quiet."""
SIZES: Final = ("transactions", "mean_amount", "fraud_share")
"""The share of fraud of a quiet place is 0, or unknown where a window holds no payment at all: so
it tells of the size, too."""


def _sizes(names: tuple[str, ...], place: str) -> NDArray[np.intp]:
    """Columns that tell how large a place is."""
    return np.flatnonzero([n.startswith(f"{place}_") and n.endswith(SIZES) for n in names])


def hushed(dataset: Dataset, rows: NDArray[np.bool_], seed: int = 0) -> Dataset:
    """The set with the sizes of quiet places dealt anew among `rows` (bool [n]).

    Holds a copy of the features in memory, unless there are no such columns. The digest is that of
    the set as it was: what is dealt follows from it, the rows and the seed.
    """
    told = [place for place in PLACES if f"{place}_{KNOWN}" in dataset.names]
    if not told:
        return dataset
    rng = np.random.default_rng(seed)
    features = np.array(dataset.features, np.float32)
    for place in told:
        sizes = _sizes(dataset.names, place)
        known = features[:, dataset.names.index(f"{place}_{KNOWN}")]
        quiet = np.flatnonzero(rows & (known == 0))
        features[np.ix_(quiet, sizes)] = features[np.ix_(rng.permutation(quiet), sizes)]
    return replace(dataset, features=features)
