"""The log of a training: one row an epoch, as CSV and, where it is installed, for TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["write_log"]


def write_log(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `history` as log.csv, whole and atomic, and its last row for TensorBoard where that is installed.

    Columns are those of any row; what a row does not have (a score without validation) is left empty.
    """
    from cellkit.io import atomic

    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in history:
        writer.writerow(["" if _missing(row.get(key)) else row[key] for key in columns])
    with atomic(folder / "log.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    if history and find_spec("tensorboard") is not None:
        _to_tensorboard(folder / "tensorboard", history[-1])


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _to_tensorboard(folder: Path, row: Mapping[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=int(row["step"]))
    for key, value in row.items():
        if key not in ("epoch", "step") and not _missing(value):
            writer.add_scalar(key, value, int(row["step"]))
    writer.close()
