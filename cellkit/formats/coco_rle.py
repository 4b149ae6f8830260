"""COCO run-length encoding: masks as alternating run lengths, background first, down the columns.

The compressed text holds each length (from the fourth on: its difference to the one two before) in digits of 5 bits,
least first, with a sixth bit for "more follows", as ASCII 48 to 111. Counts are 32-bit in every reader: an image of
2**32 pixels or more needs its objects cropped.

Source: maskApi.c of pycocotools (rleToString, rleFrString).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats._runs import Runs, merged, paint, runs_of, stable_order

__all__ = [
    "MAX_COUNT",
    "compress",
    "decode_labels",
    "decode_runs",
    "decompress",
    "encode_labels",
    "encode_runs",
    "runs_from",
]

MAX_COUNT = 2**32 - 1
_MAX_DIGITS = 7  # of 5 bits: a sign and 33 bits, the difference of two 32-bit counts


def encode_labels(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Encode every object of a label image, integer (y, x) with 0 for background, in one pass.

    Returns the ids that occur, ascending int64 (n,), and the compressed counts of each, equal to those of pycocotools.
    Raises `FormatError` where `labels` is no label image, holds negative values, or has 2**32 pixels or more.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise FormatError(f"wanted labels, integers (y, x), got {labels.dtype} {labels.shape}")
    starts, ends, values = runs_of(labels)
    if len(values) and labels.dtype.kind == "i" and int(values.min()) < 0:
        raise FormatError(f"labels must not be negative, got {int(values.min())}")
    order = stable_order(values)
    values = values[order]
    new = np.append(True, values[1:] != values[:-1]) if len(values) else np.zeros(0, bool)
    runs = Runs(starts[order], ends[order], np.cumsum(new, dtype=np.int64) - 1)
    ids = values[new].astype(np.int64)
    return ids, encode_runs(runs, len(ids), labels.shape)


def decode_labels(
    texts: Sequence[str | bytes],
    size: tuple[int, int],
    *,
    ids: Sequence[int] | np.ndarray | None = None,
    name: str = "",
) -> np.ndarray:
    """Decode the compressed counts of one image's objects into labels, int32 (y, x) of `size`.

    The object at position i becomes label i + 1, or ``ids[i]``. `name` says in messages which image it is. Raises
    `FormatError` for counts that are damaged or do not fill `size`, and for objects that share a pixel.
    """
    from cellkit.formats.objects import MAX_PIXELS, ObjectSet

    numbers = np.arange(1, len(texts) + 1) if ids is None else np.asarray(ids)
    where = [f"image {name!r}, object {i}" for i in range(1, len(texts) + 1)] if name else ()
    runs = decode_runs(texts, size, names=where)
    order = np.argsort(runs.starts, kind="stable")
    starts, ends, owner = runs.starts[order], runs.ends[order], runs.owner[order]
    drawable = size[0] * size[1] <= MAX_PIXELS and numbers.shape == (len(texts),) and (numbers > 0).all()
    if not drawable or (ends[:-1] > starts[1:]).any():
        return ObjectSet.of_runs(runs, size, numbers, name).labels()  # which says what is wrong
    return paint(starts, ends, numbers.astype(np.int32)[owner], size)


def encode_runs(runs: Runs, count: int, size: tuple[int, int]) -> list[str]:
    """Return the compressed counts of each of `count` objects in an image of `size`."""
    return compress(*counts_of(runs, count, size))


def counts_of(runs: Runs, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of all objects, int64, one object after the other, and how many each has."""
    pixels = int(size[0]) * int(size[1])
    if pixels > MAX_COUNT:
        raise FormatError(f"an image of {size[0]} x {size[1]} px does not fit 32-bit counts; crop its objects")
    each = np.bincount(runs.owner, minlength=count) if len(runs) else np.zeros(count, np.int64)
    first = np.cumsum(each) - each
    before = np.zeros(len(runs), np.int64)  # where the run before it ends, 0 for an object's first
    before[1:] = runs.ends[:-1]
    before[first[each > 0]] = 0
    last = np.zeros(count, np.int64)
    last[each > 0] = runs.ends[(first + each - 1)[each > 0]]
    # As pycocotools has it: what is left behind the last run is a count only where there is something left.
    tail = last < pixels
    numbers = 2 * each + tail
    out = np.empty(int(numbers.sum()), np.int64)
    begin = np.cumsum(numbers) - numbers
    at = begin[runs.owner] + 2 * (np.arange(len(runs)) - first[runs.owner])
    out[at] = runs.starts - before
    out[at + 1] = runs.ends - runs.starts
    out[(begin + numbers - 1)[tail]] = (pixels - last)[tail]
    return out, numbers


