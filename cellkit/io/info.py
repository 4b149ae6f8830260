"""What is known of a picture before its pixels are decoded, and what must hold before they are."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from cellkit.core.errors import ReadError

__all__ = [
    "MAX_SAMPLES",
    "RGB",
    "Info",
    "Pixels",
    "check_extent",
    "decoding",
    "distinct",
    "drop_alpha",
    "natural_bits",
    "project",
]

MAX_SAMPLES = 2**31
"""Most samples (height x width x channels x planes) that are decoded at once."""

RGB = ("red", "green", "blue")

_FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
"""What decoders raise on damaged data; they have no common base."""


@dataclass(frozen=True)
class Info:
    """What a file's header says of its picture.

    `shape` is the (y, x, c) that `read` gives, alpha and stacks gone; `bits` the declared bit depth where the file
    declares one other than its dtype's; `stack` the z, time and other axes that need a projection, each with its
    length; `alpha` how many samples of a pixel are stored but dropped; `pixel_size` (y, x) in micrometres; `whole` the
    (y, x) that must be decoded where only a part of it is wanted.
    """

    format: str
    shape: tuple[int, int, int]
    dtype: str
    bits: int | None = None
    channels: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    stack: tuple[tuple[str, int], ...] = ()
    alpha: int = 0
    whole: tuple[int, int] | None = None

    @property
    def image_bytes(self) -> int:
        """Bytes of the float32 image that `read` returns."""
        return 4 * prod(self.shape)

    @property
    def samples(self) -> int:
        """Numbers that are stored, and decoded together."""
        height, width = self.whole or self.shape[:2]
        return height * width * (self.shape[2] + self.alpha) * prod(length for _, length in self.stack)

    @property
    def peak_bytes(self) -> int:
        """Bytes that reading takes at most: the pixels as stored and the image made of them."""
        return self.samples * np.dtype(self.dtype).itemsize + self.image_bytes


@dataclass(frozen=True)
class Pixels:
    """Decoded pixels, (y, x) or (y, x, c), in the values that are stored; `bits` is their declared depth if any."""

    array: np.ndarray
    bits: int | None = None
    names: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def decoding(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged data, `also` what is its own, into a `ReadError` on `what`."""
    foreign: tuple[type[Exception], ...] = (*_FOREIGN, *also)
    try:
        yield
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(f"{what} needs more memory than there is (read a part with `crop`)") from error
    except foreign as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ReadError(f"{what} is damaged or of a variant that cannot be decoded: {reason[:200]}") from error


def check_extent(info: Info, most: int = MAX_SAMPLES) -> None:
    """Raise `ReadError` where there is no pixel, or more than `most` samples are announced."""
    if 0 in info.shape:
        raise ReadError(f"the image has no pixels: {_extent(info)}")
    if info.samples > most:
        raise ReadError(
            f"the header announces {_extent(info)}, {info.samples:.3g} numbers; at most {most:.3g} are read "
            "at once (read a part of a TIFF with `crop`; if the image is not that large, the file is damaged)"
        )


def _extent(info: Info) -> str:
    height, width, channels = info.shape
    stack = "".join(f" x {length} {axis}" for axis, length in info.stack)
    return f"{height} x {width} px x {channels} channel{'s' if channels != 1 else ''}{stack}"


def drop_alpha(array: np.ndarray, at: tuple[int, ...], opaque: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (y, x, c) without the alpha samples `at`, and a note where they were not all `opaque`."""
    kept = [i for i in range(array.shape[2]) if i not in at]
    clear = any((array[..., i] != opaque).any() for i in at)
    notes = ("transparency was dropped; some pixels were not opaque",) if clear else ()
    whole = kept == list(range(len(kept)))
    return (array[..., : len(kept)] if whole else array[..., kept]), notes


def project(stack: np.ndarray, how: str, bits: int | None) -> tuple[np.ndarray, int | None]:
    """Return (n, y, x, c) as one plane, and the bit depth its values are to be scaled by.

    `mean` and `sum` leave the stored type; a sum keeps the scale of one plane and may exceed 1.
    """
    if how == "first":
        return stack[0], bits
    if how in ("max", "min"):
        return (stack.max if how == "max" else stack.min)(axis=0), bits
    total = stack.sum(axis=0, dtype=np.float64)
    if how == "mean":
        total /= len(stack)
    return total.astype(np.float32), natural_bits(stack.dtype) if bits is None else bits


def natural_bits(dtype: np.dtype) -> int | None:
    """Return the depth that `scale` takes for an integer type: 8 for uint8, 7 for int8, 1 for bool; None for floats."""
    if dtype.kind == "f":
        return None
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max).bit_length()


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return `names`, those that occur again with a number behind."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(result)
