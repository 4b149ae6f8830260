"""Example pictures: real ones that scikit-image ships, and fluorescence fields whose truth is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np

from cellkit.core.errors import UsageError, WriteError
from cellkit.io.temporary import atomic, write_failure
from cellkit.io.writer import write_image, write_labels

__all__ = ["fluorescence_field", "write_samples"]

PIXEL_SIZE = (0.5, 0.5)
"""Micrometres that a pixel of a made field stands for."""

_AREA = 2300  # pixels of field for a nucleus, where no count is asked for
_TOUCHING = 0.45  # the share of nuclei that are set beside another
_HIDDEN = 0.12  # the largest share of a nucleus that may lie under others
_PHOTONS = 350.0  # caught from the brightest pixels; the fewer, the more noise
_READ_NOISE = 3.0  # photons
_FIELDS: tuple[tuple[str, int, int, Literal[8, 16]], ...] = (
    ("field1.png", 512, 1, 8),
    ("field2.png", 384, 2, 8),
    ("field3.tif", 512, 3, 16),
)
_SHIPPED = {
    "histology/ihc.png": "Colonic glands, immunohistochemistry: FHL2 revealed with DAB (brown), haematoxylin "
    "counterstain. No known copyright restrictions.",
    "cells/cell.png": "A cell floating in saline, quantitative phase from a digital hologram, 0.107 um per pixel. "
    "Mueller et al., Optics Express 26(8), 2018, doi:10.1364/OE.26.010729. CC0.",
    "coins/coins.png": "Greek coins from Pompeii, Brooklyn Museum Collection. No known copyright restrictions.",
    "retina/microaneurysms.png": "Retina with lesions, detail of an image of the High-Resolution Fundus database. CC0.",
}
_README = """Example pictures for cellkit

nuclei/ and nuclei_truth/
    Made by cellkit.io.fluorescence_field: synthetic fluorescence fields of touching nuclei, uneven background,
    camera noise, 0.5 um per pixel. The truth is a 16-bit label image for each, one number a nucleus. CC0.
"""
_FROM = "Shipped with scikit-image (skimage.data)"


def fluorescence_field(
    size: int = 512, count: int | None = None, seed: int = 0, *, bits: Literal[8, 16] = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Make a fluorescence field of touching nuclei: the image, uint8 or uint16 (y, x), and its labels, int32 (y, x).

    Nuclei are ellipses with half-axes of 5 to 14 px, each with its own brightness and a texture; nearly half are set
    beside another, so that they touch or overlap a little (a pixel belongs to the nucleus whose centre is nearer in
    units of its axes). The sum is blurred by the optics (Gaussian, sigma 1.3 px), lies on an uneven background, and is
    counted with Poisson and read noise. `count` nuclei are tried for (default: one for every 2,300 pixels); where no
    room is left there are fewer. The same arguments give the same field.
    """
    if size < 1 or (count is not None and count < 0) or bits not in (8, 16):
        raise UsageError(f"fluorescence_field: size {size}, count {count}, bits {bits}: wanted size >= 1, bits 8 or 16")
    rng = np.random.default_rng(seed)
    labels, brightness = _place(rng, size, round(size * size / _AREA) if count is None else count)
    light = _optics(rng, labels, brightness)
    photons = rng.poisson(_PHOTONS * light) + rng.normal(0, _READ_NOISE, light.shape)
    top = 2**bits - 1
    # Two thirds of the range for the brightest nuclei: a camera set with care clips next to nothing.
    image = np.clip(np.rint(photons * (top / (1.5 * _PHOTONS))), 0, top)
    return image.astype(np.uint8 if bits == 8 else np.uint16), labels


