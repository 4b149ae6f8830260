"""Images that are nearly the same: a small grey picture of each finds candidates, a larger one decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.io.datasets.findings import Finding
from cellkit.io.datasets.pairs import Pair

__all__ = ["Copy", "Look", "candidates", "contrast", "copy_faults", "find_copies", "grey", "noise_fault", "thumbnail"]

_SIDE = 32
_LARGE = 128
_SHIFT = 12  # px of 128 that one image may be shifted against the other, either way
_STEP = 2  # the same of 32 px, when candidates are looked for
_KEPT = 1024
_BLOCK = 1024
_CANDIDATE = 0.5
_IN_PLACE = 0.98
_LEAST_CONTRAST = 8.0  # the two outermost hundredths of pure Gaussian noise lie 4.7 standard deviations apart
_SAME_TRUTH = 0.95
_SAME_RESIZED = 0.8
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of an image: its thumbnail, and a digest of its shape and values."""

    thumbnail: np.ndarray
    digest: bytes

    @classmethod
    def at(cls, image: np.ndarray, picture: np.ndarray) -> Look:
        """Look at an image, float32 (y, x, c), and at it in grey."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(image.data)
        return cls(thumbnail(picture), digest.digest())


@dataclass(frozen=True)
class Copy:
    """Two images of one field: how alike they are, whether every pixel is equal, and whether their truth should be."""

    first: Pair
    second: Pair
    correlation: float
    equal: bool
    in_place: bool


def grey(image: np.ndarray) -> np.ndarray:
    """Return an image, float32 (y, x, c), as float32 (y, x), the mean of its channels."""
    return np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image.mean(axis=2, dtype=np.float32))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Return a picture, float32 (y, x), at 32 x 32 px without what changes slowly: float32 (32, 32).

    An uneven background is common to all images of a camera and tells none from another.
    """
    import cv2

    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small - cv2.GaussianBlur(small, (0, 0), 3.0)