def compress(counts: np.ndarray, numbers: np.ndarray) -> list[str]:
    """Compress counts, one object after the other, of which object i has ``numbers[i]``, into one text each."""
    first = np.cumsum(numbers) - numbers
    place = np.arange(len(counts)) - np.repeat(first, numbers)
    left = counts.astype(np.int64)
    later = np.flatnonzero(place > 2)
    left[later] -= counts[later - 2]
    # A digit is the last one where the rest is all sign: 0 above a clear fifth bit, -1 above a set one.
    digits = np.zeros((len(left), _MAX_DIGITS), np.uint8)
    lengths = np.zeros(len(left), np.int64)
    at = np.arange(len(left))
    for column in range(_MAX_DIGITS):
        low = left & 31
        left = left >> 5
        more = np.where(low & 16, left != -1, left != 0)
        digits[at, column] = low + 48 + 32 * more
        lengths[at] += 1
        at, left = at[more], left[more]
        if not len(at):
            break
    if not len(numbers):
        return []
    text = digits[digits > 0].tobytes().decode("ascii")
    ends: list[int] = np.cumsum(np.add.reduceat(np.append(lengths, 0), first) * (numbers > 0)).tolist()
    return [text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def decompress(texts: Sequence[str | bytes], names: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of all texts, int64, one text after the other, and how many each holds.

    Raises `FormatError` for other characters, a text that ends within a number, and numbers of more than 33 bits.
    """
    parts = [_bytes(text, i, names) for i, text in enumerate(texts)]
    sizes = np.array([len(part) for part in parts], np.int64)
    bounds = np.cumsum(sizes)
    data = np.frombuffer(b"".join(parts), np.uint8) - np.uint8(48)
    owner_of = lambda i: int(np.searchsorted(bounds, i, "right"))  # noqa: E731 - one line, used in three messages
    bad = np.flatnonzero(data > 63)
    if len(bad):
        i = owner_of(bad[0])
        byte = parts[i][int(bad[0] - (bounds[i] - sizes[i]))]
        raise FormatError(f"{_where(names, i)}character {chr(byte)!r} is none of compressed counts (ASCII 48 to 111)")
    last = data < 32
    open_end = np.flatnonzero((sizes > 0) & ~last[np.maximum(bounds - 1, 0)]) if len(data) else np.zeros(0, np.int64)
    if len(open_end):
        raise FormatError(
            f"{_where(names, int(open_end[0]))}the compressed counts end within a number; are they cut off?"
        )
    ends = np.flatnonzero(last)
    begins = np.append(0, ends[:-1] + 1) if len(ends) else ends
    width = ends - begins + 1
    long = np.flatnonzero(width > _MAX_DIGITS)
    if len(long):
        raise FormatError(f"{_where(names, owner_of(begins[long[0]]))}a count of more than 33 bits")
    values = (data[begins] & 31).astype(np.int64)
    for digit in range(1, int(width.max(initial=0))):
        more = np.flatnonzero(width > digit)
        values[more] |= (data[begins[more] + digit] & 31).astype(np.int64) << (5 * digit)
    values -= ((data[ends] >> 4) & 1).astype(np.int64) << (5 * width)
    numbers = np.diff(np.append(0, np.searchsorted(ends, bounds - 1, "right")))
    return _summed(values, numbers), numbers


def _summed(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Undo the differences: from the fourth on, each count is its difference added to the one two before."""
    first = np.cumsum(numbers) - numbers
    place = np.arange(len(values)) - np.repeat(first, numbers)
    out = values.copy()
    for parity in (0, 1):
        at = np.flatnonzero((place % 2 == parity) & (place > 0))
        sums = np.cumsum(values[at])
        # Every chain starts at the second or third count of its object: take off what came before.
        head = np.flatnonzero(place[at] <= 2)
        begun = np.append(0, sums)[head]
        out[at] = sums - np.repeat(begun, np.diff(np.append(head, len(at))))
    return out


def decode_runs(texts: Sequence[str | bytes], size: tuple[int, int], *, names: Sequence[str] = ()) -> Runs:
    """Decode compressed counts, one text per object of an image of `size`, into runs.

    `names` say in messages which object it is. Raises `FormatError` for counts that are damaged or do not fill `size`.
    """
    counts, numbers = decompress(texts, names)
    return runs_from(counts, numbers, size, names)


def runs_from(counts: np.ndarray, numbers: np.ndarray, size: tuple[int, int], names: Sequence[str] = ()) -> Runs:
    """Return the runs that counts stand for; they must be 0 or more and fill the image of `size` exactly."""
    pixels = int(size[0]) * int(size[1])
    owner = np.repeat(np.arange(len(numbers)), numbers)
    bad = np.flatnonzero((counts < 0) | (counts > min(pixels, MAX_COUNT)))
    if len(bad):
        raise FormatError(
            f"{_where(names, int(owner[bad[0]]))}a count of {counts[bad[0]]}; wanted 0 to {min(pixels, MAX_COUNT)} "
            f"in {size[0]} x {size[1]} px"
        )
    total = np.cumsum(counts)
    first = np.cumsum(numbers) - numbers
    before = np.append(0, total)
    sums = before[first + numbers] - before[first]
    wrong = np.flatnonzero(sums != pixels)
    if len(wrong):
        i = int(wrong[0])
        raise FormatError(
            f"{_where(names, i)}the counts add up to {sums[i]} pixels, the size {size[0]} x {size[1]} has {pixels} "
            "(is size [height, width]?)"
        )
    place = np.arange(len(counts)) - first[owner]
    inside = np.flatnonzero(place % 2 == 1)
    ends = (total - before[first[owner]])[inside]
    return merged(ends - counts[inside], ends, owner[inside])


def _bytes(text: str | bytes, index: int, names: Sequence[str]) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise FormatError(f"{_where(names, index)}wanted compressed counts as text, got {type(text).__name__}")
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise FormatError(f"{_where(names, index)}compressed counts are ASCII text") from None


def _where(names: Sequence[str], index: int) -> str:
    return f"{names[index] if names else f'object {index + 1}'}: "
