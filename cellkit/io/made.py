"""Pictures made up for examples, in colour: a stained section, a blood smear, bacteria in darkfield."""

from __future__ import annotations

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.io.samples import fluorescence_field

__all__ = ["blood_smear", "darkfield", "stained_section"]

# Optical density of red, green and blue light where a stain is dense.
_HEMATOXYLIN = (0.95, 1.02, 0.42)
_EOSIN = (0.03, 0.42, 0.05)
_HEMOGLOBIN = (0.12, 0.42, 0.35)
_AZURE = (0.8, 1.15, 0.35)
_TRIES = 400


def stained_section(size: int = 256, count: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a section stained with hematoxylin and eosin: the image, uint8 (y, x, 3), and its nuclei, int32 (y, x).

    The nuclei are placed as by `fluorescence_field`; `count` means the same. The same arguments give the same picture.
    """
    _, labels = fluorescence_field(size, count, seed)
    rng = np.random.default_rng([seed, 1])
    amount = np.concatenate([[0.0], rng.uniform(0.5, 1, int(labels.max()))])[labels]
    nuclei = _blurred(amount, 1.2) * (1 + 0.12 * _texture(rng, labels.shape, 1.5))
    tissue = (0.75 + 0.2 * _texture(rng, labels.shape, 6)) * (1 - 0.6 * np.minimum(nuclei, 1))
    return _transmitted(rng, nuclei, _HEMATOXYLIN, tissue, _EOSIN), labels


def blood_smear(size: int = 256, count: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a stained blood smear: the image, uint8 (y, x, 3), and its cells, int32 (y, x).

    Cell 1 is a white one with a lobed nucleus, some 120 px across, near the middle; the others are red ones of 80 to
    96 px. `count` red cells are tried for (default: one for every 5,500 pixels). The same arguments give the same
    picture.
    """
    _refuse("blood_smear", size, count)
    rng = np.random.default_rng(seed)
    cells = [(0.55 * size, 0.45 * size, 60.0)]
    for _ in range(_TRIES):
        if len(cells) > (size * size // 5500 if count is None else count):
            break
        (y, x), radius = rng.uniform(0, size, 2), rng.uniform(40, 48)
        if all((y - b) ** 2 + (x - a) ** 2 > 0.9 * (radius + r) ** 2 for b, a, r in cells):
            cells.append((y, x, radius))
    labels = np.zeros((size, size), np.int32)
    red, blue = np.zeros((2, size, size))
    for number, (y, x, radius) in enumerate(cells, start=1):
        far = _distance(size, y, x) / radius
        inside = np.clip((1 - far) * radius / 3 + 0.5, 0, 1)
        labels[far < 1] = number
        if number > 1:
            red += inside * (1 - 0.55 * np.exp(-((far / 0.45) ** 2)))
            continue
        blue += 0.2 * inside
        for turn in (0.5, 2.6, 4.7):
            lobe = _distance(size, y + 0.38 * radius * np.sin(turn), x + 0.38 * radius * np.cos(turn))
            blue = np.maximum(blue, np.clip((0.4 * radius - lobe) / 3 + 0.5, 0, 1))
    return _transmitted(rng, red, _HEMOGLOBIN, blue, _AZURE), labels


def darkfield(size: int = 256, count: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a darkfield picture: the image, uint8 (y, x, 3), and the class of each pixel, uint8 (y, x).

    0 is background, 1 blood cells (bright rings), 2 bacteria (thin wavy threads). `count` bacteria are drawn (default:
    one for every 5,000 pixels), and a third as many cells. The same arguments give the same picture.
    """
    import cv2

    _refuse("darkfield", size, count)
    rng = np.random.default_rng(seed)
    count = max(1, size * size // 5000) if count is None else count
    classes = np.zeros((size, size), np.uint8)
    light = np.zeros((size, size), np.float32)
    for _ in range(-(-count // 3)):
        (y, x), radius = rng.uniform(0, size, 2), rng.uniform(20, 28)
        far = _distance(size, y, x)
        classes[far < radius] = 1
        light = np.maximum(light, 0.75 * np.exp(-(((far - radius + 2) / 1.8) ** 2)) + 0.12 * (far < radius))
    for _ in range(count):
        along = np.linspace(-1, 1, 40) * rng.uniform(9, 15)
        across = 1.8 * np.sin(along * 0.7 + rng.uniform(0, 6))
        turn, (y, x) = rng.uniform(0, np.pi), rng.uniform(0, size, 2)
        line = np.stack(
            [x + along * np.cos(turn) - across * np.sin(turn), y + along * np.sin(turn) + across * np.cos(turn)], 1
        )
        one = np.zeros((size, size), np.uint8)
        cv2.polylines(one, [np.rint(line).astype(np.int32)[:, None]], False, 255, 3)
        classes[one > 0] = 2
        light = np.maximum(light, one / 300)
    color = np.stack([light * share for share in (0.85, 0.95, 1.0)], axis=2) + 0.05
    color = _blurred(color, 0.8) + rng.normal(0, 0.012, color.shape)
    return np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8), classes


def _refuse(name: str, size: int, count: int | None) -> None:
    if size < 1 or (count is not None and count < 0):
        raise UsageError(f"{name}: size {size}, count {count}: wanted size >= 1 and count >= 0")


def _distance(size: int, y: float, x: float) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    return np.hypot(rows - y, columns - x)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma)


def _texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    noise = _blurred(rng.normal(size=shape), sigma)
    return noise / max(float(noise.std()), 1e-9)


def _transmitted(
    rng: np.random.Generator,
    first: np.ndarray,
    first_color: tuple[float, float, float],
    second: np.ndarray,
    second_color: tuple[float, float, float],
) -> np.ndarray:
    """Return what a camera sees of light that two stains have weakened (Beer and Lambert), uint8 (y, x, 3)."""
    density = np.maximum(first, 0)[..., None] * first_color + np.maximum(second, 0)[..., None] * second_color
    light = _blurred(0.92 * np.exp(-density), 0.9) + rng.normal(0, 0.012, density.shape)
    return np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