def _units(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (n, y, x) as vectors (n, y * x) of mean 0 and length 1; zeros for a flat one."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-5)


def _unit(picture: np.ndarray) -> np.ndarray:
    return _units(picture[None])[0]


def contrast(picture: np.ndarray) -> float:
    """Return how many standard deviations of the noise lie between the 1st and the 99th percentile.

    Infinity where there is no noise, 0 for one value throughout. Source of the estimate of the noise: J. Immerkaer,
    "Fast noise variance estimation", Computer Vision and Image Understanding 64 (1996), equation 8.
    """
    import cv2

    if min(picture.shape) < 3:
        return np.inf if np.ptp(picture) else 0.0
    low, high = np.percentile(picture, [1, 99])
    sigma = float(np.abs(cv2.filter2D(picture, -1, _LAPLACE)[1:-1, 1:-1]).mean()) * np.sqrt(np.pi / 2) / 6
    if sigma > 1e-7:
        return float(high - low) / sigma
    return np.inf if np.ptp(picture) else 0.0


def noise_fault(name: str, picture: np.ndarray) -> list[Finding]:
    """Return a finding where a picture shows nothing above its noise."""
    if picture.size and not np.ptp(picture):
        return [Finding("noise", name, "every pixel has the same value")]
    found = contrast(picture)
    if found >= _LEAST_CONTRAST:
        return []
    message = f"98 % of its values lie within {found:.1f} standard deviations of its noise (pure noise: 4.7)"
    return [Finding("noise", name, message)]


def candidates(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs of `thumbnails`, float32 (n, 32, 32), that may be alike once one is shifted by some px."""
    middle = _units(thumbnails[:, _STEP:-_STEP, _STEP:-_STEP])
    width = _SIDE - 2 * _STEP
    for top in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[top : top + _BLOCK]
        shifted = [
            _units(block[:, y : y + width, x : x + width]) for y in range(2 * _STEP + 1) for x in range(2 * _STEP + 1)
        ]
        for left in range(top, len(thumbnails), _BLOCK):
            alike = np.full((len(block), len(middle[left : left + _BLOCK])), -1, np.float32)
            for part in shifted:
                np.maximum(alike, part @ middle[left : left + _BLOCK].T, out=alike)
            for i, j in np.argwhere(alike >= _CANDIDATE):
                if top + i < left + j:
                    yield top + int(i), left + int(j)


def find_copies(pairs: Sequence[Pair], looks: Sequence[Look], alike: float) -> Iterator[Copy]:
    """Yield images that show one field: they correlate by `alike` or more once one is shifted onto the other.

    `looks` belong to `pairs`. Of many copies of one image not every two are compared: within a part of the split those
    that join them up, across parts until each image is known to leak. Raises `ReadError`.
    """
    if not pairs:
        return
    # A candidate is read again; those last read are kept, as copies tend to stand together.
    larger = lru_cache(maxsize=_KEPT)(lambda i: _larger(pairs[i]))
    joined = list(range(len(pairs)))
    leaking: set[int] = set()
    for i, j in candidates(np.stack([look.thumbnail for look in looks])):
        across = pairs[i].split != pairs[j].split
        if (across and {i, j} <= leaking) or (not across and _root(joined, i) == _root(joined, j)):
            continue
        equal = looks[i].digest == looks[j].digest
        correlation, shifted = (1.0, False) if equal else _registered(larger(i), larger(j))
        if correlation < alike:
            continue
        if across:
            leaking |= {i, j}
        else:
            joined[_root(joined, i)] = _root(joined, j)
        yield Copy(pairs[i], pairs[j], correlation, equal, not shifted and correlation >= _IN_PLACE)


def _root(joined: list[int], i: int) -> int:
    while joined[i] != i:
        joined[i] = i = joined[joined[i]]
    return i


def _larger(pair: Pair) -> np.ndarray:
    """Return the image of a pair at 128 x 128 px without what changes slowly."""
    import cv2

    picture = grey(pair.sample().layers["image"].value)
    large = cv2.resize(picture, (_LARGE, _LARGE), interpolation=cv2.INTER_AREA)
    return large - cv2.GaussianBlur(large, (0, 0), _LARGE / 10)


def _registered(first: np.ndarray, second: np.ndarray) -> tuple[float, bool]:
    """Return the correlation of the middle of `second` with the part of `first` it fits best, and whether it moved."""
    import cv2

    middle = np.ascontiguousarray(second[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT])
    if not _unit(middle).any():
        return 0.0, False
    _, _, _, (x, y) = cv2.minMaxLoc(np.nan_to_num(cv2.matchTemplate(first, middle, cv2.TM_CCOEFF_NORMED)))
    part = first[y : y + len(middle), x : x + len(middle)]
    return float(_unit(part) @ _unit(middle)), (x, y) != (_SHIFT, _SHIFT)


def copy_faults(copy: Copy) -> Iterator[Finding]:
    """Yield what is wrong with two images that are nearly the same."""
    first, second = copy.first, copy.second
    what = (
        f"equal to {second.name}"
        if copy.equal
        else f"shows what {second.name} does (correlation {copy.correlation:.2f})"
    )
    if first.split != second.split:
        message = f"{what}, but one is in {first.split or 'no part'} and one in {second.split or 'no part'}"
        yield Finding("leak", first.name, message, other=second.name)
    elif not first.group or first.group != second.group:
        groups = f", but in groups {first.group or '(none)'} and {second.group or '(none)'}"
        yield Finding(
            "near copy", first.name, f"{what}{groups if first.group or second.group else ''}", other=second.name
        )
    if not (copy.equal or copy.in_place):
        return
    try:
        difference = _truths_differ(first, second)
    except CellkitError:
        return  # reported where the truth itself is looked at
    if difference:
        yield Finding("other truth", first.name, f"{what}, but {difference}", other=second.name)


def _truths_differ(first: Pair, second: Pair) -> str:
    """Return how the truths of two images of one content differ, or an empty text."""
    import cv2

    kind = first.truth.kind
    if kind != second.truth.kind:
        return f"one has {kind}, the other {second.truth.kind}"
    if kind == "boxes":
        one, two = (sorted(map(tuple, pair.boxes(invalid="drop").xyxy.tolist())) for pair in (first, second))
        return "" if one == two else f"they have {len(one)} and {len(two)} boxes, not the same"
    a, b = (pair.classes() for pair in (first, second))
    least = _SAME_TRUTH if a.shape == b.shape else _SAME_RESIZED
    if a.shape != b.shape:
        b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    there = (a > 0) | (b > 0)
    iou = float((a[there] == b[there]).mean()) if there.any() else 1.0
    return "" if iou >= least else f"only {100 * iou:.0f} % of their annotated pixels agree"
