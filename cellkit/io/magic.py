"""What a file is, told by its first bytes and never by its name."""

from __future__ import annotations

import struct

__all__ = ["HEAD", "describe", "sniff", "vendor"]

HEAD = 1024
"""How many first bytes of a file are enough to tell."""

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXPORT = "export it as OME-TIFF or PNG from the program that made it"

# What other packages read, where they are installed.
_VENDORS = {
    "czi": (0, b"ZISRAWFILE"),
    "nd2": (0, b"\xda\xce\xbe\x0a"),
    "lif": (0, b"\x70\x00\x00\x00"),
    "dicom": (128, b"DICM"),
}

_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"ZISRAWFILE", "a Zeiss CZI file", _EXPORT),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2 file", _EXPORT),
    (0, b"\x70\x00\x00\x00", "a Leica LIF file", _EXPORT),
    (0, b"\xd0\xcf\x11\xe0", "a compound file (Olympus OIB, Zeiss ZVI or an old Office document)", _EXPORT),
    (128, b"DICM", "a DICOM file", _EXPORT),
    (0, b"\x89HDF", "an HDF5 file (Imaris IMS, for one)", _EXPORT),
    (0, b"SIMPLE  =", "a FITS file", _EXPORT),
    (0, b"8BPS", "a Photoshop file", _EXPORT),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file", _EXPORT),
    (0, b"\xffO\xffQ", "a JPEG 2000 file", _EXPORT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file", _EXPORT),
    (4, b"ftypavif", "an AVIF file", _EXPORT),
    (4, b"ftyp", "a HEIC picture or a video", _EXPORT),
    (0, b"%PDF", "a PDF file", "extract the picture from it"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a RAR archive", "unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
)


def sniff(head: bytes) -> str:
    """Return ``png``, ``jpeg``, ``bmp``, ``gif``, ``webp``, ``tiff``, ``npy`` or ``dzi`` for a file's first bytes.

    ``""`` is none of them.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(_TIFF):
        return "tiff"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "bmp"
    return "dzi" if b"schemas.microsoft.com/deepzoom/" in head else ""


def vendor(head: bytes) -> str:
    """Return ``czi``, ``nd2``, ``lif`` or ``dicom`` where these are a file's first bytes, else ``""``."""
    for kind, (offset, magic) in _VENDORS.items():
        if head[offset : offset + len(magic)] == magic:
            return kind
    return ""


def describe(head: bytes) -> tuple[str, str]:
    """Return what a file that is no image looks like, in words, and what its owner may do about it."""
    for offset, magic, words, fix in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            return words, fix
    if not head.strip(b"\0"):
        return "nothing but zeros, as a failed copy leaves behind", "copy it again"
    text = _text(head)
    if text is None:
        return "data of an unknown format", _EXPORT
    start = " ".join(text.split())[:40]
    lower = start.lower()
    if lower.startswith(("<!doctype html", "<html")):
        return "a web page (HTML)", "a download that failed or asked for a log-in leaves such files: fetch it again"
    if "<svg" in text.lower():
        return "an SVG drawing", "export it as PNG"
    return f"text ({start!r})", "if it is no image, keep it out of the folder"


def _text(head: bytes) -> str | None:
    """Return `head` as text, or None where it is none."""
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            return head[2:].decode(encoding, "ignore")
    for cut in range(4):  # the head may end within a character
        try:
            text = head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        return text if all(c.isprintable() or c in "\t\r\n\f" for c in text) else None
    return None
