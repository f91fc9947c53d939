"""What the model's verbs ask of their flags before they do any work.

In: values of flags. Out: the same, checked. Does not know any verb.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from model.costs import Costs
    from model.data import Dataset

MAX_DAYS = 36_500
"""A century: longer than any stream, and its milliseconds fit every column of times."""
LATE = 0.05
"""Share of the known frauds that may become known later than events count as legitimate: above it
that is told."""


def days(value: float | None) -> float | None:
    """A number of days, 0 or more, that any calendar holds."""
    if value is not None and not 0 <= value <= MAX_DAYS:
        raise typer.BadParameter(f"give a number of days, 0 to {MAX_DAYS:,}")
    return value


def limits(ceiling: list[str] | None) -> dict[str, float]:
    """`name=value` each, of what an evaluation measures and more is better of."""
    from model.metrics import GAINS

    found = _named(ceiling, "--ceiling", "ap=0.785")
    if odd := sorted(set(found) - set(GAINS)):
        raise typer.BadParameter(
            f"nothing measures {', '.join(odd)}; there are {', '.join(GAINS)}",
            param_hint="--ceiling",
        )
    return found


def costs(told: list[str] | None) -> Costs | None:
    """`name=value` each, of the entries of a cost matrix: all of them, or none."""
    from model.costs import Costs

    found = _named(told, "--cost", "missed=120")
    if not found:
        return None
    try:
        return Costs(**found)
    except (TypeError, ValueError):
        raise typer.BadParameter(
            "give review, block and missed, each above 0: --cost review=4 --cost block=25"
            " --cost missed=120",
            param_hint="--cost",
        ) from None


def _named(told: list[str] | None, flag: str, example: str) -> dict[str, float]:
    """Numbers by name, of a flag that is repeated."""
    try:
        return {name: float(value) for name, value in (one.split("=") for one in told or ())}
    except ValueError:
        raise typer.BadParameter(f"write {example}", param_hint=flag) from None


def page(out: Path | None) -> None:
    """A file that can be written when all is done."""
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{out} is no file in a folder that exists", param_hint="--out")


def device(name: str) -> str:
    """A device that training knows, and that is here."""
    if name not in ("auto", "cpu"):  # torch takes seconds to import: only where it must be asked
        from model import processes

        processes.device(name)
    return name


def signing_key(path: Path | None) -> bytes | None:
    """An Ed25519 seed."""
    return _key(path, "--key")


def public_key(path: Path | None) -> bytes | None:
    """An Ed25519 public key."""
    return _key(path, "--public-key")


def _key(path: Path | None, flag: str) -> bytes | None:
    from model.signing import KEY_BYTES

    if path is None:
        return None
    if not path.is_file() or path.stat().st_size != KEY_BYTES:
        raise typer.BadParameter(f"{path} is no file of {KEY_BYTES} bytes", param_hint=flag)
    return path.read_bytes()


def has_trees() -> bool:
    """Whether trees can teach here; where not, that is said."""
    found = find_spec("lightgbm") is not None
    if not found:
        tell("no teacher: LightGBM is not installed (extra `train`)")
    return found


def report_parts(compare: bool, plots: bool) -> None:
    """What an evaluation takes from the extra `train`. Raises ConfigError where it is missing."""
    from streams.errors import ConfigError

    parts = {"lightgbm": compare, "sklearn": compare, "matplotlib": plots}
    missing = [name for name, asked in parts.items() if asked and find_spec(name) is None]
    if missing:
        less = {"without --out" if name == "matplotlib" else "--no-compare" for name in missing}
        raise ConfigError(
            f"not installed: {', '.join(missing)}",
            remedy=f"install the extra `train`, or evaluate {' '.join(sorted(less))}",
        )


def whole_data(folder: Path, maturity_days: float | None = None) -> Dataset:
    """A training set, every byte as it was written; events that nobody reported become legitimate
    after the days given: never, where labels are not asked for.

    Says that it reads: only then can a plan be told. Says where the days are too few.
    """
    from dataclasses import replace

    from model import data
    from streams.schema import DAY_MS

    tell(f"reading {folder}")
    found = data.read(folder, check=True)
    if maturity_days is None:
        return found
    _tell_late(found, maturity_days)
    wait = int(maturity_days * DAY_MS)
    label, label_time = data.mature(found.label, found.label_time, found.time, wait)
    return replace(found, label=label, label_time=label_time)


def _tell_late(dataset: Dataset, maturity_days: float) -> None:
    """Many frauds that were reported after so many days were legitimate to a fit until then."""
    import math

    import numpy as np

    from model import data

    taken = data.report_days(dataset)
    late = int((taken > maturity_days).sum())
    if late <= LATE * len(taken):
        return
    enough = math.ceil(np.quantile(taken, 1 - LATE, method="inverted_cdf"))
    tell(
        f"note: {late:,} of {len(taken):,} known frauds became known more than {maturity_days:g}"
        " days after the event, and count as legitimate until then; --maturity-days"
        f" {enough} would be enough for {100 * (1 - LATE):g} % of them"
    )


def tell(line: str) -> None:
    """A line on stderr, of the first of several processes: all of them plan, to the same end."""
    from model import processes

    if processes.is_first():
        typer.echo(line, err=True)
