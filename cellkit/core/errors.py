"""The exceptions cellkit raises, as one tree.

::

    CellkitError
    ├── RecipeError        a recipe that does not check; carries every fault found
    ├── StageError         a stage could not do its work on this input
    │   └── KindError      a layer is not what its kind promises (dtype, shape, channels)
    ├── ReadError          a file that is no image, is damaged, or needs a word in `read:`
    ├── WriteError         a result that could not be written (disk full, no permission)
    ├── FormatError        an encoded object (RLE, ...) that breaks its format's rules
    └── UsageError         a call that asks for what cannot be (unknown name, no images, no GPU)

Every message says where, what was wanted, what was given and, where one is known, the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "CellkitError",
    "Fault",
    "FormatError",
    "KindError",
    "ReadError",
    "RecipeError",
    "StageError",
    "UsageError",
    "WriteError",
    "suggest",
]


class CellkitError(Exception):
    """Base of every exception cellkit raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe: where it stands, what is wrong, and the likely fix.

    A `warning` leaves the recipe right. One that `stops`, a warning too, says that the recipe cannot run on this
    machine as things are: a package or weights are missing.
    """

    where: str
    message: str
    fix: str = ""
    warning: bool = False
    stops: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "warning", self.warning or self.stops)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return f"{text} ({self.fix})" if self.fix else text


class RecipeError(CellkitError):
    """A recipe that does not check. `faults` lists everything found, in recipe order."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = f"the recipe has {count} fault{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {fault}" for fault in self.faults)]))


class StageError(CellkitError):
    """A stage could not do its work on this input."""


class KindError(StageError):
    """A layer is not what its kind promises."""


class ReadError(CellkitError):
    """A file could not be read as an image."""


class WriteError(CellkitError):
    """A result could not be written."""


class FormatError(CellkitError):
    """An encoded object breaks the rules of its format."""


class UsageError(CellkitError):
    """A call that asks for what cannot be."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'otsu'?`` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""
