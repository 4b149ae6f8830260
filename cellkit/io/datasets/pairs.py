"""A data set as a sequence of pairs, image and truth, that read nothing before they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from cellkit.core.errors import UsageError, suggest
from cellkit.core.kinds import Boxes, Instances
from cellkit.core.sample import Sample
from cellkit.io.datasets.truth import BoxList, SizeMismatch, Truth
from cellkit.io.reader import probe, read

__all__ = ["Dataset", "Missing", "Pair"]


@dataclass(frozen=True)
class Pair:
    """One image and its truth.

    `name` is unique in the data set. `group` is what a split must not cut (a patient, a field, copies of one image),
    `split` the part it belongs to; both empty where unknown. `fields` are what else the data set says of it, `size`
    the (height, width) that the annotations announce.
    """

    name: str
    image: Path
    truth: Truth
    group: str = ""
    split: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The (height, width) of the image by its header. Raises `ReadError`, and `SizeMismatch` by the truth."""
        shape = probe(self.image).shape
        if self.size is not None and self.size != shape[:2]:
            raise SizeMismatch(
                f"{self.truth.path}: says that {self.image.name} is {self.size[0]} x {self.size[1]} px, but the image "
                f"is {shape[0]} x {shape[1]} px"
            )
        return shape[:2]

    def sample(self) -> Sample:
        """Read the image."""
        return read(self.image)

    def labels(self) -> np.ndarray:
        """Read the objects as `Labels`, int32 (y, x).

        Raises `UsageError` where the truth holds no masks, `FormatError` where it is not of the image's size or
        objects overlap, `ReadError` where a file is damaged. So do the others.
        """
        return self._giving("labels").labels(self.shape)

    def classes(self) -> np.ndarray:
        """Read the class of each pixel as `Classes`, uint8 (y, x); 1 for every object where there is one class."""
        return self._giving("classes").classes(self.shape)

    def boxes(self, *, invalid: Literal["refuse", "drop"] = "refuse") -> Boxes:
        """Read the objects as `Boxes`; `invalid` says what becomes of boxes without extent or outside the image."""
        if invalid == "drop" and isinstance(self.truth, BoxList):
            return self.truth.sound(self.shape)
        return self._giving("boxes").boxes(self.shape)

    def instances(self) -> Instances:
        """Read the objects as `Instances`, which may overlap."""
        return self._giving("instances").instances(self.shape)

    def _giving(self, wanted: str) -> Truth:
        if wanted not in self.truth.gives:
            raise UsageError(
                f"{self.truth.path}: holds {self.truth.kind}, from which no {wanted} follow; ask for "
                f"{' or '.join(self.truth.gives)}"
            )
        return self.truth


@dataclass(frozen=True)
class Missing:
    """A file that should be there: of which image, what it is, and where it was looked for."""

    name: str
    what: Literal["image", "truth"]
    where: str

    def __str__(self) -> str:
        return f"{self.name}: no {self.what} ({self.where})"


@dataclass(frozen=True)
class Dataset:
    """Pairs in the natural order of their names, with what the folder says about all of them.

    `kind` is what the truth holds: ``"labels"``, ``"classes"``, ``"instances"`` or ``"boxes"``. `classes` names the
    classes: ``classes[i]`` belongs to the value i of a class image, and to the number i of boxes. `missing` lists
    what has no partner, `notes` what was left out and why.
    """

    folder: Path
    layout: str
    kind: str
    pairs: tuple[Pair, ...]
    classes: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, name: str) -> Pair:
        """Return the pair called `name`. Raises `UsageError` where there is none."""
        for pair in self.pairs:
            if pair.name == name:
                return pair
        hint = suggest(name, [pair.name for pair in self.pairs])
        raise UsageError(f"{self.folder}: no image is called {name!r}{f'; {hint}' if hint else ''}")

    def part(self, split: str) -> Dataset:
        """Return the pairs of one split. Raises `UsageError` where there is none."""
        pairs = tuple(pair for pair in self.pairs if pair.split == split)
        if not pairs:
            there = ", ".join(sorted({p.split for p in self.pairs if p.split})) or "none"
            raise UsageError(f"{self.folder}: no image belongs to the part {split!r}; parts: {there}")
        return Dataset(self.folder, self.layout, self.kind, pairs, self.classes, (), self.notes)
