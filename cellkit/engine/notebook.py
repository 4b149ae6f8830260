"""A run as a notebook shows it: how it ended, and small pictures of what it wrote."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.core.kinds import KINDS

if TYPE_CHECKING:
    from cellkit.engine.batch import BatchResult
    from cellkit.report.notebook import Card

__all__ = ["batch_html"]

_SHOWN = 8
_REASONS = 3


def batch_html(result: BatchResult) -> str:
    """Return a run as HTML for a notebook: counts, failures with reasons, and its first overlays or labels."""
    from cellkit.report.notebook import cards_html

    about = [f"{result.images:,} images", f"{result.done:,} done"]
    about += [f"{result.kept:,} kept from an earlier run"] if result.kept else []
    about += [f"{len(result.failed):,} failed"] if result.failed else []
    about += [f"{count:,} {'objects' if name == 'labels' else name}" for name, count in result.objects.items()]
    about.append(f"{result.seconds:,.1f} s")
    about += [f"failed {name}: {reason}" for name, _, reason in result.failed[:_REASONS]]
    about += list(result.notes)
    return cards_html(f"Run in {result.folder}", about, _cards(result.folder))


def _cards(folder: Path) -> list[Card]:
    from cellkit.io import read, read_labels
    from cellkit.report.notebook import thumbnail

    for name, pattern in (("overlays", "*.png"), ("labels", "*.tif")):
        cards: list[Card] = []
        for path in islice(sorted((folder / name).glob(pattern)), _SHOWN):
            try:
                if name == "labels":
                    labels = read_labels(path)
                    lines = [f"{np.count_nonzero(np.unique(labels)):,} objects"]
                    cards.append((path.stem, "Labels", thumbnail(KINDS["labels"], labels, (), None), lines))
                else:
                    picture = np.rint(read(path)["raw"] * 255).astype(np.uint8)
                    cards.append((path.stem, "overlay", thumbnail(KINDS["image"], picture, (), None), []))
            except (CellkitError, MemoryError) as error:
                cards.append((path.stem, name, None, [str(error)]))
        if cards:
            return cards
    return []
