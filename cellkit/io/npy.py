"""NumPy's .npy files, never with pickled objects in them."""

from __future__ import annotations

from io import BytesIO
from tokenize import TokenError
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import Info, Pixels, decoding

__all__ = ["decode", "header"]


def header(data: Any) -> Info:
    """Read the header of a .npy file from its bytes."""
    with decoding("the .npy file"):
        file = BytesIO(data[: 1 << 16])
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        try:
            shape, _, dtype = reader(file)
        except TokenError as error:  # neither a ValueError nor a SyntaxError
            raise ValueError(f"its header cannot be parsed: {error}") from error
    if dtype.hasobject or dtype.kind not in "buif":
        raise ReadError(f"the .npy file holds {dtype}, not numbers")
    if len(shape) not in (2, 3):
        raise ReadError(f"the .npy file has shape {shape} (an image has axes y, x or y, x, channel)")
    return Info("npy", (shape[0], shape[1], shape[2] if len(shape) == 3 else 1), dtype.newbyteorder("=").name)


def decode(data: bytes, info: Info, projection: str = "none", *, indexed: bool = False) -> Pixels:  # noqa: ARG001
    """Decode a .npy file."""
    with decoding("the .npy file"):
        array = np.load(BytesIO(data), allow_pickle=False)
    return Pixels(array.astype(array.dtype.newbyteorder("="), copy=False))
