"""Images after preprocessing with their truth, kept in memory within a budget, beyond it in a file."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cellkit.core import Boxes, CellkitError, Instances, UsageError
from cellkit.io.datasets.pairs import Pair
from cellkit.io.reader import read
from cellkit.train._preprocessing import Preprocessing

__all__ = ["Picture", "Pictures", "TruthKind"]

TruthKind = Literal["labels", "classes", "boxes", "instances"]

_ANCHORS = 256
"""The most places kept of each class of a class image."""
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it is stored, with its truth.

    `image` (y, x, c) is uint8 or uint16 where these stand for the very values (shares of 255 or 65,535), else float16
    or float32. `labels`: whole numbers (y, x), or (l, y, x) in layers of objects that do not overlap; None for boxes.
    `classes`: the class, from 1, of each number in them; None where all are of one. `anchors`: int32 (n, 3), row,
    column and class of places that objects are found at.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    boxes: Boxes | None
    classes: Mapping[int, int] | None
    anchors: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def nbytes(self) -> int:
        """The memory its arrays take."""
        return self.image.nbytes + (self.labels.nbytes if self.labels is not None else 0)


class Pictures:
    """The images of `pairs`, read and preprocessed once, as far as `memory` bytes hold them.

    Images beyond that go to a file in `folder`, or, without one, are made anew whenever they are asked for. Values are
    stored exactly as uint8 or uint16 where the images allow it, else as float16, to 1 part in 2,048 (`half`), or as
    float32. `truth` says what is read of it. `invalid` is that of `Pair.boxes`.

    Safe to use from threads; processes share what is kept: forked ones its memory, others a file that it is moved to.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing | None = None,
        *,
        truth: TruthKind = "labels",
        memory: int = 2 * 2**30,
        folder: str | Path | None = None,
        half: bool = True,
        invalid: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if not pairs:
            raise UsageError("pictures: there are no images")
        if truth not in get_args(TruthKind):
            raise UsageError(f"pictures: truth: wanted one of {', '.join(get_args(TruthKind))}, got {truth!r}")
        self.pairs = tuple(pairs)
        self.preprocessing = preprocessing or Preprocessing()
        if self.preprocessing.options is not None and self.preprocessing.options.crop is not None:
            raise UsageError("pictures: `read: crop` would cut images but not their truth; cut the files, or leave it")
        self.truth, self.memory, self.half, self.invalid = truth, memory, half, invalid
        self.used = 0
        self._kept: dict[int, Picture | _Stored] = {}
        self._anchors: dict[int, np.ndarray] = {}
        self._pack = None if folder is None else _Pack(Path(folder))
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Picture:
        """Return an image with its truth. Raises what reading and preprocessing it raise, naming the file."""
        kept = self._kept.get(index)
        if kept is None:
            return self._keep(index, self._make(index))
        return kept.load() if isinstance(kept, _Stored) else kept

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets; arrays in memory move to a file first, so that not each has a copy."""
        with self._lock:
            if self._pack is None and any(isinstance(kept, Picture) for kept in self._kept.values()):
                self._pack = _Pack(None)
            if self._pack is not None:
                self._kept = {i: k if isinstance(k, _Stored) else self._pack.add(k) for i, k in self._kept.items()}
        return {**self.__dict__, "_lock": None, "_pack": None, "memory": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def cached(self) -> int:
        """How many images are kept, in memory or in the file."""
        return len(self._kept)

    def shape(self, index: int) -> tuple[int, int]:
        """Return the (height, width) of an image after preprocessing, by its header."""
        kept = self._kept.get(index)
        return kept.shape if kept is not None else self.preprocessing.shape(self.pairs[index].shape)

    def anchors(self, index: int) -> np.ndarray:
        """Return the places of objects, int32 (n, 3): row, column, class."""
        if index not in self._anchors:
            self._anchors[index] = self[index].anchors
        return self._anchors[index]

    def fill(self, *, threads: int | None = None, told: Callable[[int, int], None] | None = None) -> None:
        """Read every image that the budget or the file has room for; `told` is called with how many of how many."""
        threads = threads or min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            for number, _ in enumerate(pool.map(self._fill_one, range(len(self))), 1):
                if told is not None:
                    told(number, len(self))

    def _fill_one(self, index: int) -> None:
        if index not in self._kept and (self._pack is not None or self.used < self.memory):
            self._keep(index, self._make(index))

    def _keep(self, index: int, picture: Picture) -> Picture:
        with self._lock:
            self._anchors[index] = picture.anchors
            # What a worker process keeps, it keeps for itself: the budget would be taken once for each.
            if index in self._kept or os.getpid() != self._owner:
                return picture
            if self.used + picture.nbytes <= self.memory:
                self.used += picture.nbytes
                self._kept[index] = picture
            elif self._pack is not None:
                self._kept[index] = self._pack.add(picture)
        return picture

    def _make(self, index: int) -> Picture:
        pair = self.pairs[index]
        options = self.preprocessing.options
        try:
            sample = read(pair.image, options) if options is not None else read(pair.image)
            image = self.preprocessing.image(sample)
            labels, boxes, classes = self._truth(pair)
        except CellkitError as error:
            text = str(error)
            raise error if pair.name in text else type(error)(f"{pair.image}: {text}") from error
        if labels is not None and labels.shape[-2:] != image.shape[:2]:
            raise UsageError(
                f"{pair.image}: is {image.shape[0]} x {image.shape[1]} px before the trained step, its truth "
                f"{labels.shape[-2]} x {labels.shape[-1]} px"
            )
        anchors = _anchors(labels, boxes, classes, self.truth == "classes")
        return Picture(pair.name, stored(image, self.half), labels, boxes, classes, anchors)

    def _truth(self, pair: Pair) -> tuple[np.ndarray | None, Boxes | None, Mapping[int, int] | None]:
        """Return labels, boxes and the class of each number, in the frame of the preprocessed image."""

        def framed(value: Any) -> Any:
            return self.preprocessing.truth(self.truth, value, pair.shape) if self.preprocessing.resizes else value

        if self.truth == "labels":
            return _small(framed(pair.labels())), None, None
        if self.truth == "classes":
            values = framed(pair.classes())
            return values, None, {c: c for c in np.unique(values).tolist() if c}
        if self.truth == "boxes":
            return None, framed(pair.boxes(invalid=self.invalid)), None
        instances = framed(pair.instances())
        classes = {number: int(c) + 1 for number, c in enumerate(instances.boxes.classes, 1)}
        return _small(_layered(instances, self.preprocessing.shape(pair.shape))), None, classes


def stored(image: np.ndarray, half: bool = True) -> np.ndarray:
    """Return a float32 image in the smallest type that holds its values exactly, or as float16 (`half`)."""
    for kind in (np.uint8, np.uint16):
        top = np.iinfo(kind).max
        if image.min() >= 0 and image.max() <= 1:
            whole = np.rint(image * np.float32(top)).astype(kind)
            if np.array_equal(np.multiply(whole, np.float32(1 / top), dtype=np.float32), image):
                return whole
    # NaN compares as not small enough, and stays what it is in float32.
    if half and np.abs(image).max() <= _LARGEST_HALF:
        return image.astype(np.float16)
    return np.array(image, np.float32)


def _small(labels: np.ndarray) -> np.ndarray:
    if labels.min() >= 0 and labels.max() <= np.iinfo(np.uint16).max:
        return labels.astype(np.uint16)
    return np.ascontiguousarray(labels, np.int32)


def _layered(instances: Instances, shape: tuple[int, int]) -> np.ndarray:
    """Return objects as labels, numbered from 1, in as many layers as it takes that none overlap: (l, y, x)."""
    layers = [np.zeros(shape, np.int32)]
    corners = np.floor(instances.boxes.xyxy[:, :2]).astype(np.int64).tolist()
    for number, ((x, y), mask) in enumerate(zip(corners, instances.masks, strict=True), 1):
        # What of a mask lies outside the image is not there.
        top, left = max(0, -y), max(0, -x)
        inner = mask[top : shape[0] - y, left : shape[1] - x]
        place = np.s_[y + top : y + top + inner.shape[0], x + left : x + left + inner.shape[1]]
        for layer in layers:
            if not layer[place][inner].any():
                break
        else:
            layer = np.zeros(shape, np.int32)
            layers.append(layer)
        layer[place][inner] = number
    return np.stack(layers)


def _anchors(
    labels: np.ndarray | None, boxes: Boxes | None, classes: Mapping[int, int] | None, of_classes: bool
) -> np.ndarray:
    from cellkit.io.datasets.truth import boxes_of

    if boxes is not None:
        middle = ((boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2).astype(np.int32)
        return np.column_stack([middle[:, ::-1], boxes.classes + 1]).astype(np.int32)
    if labels is None:
        return np.zeros((0, 3), np.int32)
    if of_classes:
        return _pixels_of_classes(labels)
    found = []
    for layer in labels[None] if labels.ndim == 2 else labels:
        known = np.maximum(layer, 0)
        xyxy = boxes_of(known).xyxy
        numbers = np.unique(known)
        kinds = [1 if classes is None else classes[number] for number in numbers[numbers > 0].tolist()]
        middle = ((xyxy[:, :2] + xyxy[:, 2:]) / 2).astype(np.int32)
        found.append(np.column_stack([middle[:, ::-1], np.array(kinds, np.int32)]))
    return np.concatenate(found).astype(np.int32)


def _pixels_of_classes(values: np.ndarray) -> np.ndarray:
    """Return up to 256 pixels of each class, evenly over the image in the order of its rows."""
    found = [np.zeros((0, 3), np.int32)]
    for kind in np.unique(values).tolist():
        if kind:
            at = np.flatnonzero(values == kind)
            at = at[np.linspace(0, len(at) - 1, min(len(at), _ANCHORS)).astype(np.intp)]
            rows, columns = np.divmod(at, values.shape[1])
            found.append(np.column_stack([rows, columns, np.full(len(at), kind)]).astype(np.int32))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class _Stored:
    """A picture whose arrays lie in a file, by where they begin, their types and shapes."""

    path: Path
    picture: Picture
    places: tuple[tuple[int, str, tuple[int, ...]] | None, ...]

    @property
    def shape(self) -> tuple[int, int]:
        place = self.places[0]
        return (place[2][0], place[2][1]) if place is not None else (0, 0)

    def load(self) -> Picture:
        image, labels = (
            None if place is None else np.memmap(self.path, place[1], "r", place[0], place[2]) for place in self.places
        )
        return replace(self.picture, image=image, labels=labels)


class _Pack:
    """A file that pictures are added to, removed when it is no longer used. `folder` None: that of temporary files."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".bin", "cellkit-pictures-", folder)
        os.close(handle)
        self.path = Path(name)
        self._finalizer = weakref.finalize(self, _remove, self.path, os.getpid())

    def add(self, picture: Picture) -> _Stored:
        """Append the arrays of a picture. Raises `UsageError` where the disk is full."""
        places: list[tuple[int, str, tuple[int, ...]] | None] = []
        try:
            with self.path.open("ab") as stream:
                for array in (picture.image, picture.labels):
                    if array is None:
                        places.append(None)
                        continue
                    stream.write(b"\0" * (-stream.tell() % 64))
                    places.append((stream.tell(), array.dtype.str, array.shape))
                    stream.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise UsageError(f"{self.path}: images could not be kept there: {error.strerror or error}") from error
        empty = np.zeros((0, 0, 0), np.uint8)
        return _Stored(self.path, replace(picture, image=empty, labels=None), tuple(places))


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process is not the one to remove it
        path.unlink(missing_ok=True)
