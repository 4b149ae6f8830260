"""The immutable sample: one field of view as named layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import KINDS, Kind, validate

__all__ = ["Layer", "Sample", "scale", "shown_by"]

_page: Callable[[Sample], str] | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """A value with its kind and the names of its channels or classes (empty where unknown)."""

    kind: Kind
    value: Any
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample(Mapping[str, Any]):
    """An immutable mapping of layer name to value. ``sample["labels"]`` is the array, `layer` adds kind and names.

    `pixel_size` is (y, x) in micrometres or None; `name` identifies the image; `fields` holds what the file name says
    (plate, well, site); `notes` what the reader had to decide; `missing` how many values were NaN or infinite.
    Arrays inside are read-only.
    """

    layers: Mapping[str, Layer]
    name: str = "image"
    pixel_size: tuple[float, float] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    missing: int = 0

    @classmethod
    def of(
        cls,
        image: np.ndarray,
        *,
        name: str = "image",
        pixel_size: float | Sequence[float] | None = None,
        channels: Sequence[str] = (),
        bits: int | None = None,
    ) -> Sample:
        """Make a sample of an array: (y, x) or (y, x, c), any bool, integer or float dtype.

        Integers are scaled to [0, 1] by `bits` (default: the whole range of their type), floats are taken as they are
        unless `bits` is given. NaN and infinite values are missing: each takes its channel's median, and `missing`
        counts them. Raises `KindError` where the shape or dtype is no image's or the channel names do not fit.
        """
        values, missing = scale(np.asarray(image), bits)
        if channels and len(channels) != values.shape[2]:
            raise KindError(f"{name}: {len(channels)} channel names for {values.shape[2]} channels")
        size = (float(pixel_size),) * 2 if isinstance(pixel_size, (int, float)) else pixel_size
        if size is not None and (len(size) != 2 or not all(0 < s < float("inf") for s in size)):
            raise KindError(f"{name}: pixel_size must be one or two positive numbers, got {pixel_size!r}")
        notes = (f"{missing} missing values (NaN or infinite) replaced by the channel's median",) if missing else ()
        layer = Layer(KINDS["image"], _frozen(values), tuple(channels))
        return cls(
            MappingProxyType({"raw": layer, "image": layer}),
            name=name,
            pixel_size=None if size is None else (float(size[0]), float(size[1])),
            notes=notes,
            missing=missing,
        )

    def __getitem__(self, name: str) -> Any:
        return self.layers[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        parts = [f"{name}: {layer.kind}{_extent(layer.value)}" for name, layer in self.layers.items()]
        return f"Sample({self.name!r}, {', '.join(parts)})"

    def _repr_html_(self) -> str | None:
        return None if _page is None else _page(self)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.layers["raw" if "raw" in self.layers else "image"].value.shape[:2]
        return int(height), int(width)

    def layer(self, name: str) -> Layer:
        """Return the layer called `name`, with its kind and names. Raises `KeyError`."""
        return self.layers[name]

    def with_layer(self, name: str, kind: Kind, value: Any, names: Sequence[str] = ()) -> Sample:
        """Return a sample with one layer set, newest last. Raises `KindError` where `value` is not of that kind."""
        validate(kind, value, f"layer {name!r}")
        layers = {k: v for k, v in self.layers.items() if k != name}
        layers[name] = Layer(kind, _frozen(value), tuple(names))
        return replace(self, layers=MappingProxyType(layers))

    def without(self, names: Sequence[str]) -> Sample:
        """Return a sample that holds none of the layers `names`."""
        gone = set(names)
        return replace(self, layers=MappingProxyType({k: v for k, v in self.layers.items() if k not in gone}))


def shown_by(page: Callable[[Sample], str]) -> None:
    """Let a notebook show samples as `page` does: it is given a sample and returns HTML."""
    global _page
    _page = page


def scale(array: np.ndarray, bits: int | None = None) -> tuple[np.ndarray, int]:
    """Return `array` as an `Image`, float32 (y, x, c) C-contiguous, and how many values were not finite.

    Unsigned integers are divided by the largest value of their type, signed ones by their largest positive value,
    bools become 0 and 1; with `bits`, any numeric type is divided by ``2**bits - 1``. Non-finite values take the
    median of their channel's finite ones (0 where there is none).
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise KindError(f"an image has axes (y, x) or (y, x, c) and at least one pixel; got shape {array.shape}")
    if array.dtype.kind not in "buif":
        raise KindError(f"an image holds numbers; got dtype {array.dtype}")
    if bits is not None and not 1 <= bits <= 32:
        raise KindError(f"bits must lie in 1 to 32, got {bits}")
    missing = 0
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = np.array(array, np.float32, order="C")
        bad = ~np.isfinite(values)
        missing = int(np.count_nonzero(bad))
        if missing:
            for channel in range(values.shape[2]):
                view, hole = values[..., channel], bad[..., channel]
                view[hole] = np.median(view[~hole]) if not hole.all() else 0.0
        if bits is not None:
            values /= np.float32(2**bits - 1)
        return values, missing
    top = 1 if array.dtype.kind == "b" else np.iinfo(array.dtype).max
    top = 2**bits - 1 if bits is not None else top
    if array.dtype.itemsize > 2:  # float32 cannot hold every 32-bit integer: divide first
        return np.ascontiguousarray(array / np.float64(top), np.float32), 0
    return np.multiply(array, np.float32(1.0 / top), dtype=np.float32, order="C"), 0


def _frozen(value: Any) -> Any:
    """Return a read-only view, so that no stage can write into what another will read."""
    if isinstance(value, np.ndarray):
        view = value.view()
        view.setflags(write=False)
        return view
    return value


def _extent(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f" {'x'.join(map(str, value.shape))}"
    return f" of {len(value)}" if hasattr(value, "__len__") else ""
