"""A pretrained backbone as a bundle.

In: a `Pretrained`. Out: a bundle whose fraud head is untrained, with the field heads beside. Does
not know labels, nor what the heads are good for (`model/unlabelled.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.bundle import Bundle, weights_of
from model.calibrate import IDENTITY
from model.data import Dataset, now
from model.finetune import golden_rows, logits_of
from model.pretrain import Pretrained
from model.score import calibrate


def to_bundle(
    dataset: Dataset,
    found: Pretrained,
    name: str,
    groups: Sequence[str],
    learnt_until: int | None = None,
) -> Bundle:
    """Pack it; its scores mean nothing before a fine-tuning. It has seen events up to
    `learnt_until`, ms; all of them by default."""
    rows = np.arange(len(dataset))[:: max(len(dataset) // 4_096, 1)]
    golden = golden_rows(dataset, rows, logits_of(found.model, dataset, rows))
    bundle = Bundle(
        name=name,
        shape=found.model.shape,
        weights=weights_of(found.model),
        names=dataset.names,
        feature_digest=dataset.feature_digest,
        groups=tuple(groups),
        usual=np.median(np.asarray(dataset.features[rows]), axis=0).astype(np.float32),
        calibration=IDENTITY,
        golden=golden,
        about={
            "nats": dict(found.nats),
            "card": "Pretrained only; scores are not probabilities.",
            "data_digest": dataset.digest,
            "learnt_until": now(dataset) if learnt_until is None else learnt_until,
        },
        extra={f"heads.{k}": v.detach().numpy() for k, v in found.heads.state_dict().items()},
    )
    return with_golden_scores(bundle)


def with_golden_scores(bundle: Bundle) -> Bundle:
    """The bundle with the scores of its golden rows, by the serving kernel."""
    from dataclasses import replace

    from model.fold import fold
    from model.inputs import HISTORY
    from model.kernel import kernel_of

    g = bundle.golden
    assert g is not None
    folded = fold(bundle.model())
    out = np.empty(len(g), np.float32)
    none = np.zeros((0, HISTORY), np.float32)
    kernel_of(folded)(g.current, g.history, g.length, g.features, folded, out, none)
    return replace(bundle, golden_scores=calibrate(out, bundle.calibration))
