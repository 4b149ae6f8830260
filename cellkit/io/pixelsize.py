"""Pixel sizes: units, what a resolution tag may be trusted with, and cellkit's own note of them."""

from __future__ import annotations

import json
import math

__all__ = ["COARSE", "from_json", "from_resolution", "micrometres", "to_json"]

COARSE = 10.0
"""Micrometres; a resolution in dots per inch or centimetre that is coarser (under 2,540 dpi) is a screen's,
a printer's or a camera's default and says nothing of the specimen."""

_MICROMETRES = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1.0),
    **dict.fromkeys(("\\u00b5m", "\\u03bcm", "microm"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1e-3),
    **dict.fromkeys(("pm", "picometer"), 1e-6),
    **dict.fromkeys(("å", "ångström", "angstrom", "angstroms"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1e6),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}
_PRINTERS = ("cm", "centimeter", "centimeters", "centimetre", "in", "inch", "inches")


def micrometres(value: float, unit: str) -> float | None:
    """Return `value` in micrometres, or None where the unit is no length or the value no size."""
    factor = _MICROMETRES.get(unit.strip().casefold())
    if factor is None or not math.isfinite(value) or value <= 0:
        return None
    return _tidy(value * factor)


def from_resolution(y: float, x: float, unit: str) -> tuple[float, float] | None:
    """Return the pixel size (y, x) that a resolution in pixels per `unit` stands for, or None if not to be trusted."""
    if not (0 < y < math.inf and 0 < x < math.inf):
        return None
    sizes = micrometres(1 / y, unit), micrometres(1 / x, unit)
    if sizes[0] is None or sizes[1] is None:
        return None
    if unit.strip().casefold() in _PRINTERS and max(sizes[0], sizes[1]) > COARSE:
        return None
    return sizes[0], sizes[1]


def to_json(pixel_size: tuple[float, float] | None) -> str:
    """Return the text by which cellkit's own files say their pixel size exactly."""
    data: dict[str, object] = {"cellkit": 1}
    if pixel_size is not None:
        data["pixel_size_um"] = list(pixel_size)
    return json.dumps(data)


def from_json(text: str) -> tuple[float, float] | None:
    """Return the pixel size that `to_json` wrote, or None."""
    try:
        data = json.loads(text)
        y, x = data["pixel_size_um"]
        y, x = float(y), float(x)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (y, x) if 0 < y < math.inf and 0 < x < math.inf else None


def _tidy(value: float) -> float:
    """Take off the noise of unit conversions and of 32-bit rationals (0.32499999999 um)."""
    return float(f"{value:.9g}")
