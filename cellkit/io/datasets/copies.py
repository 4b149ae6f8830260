"""Images that are nearly the same: a small grey picture of each finds candidates, a larger one decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.io.datasets.findings import Finding
from cellkit.io.datasets.pairs import Pair

__all__ = ["Copy", "candidates", "compared", "contrast", "copy_faults", "grey", "noise_fault", "thumbnail"]

_SIDE = 16
_LARGE = 128
_BLOCK = 1024
_CANDIDATE = 0.9
_LEAST_CONTRAST = 8.0  # the two outermost hundredths of pure Gaussian noise lie 4.7 standard deviations apart
_SAME_TRUTH = 0.95
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True)
class Copy:
    """Two images that show nearly the same: how alike they are, and whether every pixel is equal."""

    first: Pair
    second: Pair
    correlation: float
    equal: bool


def grey(image: np.ndarray) -> np.ndarray:
    """Return an image, float32 (y, x, c), as float32 (y, x), the mean of its channels."""
    return np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image.mean(axis=2, dtype=np.float32))


def thumbnail(picture: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """Return a picture, float32 (y, x), as float32 (side * side,) of mean 0 and length 1; zeros where it is flat."""
    import cv2

    flat = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).ravel()
    flat = flat - flat.mean()
    length = float(np.linalg.norm(flat))
    return flat / length if length > 1e-6 else np.zeros_like(flat)


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
    """Yield the pairs of rows of `thumbnails`, float32 (n, k) of length 1, that are alike."""
    for top in range(0, len(thumbnails), _BLOCK):
        for left in range(top, len(thumbnails), _BLOCK):
            alike = thumbnails[top : top + _BLOCK] @ thumbnails[left : left + _BLOCK].T
            for i, j in np.argwhere(alike >= _CANDIDATE):
                if top + i < left + j:
                    yield top + int(i), left + int(j)


def compared(first: Pair, second: Pair) -> Copy:
    """Read two images and say how alike they are. Raises `ReadError`."""
    images = [pair.sample().layers["image"].value for pair in (first, second)]
    a, b = (thumbnail(grey(image), _LARGE) for image in images)
    return Copy(first, second, float(a @ b), np.array_equal(*images))


def copy_faults(copy: Copy) -> Iterator[Finding]:
    """Yield what is wrong with two images that are nearly the same."""
    first, second = copy.first, copy.second
    what = f"equal to {second.name}" if copy.equal else f"nearly {second.name} (correlation {copy.correlation:.4f})"
    if first.split != second.split:
        message = f"{what}, but one is in {first.split or 'no part'} and one in {second.split or 'no part'}"
        yield Finding("leak", first.name, message, other=second.name)
    elif not first.group or first.group != second.group:
        groups = f", but in groups {first.group or '(none)'} and {second.group or '(none)'}"
        yield Finding(
            "near copy", first.name, f"{what}{groups if first.group or second.group else ''}", other=second.name
        )
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
    if a.shape != b.shape:
        b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    there = (a > 0) | (b > 0)
    iou = float((a[there] == b[there]).mean()) if there.any() else 1.0
    return "" if iou >= _SAME_TRUTH else f"only {100 * iou:.0f} % of their annotated pixels agree"