def write_samples(folder: str | Path) -> list[Path]:
    """Write example pictures below `folder` and return their paths; files of those names are replaced.

    ``nuclei`` holds made fields and ``nuclei_truth`` their labels; ``histology``, ``cells``, ``coins`` and ``retina``
    the real pictures of this scikit-image, none of which is downloaded; ``README.txt`` says what each is. Raises
    `WriteError`.
    """
    folder = Path(folder)
    written: list[Path] = []

    def place(name: str) -> Path:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(path, error) from error
        written.append(path)
        return path

    for name, size, seed, bits in _FIELDS:
        image, labels = fluorescence_field(size, seed=seed, bits=bits)
        write_image(place(f"nuclei/{name}"), image, PIXEL_SIZE)
        write_labels(place(f"nuclei_truth/{Path(name).stem}.png"), labels, PIXEL_SIZE)
    readme = [_README]
    shipped = _shipped_folder()
    for name, what in _SHIPPED.items():
        original = shipped / Path(name).name
        if original.is_file():
            _copy(original, place(name))
            readme.append(f"{name}\n    {what}\n    {_FROM}.\n")
    _write_bytes(place("README.txt"), "\n".join(readme).encode())
    return written


def _shipped_folder() -> Path:
    """Return where the installed scikit-image keeps its pictures, without importing it."""
    spec = importlib.util.find_spec("skimage")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0] if places else "") / "data"


def _copy(original: Path, path: Path) -> None:
    try:
        data = original.read_bytes()
    except OSError as error:
        raise WriteError(f"{path}: cannot be copied from {original}: {error.strerror or error}") from error
    _write_bytes(path, data)


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def _place(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, int32 (y, x), of up to `count` ellipses and the brightness of each label, background first."""
    labels = np.zeros((size, size), np.int32)
    nearness = np.full((size, size), np.inf)  # to the centre of the pixel's nucleus, in units of its axes
    placed: list[tuple[float, float, float]] = []
    for _ in range(count * 8):
        if len(placed) == count:
            break
        long = rng.uniform(8, 14)
        short, turn = long * rng.uniform(0.65, 1), rng.uniform(0, np.pi)
        if placed and rng.random() < _TOUCHING:
            y, x, radius = placed[int(rng.integers(len(placed)))]
            angle, distance = rng.uniform(0, 2 * np.pi), (radius + (long + short) / 2) * rng.uniform(0.85, 1)
            y, x = y + distance * np.sin(angle), x + distance * np.cos(angle)
        else:
            y, x = rng.uniform(0, size, 2)
        if not (0 <= y < size and 0 <= x < size):
            continue
        top, left = max(0, int(y - long - 1)), max(0, int(x - long - 1))
        window = np.s_[top : int(y + long + 2), left : int(x + long + 2)]
        dy, dx = np.ogrid[window]
        dy, dx = dy - y, dx - x
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        near = ((along / long) ** 2 + (across / short) ** 2)[: size - top, : size - left]
        inside = near < 1
        under = labels[window]
        if np.count_nonzero(inside & (under > 0)) > _HIDDEN * np.count_nonzero(inside):
            continue
        mine = inside & (near < nearness[window])
        under[mine] = len(placed) + 1
        nearness[window][mine] = near[mine]
        placed.append((y, x, (long + short) / 2))
    return labels, np.concatenate([[0.0], rng.uniform(0.35, 1, len(placed))])


def _optics(rng: np.random.Generator, labels: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Return the light that reaches the camera: textured nuclei, blurred, on an uneven background."""
    from scipy import ndimage

    texture = ndimage.gaussian_filter(rng.normal(size=labels.shape), 2.5)
    texture = 1 + 0.16 * texture / max(float(texture.std()), 1e-9)
    light = ndimage.gaussian_filter(brightness[labels] * texture, 1.3)
    glow = ndimage.gaussian_filter(brightness[labels], 25)  # light from out of focus
    y, x = np.mgrid[-1 : 1 : labels.shape[0] * 1j, -1 : 1 : labels.shape[1] * 1j]
    slope_y, slope_x = rng.uniform(-0.02, 0.02, 2)
    background = 0.06 + slope_y * y + slope_x * x + 0.15 * glow
    shading = 1 - 0.12 * (x**2 + y**2)
    return np.clip((light + background) * shading, 0, None)
