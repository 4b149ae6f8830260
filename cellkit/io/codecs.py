"""The codecs of pictures that are decoded whole."""

from __future__ import annotations

from types import ModuleType

__all__ = ["codec_of"]


def codec_of(kind: str) -> ModuleType:
    """Return the module with `header` and `decode` for a format that `cellkit.io.magic.sniff` tells."""
    from cellkit.io import jpeg, npy, pillow, png, webp

    return {"png": png, "jpeg": jpeg, "webp": webp, "npy": npy, "bmp": pillow, "gif": pillow}[kind]
