"""The worst and the best images of a validation, kept beside a run so that its page can show them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core import FormatError
from cellkit.core.errors import CellkitError
from cellkit.io import atomic
from cellkit.report import display
from cellkit.report.worst import By, Case

if TYPE_CHECKING:
    import torch

    from cellkit.io.datasets import Pair
    from cellkit.metrics import Report
    from cellkit.train.validate import Validator

__all__ = ["EXAMPLES", "keep_examples", "read_examples"]

EXAMPLES = "examples.npz"
_MOST_PIXELS = 1 << 24
"""Larger images are not kept."""
_BY: dict[str, By] = {"pixel": "foreground", "semantic": "classes"}


def keep_examples(
    validator: Validator, network: torch.nn.Module, report: Report, out: Path, *, epoch: int, count: int = 3
) -> list[str]:
    """Write truth and prediction of the `count` worst and best images of `report` to `out`; return notes on faults.

    `network` is the one that `report` is of; it is changed. Nothing that goes wrong here is raised.
    """
    try:
        return _keep(validator, network, report, out, (epoch, count))
    except Exception as error:  # pictures are no reason to lose a trained network, whatever it is that went wrong
        return [f"{EXAMPLES}: not written: {type(error).__name__}: {error}"]


def _keep(
    validator: Validator, network: torch.nn.Module, report: Report, out: Path, wanted: tuple[int, int]
) -> list[str]:
    if validator.card.task != "dense":
        return []  # the pages of cases show labels and classes of pixels, no boxes
    epoch, count = wanted
    values = {row["image"]: float(row["value"]) for row in report.per_image if math.isfinite(row.get("value", math.nan))}  # fmt: skip # noqa: E501
    order = sorted(values, key=lambda name: (values[name], name))
    names = list(dict.fromkeys([*order[:count], *order[::-1][:count]]))
    pairs = {pair.name: pair for pair in validator.pairs if math.prod(pair.shape) <= _MOST_PIXELS}
    names = [name for name in names if name in pairs]
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def keep(pair: Pair, truth: np.ndarray, pred: np.ndarray) -> None:
        found[pair.name] = (truth, pred)

    few = copy.copy(validator)
    few.pairs = tuple(pairs[name] for name in names)
    if few.pairs:
        few.score(network, keep=keep)
    arrays: dict[str, np.ndarray] = {
        "names": np.array(names, str),
        "values": np.array([values[name] for name in names], np.float64),
        "epoch": np.array(epoch),
        "by": np.array(_BY.get(validator.protocol.name, "objects")),
    }
    for i, name in enumerate(names):
        arrays[f"image{i}"] = display(pairs[name].sample()["image"])
        arrays[f"truth{i}"], arrays[f"pred{i}"] = found[name]
    with atomic(out / EXAMPLES) as temporary:
        np.savez_compressed(temporary, **arrays)
    return []


def read_examples(out: Path, epoch: int | None) -> tuple[tuple[Case, ...], By]:
    """Return what `keep_examples` wrote for the weights of `epoch`, nothing where it is of others or not there.

    Raises `FormatError` where the file is damaged.
    """
    path = out / EXAMPLES
    if not path.is_file():
        return (), "objects"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if epoch is None or int(file["epoch"]) != epoch:
                return (), "objects"
            names, values, by = file["names"].tolist(), file["values"].tolist(), str(file["by"])
            cases = [_case(file, i, name, value) for i, (name, value) in enumerate(zip(names, values, strict=True))]
    except Exception as error:  # numpy and zlib raise whatever they meet first in a damaged file
        raise FormatError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    kind: Any = by if by in ("objects", "foreground", "classes") else "objects"
    return tuple(cases), kind


def _case(file: Any, place: int, name: str, value: float) -> Case:
    truth, pred, image = (file[f"{part}{place}"] for part in ("truth", "pred", "image"))
    if truth.shape != pred.shape or truth.ndim != 2:
        raise CellkitError(f"{name}: truth {truth.shape} and prediction {pred.shape} do not fit")
    return Case(name, value, truth, pred, image)
