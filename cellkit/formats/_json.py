"""JSON from anywhere: parsed without surprises, and its parts taken out with a word on what is wrong."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np

from cellkit.core.errors import FormatError

__all__ = ["FAR", "count", "dumps", "entry", "listed", "number", "numbers", "parse", "pixel_size", "sides", "whole"]

FAR = 2.0**33
"""Coordinates beyond are taken for damage."""


def parse(text: str | bytes, what: str) -> Any:
    """Return what JSON text says. Raises `FormatError` where it is none, nests too deeply, or holds NaN."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise FormatError(f"{what}: the JSON nests too deeply") from None
    except ValueError as error:
        raise FormatError(f"{what}: no valid JSON: {error}") from error


def dumps(value: Any) -> str:
    """Return compact JSON, the same every time."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def entry(value: Any, where: str) -> dict[str, Any]:
    """Return `value` where it is an object."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: wanted an object, got {_shown(value)}")
    return value


def listed(value: Any, where: str) -> list[Any]:
    """Return `value` where it is a list."""
    if not isinstance(value, list):
        raise FormatError(f"{where}: wanted a list, got {_shown(value)}")
    return value


def number(value: Any, where: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(FAR**8) < value < FAR**8:
        raise FormatError(f"{where}: wanted a number, got {_shown(value)}")
    return float(value)


def whole(value: Any, where: str) -> int:
    """Return a whole number; 3.0 counts as one."""
    given = number(value, where)
    if given != int(given) or abs(given) > 2**53:
        raise FormatError(f"{where}: wanted a whole number, got {_shown(value)}")
    return int(value)


def count(value: Any, where: str) -> int:
    """Return a whole number from 1 up."""
    given = whole(value, where)
    if given < 1:
        raise FormatError(f"{where}: wanted 1 or more, got {given}")
    return given


def numbers(value: Any, where: str, columns: int | None = None) -> np.ndarray:
    """Return a list of finite numbers as float64 (n,), or of lists of `columns` or more as float64 (n, columns)."""
    listed(value, where)
    if not value:
        return np.zeros((0,) if columns is None else (0, columns))
    # Looked at before numpy sees them: it would pad a text among numbers to the length of all.
    flat = value if columns is None else list(chain.from_iterable(v if isinstance(v, list) else [v] for v in value))
    plain = set(map(type, flat)) <= {int, float}
    even = columns is None or len({len(v) if isinstance(v, list) else -1 for v in value}) == 1
    array = np.array(value if plain and even else None)
    if array.dtype.kind not in "iuf" or array.ndim != (1 if columns is None else 2):
        shape = "numbers" if columns is None else f"lists of {columns} numbers"
        raise FormatError(f"{where}: wanted a list of {shape}, got {_shown(value)}")
    if columns is not None:
        if array.shape[1] < columns:
            raise FormatError(f"{where}: wanted {columns} numbers each, got {array.shape[1]}")
        array = array[:, :columns]
    array = array.astype(np.float64)
    bad = ~(np.abs(array) <= FAR)
    if bad.any():
        raise FormatError(f"{where}: {array[bad].flat[0]:g} lies beyond any image")
    return array


def sides(value: Any, where: str) -> tuple[int, int]:
    """Return a size, [height, width]."""
    given = listed(value, where)
    if len(given) != 2:
        raise FormatError(f"{where}: wanted [height, width], got {_shown(value)}")
    return count(given[0], where), count(given[1], where)


def pixel_size(value: Any, where: str) -> tuple[float, float] | None:
    """Return a pixel size, [y, x] in micrometres, or None for none."""
    if value is None:
        return None
    given = listed(value, where)
    if len(given) != 2:
        raise FormatError(f"{where}: wanted [y, x] in micrometres, got {_shown(value)}")
    y, x = (number(v, where) for v in given)
    if not (y > 0 and x > 0):
        raise FormatError(f"{where}: wanted two sizes above 0, got {_shown(value)}")
    return y, x


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict, str)) and len(value) > 40:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)[:60]
    return text if len(text) < 60 else f"{text} ..."
