"""Kaggle run-length encoding: masks as text.

Pixels are numbered from 1, down each column and then to the right. A mask is the text ``start length start length ...``
with ascending starts and no overlap; a mask without pixels is the empty text. Everything works on change points, so
the time taken hardly depends on how many objects an image has.

Source: the evaluation page of the Data Science Bowl 2018 (kaggle.com/c/data-science-bowl-2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats._runs import paint, runs_of, runs_of_part, stable_order

__all__ = ["decode", "decode_labels", "decode_runs", "encode_labels", "encode_mask", "encode_part"]

_MAX_DIGITS = 18  # what int64 surely holds


def encode_labels(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Encode every object of a label image, integer (y, x) with 0 for background, in one pass.

    Returns the ids that occur, ascending int64 (n,), and the text of each. The pieces of a fragmented object stand in
    one text. Raises `FormatError` where `labels` is no label image or holds negative values.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise FormatError(f"wanted labels, integers (y, x), got {labels.dtype} {labels.shape}")
    return _encoded(labels, *runs_of(labels))


def encode_part(labels: np.ndarray, origin: tuple[int, int], height: int) -> tuple[np.ndarray, list[str]]:
    """As `encode_labels`, for `labels` that are the part from `origin` (y, x) on of an image `height` px high.

    The texts are those of the whole image, for objects that lie wholly inside the part.
    """
    return _encoded(labels, *runs_of_part(labels, origin, height))


def _encoded(
    labels: np.ndarray, starts: np.ndarray, ends: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    if len(values) and labels.dtype.kind == "i" and int(values.min()) < 0:
        raise FormatError(f"labels must not be negative, got {int(values.min())}")
    order = stable_order(values)
    starts, ends, values = starts[order], ends[order], values[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], np.ones(min(1, len(values)), np.bool_)))
    pairs = np.empty((len(starts), 2), np.int64)
    pairs[:, 0] = starts + 1
    pairs[:, 1] = ends - starts
    return values[last].astype(np.int64), _texts(pairs.ravel(), 2 * last + 1)


def encode_mask(mask: np.ndarray) -> str:
    """Encode one mask, bool (y, x). Raises `FormatError` where it is none.

    >>> encode_mask(np.array([[False, True], [True, True]]))
    '2 3'
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise FormatError(f"wanted a mask, bool (y, x), got {mask.dtype} {mask.shape}")
    return "".join(encode_labels(mask.view(np.uint8))[1])


def decode(text: str, shape: tuple[int, int], *, name: str = "") -> np.ndarray:
    """Decode one mask: bool (y, x) of `shape`.

    `name` says in messages which image it is. Raises `FormatError` for an odd count of numbers, anything that is no
    whole number, starts or lengths below 1, runs that leave the image, and runs that overlap or do not ascend.
    """
    starts, ends, _ = _parse([text], shape, name)
    return paint(starts, ends, np.ones(len(starts), np.uint8), shape).view(np.bool_)


def decode_labels(
    texts: Sequence[str], shape: tuple[int, int], *, ids: Sequence[int] | np.ndarray | None = None, name: str = ""
) -> np.ndarray:
    """Decode the masks of one image into labels, int32 (y, x) of `shape`.

    The mask at position i becomes label i + 1, or ``ids[i]``; an empty text leaves its label without pixels. Raises
    `FormatError` for what `decode` refuses and where two masks share a pixel.
    """
    if isinstance(texts, str):
        raise FormatError(f"{_where(name)}wanted one text per object, got a single text; use decode")
    values = _ids(ids, len(texts), name)
    starts, ends, owner = _parse(texts, shape, name)
    order = np.argsort(starts, kind="stable")
    starts, ends, owner = starts[order], ends[order], owner[order]
    clash = np.flatnonzero(ends[:-1] > starts[1:])
    if len(clash):
        first, second = sorted((int(owner[clash[0]]), int(owner[clash[0] + 1])))
        x, y = divmod(int(starts[clash[0] + 1]), shape[0])
        raise FormatError(
            f"{_where(name)}masks {first + 1} and {second + 1} share pixels, the first at row {y}, column {x}; "
            "labels do not overlap"
        )
    return paint(starts, ends, values[owner], shape)


def _texts(numbers: np.ndarray, last: np.ndarray) -> list[str]:
    """Write `numbers`, int64 from 1 up, separated by spaces; each index in `last` ends a text."""
    groups = -(-len(str(int(numbers.max(initial=0)))) // 4)
    # Four digits at a time, in fields of fixed width; the NULs that fill them are dropped at the end.
    fields = np.empty((len(numbers), groups + 1), np.uint32)
    fields[:, groups] = np.frombuffer(b" \0\0\0", np.uint32)
    fields[last, groups] = np.frombuffer(b"\n\0\0\0", np.uint32)
    left = numbers
    for group in range(groups - 1, -1, -1):
        rest = left // 10_000
        fields[:, group] = _four_digits()[left - rest * 10_000 + 10_000 * (rest > 0)]
        left = rest
    return fields.tobytes().translate(None, b"\0").decode("ascii").split("\n")[:-1]


@lru_cache(maxsize=1)
def _four_digits() -> np.ndarray:
    """Text of 0 to 9999 as the four bytes of a uint32 (20000,): first led by NULs (0 is NULs alone), then by zeros."""
    numbers = np.arange(10_000)[:, None]
    places = np.array([1000, 100, 10, 1])
    zeros = (numbers // places % 10 + ord("0")).astype(np.uint8)
    return np.concatenate([np.where(numbers >= places, zeros, 0).astype(np.uint8), zeros]).view(np.uint32).ravel()


def decode_runs(
    texts: Sequence[str], shape: tuple[int, int], *, name: str = ""
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start, end (half-open, 0-based) and the index of its text for every run, refusing what `decode` does."""
    return _parse(texts, shape, name)


def _where(name: str, owner: int | None = None, pair: int | None = None) -> str:
    """Return the head of a message: image, mask and pair, the last two counted from 1."""
    parts = [f"image {name!r}"] if name else []
    parts += [f"mask {owner + 1}"] if owner is not None else []
    parts += [f"pair {pair + 1}"] if pair is not None else []
    return f"{', '.join(parts)}: " if parts else ""


def _ids(ids: Sequence[int] | np.ndarray | None, count: int, name: str) -> np.ndarray:
    if ids is None:
        return np.arange(1, count + 1, dtype=np.int32)
    given = np.asarray(ids)
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        raise FormatError(f"{_where(name)}wanted {count} whole numbers as ids, one per mask, got {ids!r}")
    if count and (given.min() < 1 or given.max() > np.iinfo(np.int32).max or len(np.unique(given)) != count):
        raise FormatError(f"{_where(name)}ids must be different whole numbers from 1 to {np.iinfo(np.int32).max}")
    return given.astype(np.int32)


def _parse(texts: Sequence[str], shape: tuple[int, int], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start, end (half-open, 0-based) and the index of its text for every run; all checked."""
    if len(shape) != 2 or min(shape) < 0:
        raise FormatError(f"{_where(name)}wanted a shape (height, width), got {shape!r}")
    numbers, counts = _numbers(texts, name)
    odd = np.flatnonzero(counts % 2)
    if len(odd):
        count = int(counts[odd[0]])
        raise FormatError(
            f"{_where(name, int(odd[0]), count // 2)}no length; wanted pairs 'start length', got {count} "
            f"number{'s' if count != 1 else ''}"
        )
    owner = np.repeat(np.arange(len(texts)), counts // 2)
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    pixels = int(shape[0]) * int(shape[1])
    size = f"the image has {shape[0]} x {shape[1]} = {pixels} pixels"
    first_pair = np.cumsum(counts // 2) - counts // 2

    def refuse(bad: np.ndarray, message: Callable[[int], str]) -> None:
        at = int(np.argmax(bad)) if len(bad) else 0
        if len(bad) and bad[at]:
            which = int(owner[at])
            raise FormatError(f"{_where(name, which, at - int(first_pair[which]))}{message(at)}")

    refuse(starts < 0, lambda i: f"starts at {starts[i] + 1}; pixels are counted from 1")
    refuse(lengths < 1, lambda i: f"has length {lengths[i]}; wanted 1 or more")
    refuse(starts >= pixels, lambda i: f"starts at {starts[i] + 1}, beyond the image: {size}; is the shape right?")
    refuse(
        lengths > pixels - starts,
        lambda i: f"runs from {starts[i] + 1} to {starts[i] + lengths[i]}, beyond the image: {size}",
    )
    ends = starts + lengths
    back = np.zeros(len(starts), np.bool_)
    back[1:] = (starts[1:] < ends[:-1]) & (owner[1:] == owner[:-1])
    refuse(
        back,
        lambda i: (
            f"starts at {starts[i] + 1}, but the pair before it ends at {ends[i - 1]}; wanted ascending runs "
            "that do not overlap"
        ),
    )
    return starts, ends, owner


def _numbers(texts: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return every number of all texts, int64, and how many stand in each text."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise FormatError(
                f"{_where(name, i)}wanted text, got {text!r} (pandas reads an empty cell as nan: "
                "pass keep_default_na=False)"
            )
    bounds = np.cumsum([0, *(len(text) + 1 for text in texts)])
    data = np.frombuffer(" ".join(texts).encode("ascii", "replace"), np.uint8)
    is_digit = (data - np.uint8(ord("0"))) < 10
    is_space = (data == ord(" ")) | ((data - np.uint8(9)) < 5)
    bad = ~(is_digit | is_space)
    if bad.any():
        _refuse_token(texts, int(np.searchsorted(bounds, np.argmax(bad), "right")) - 1, name)
    edges = np.flatnonzero(np.diff(is_digit.astype(np.int8), prepend=0, append=0))
    begins, width = edges[0::2], edges[1::2] - edges[0::2]
    counts = np.diff(np.searchsorted(begins, bounds))
    if len(width) and width.max() > _MAX_DIGITS:
        _refuse_token(texts, int(np.searchsorted(bounds, begins[np.argmax(width)], "right")) - 1, name)
    numbers = np.zeros(len(begins), np.int64)
    for place in range(int(width.max()) if len(width) else 0):
        more = np.flatnonzero(width > place)
        numbers[more] = numbers[more] * 10 + (data[begins[more] + place] - np.uint8(ord("0")))
    return numbers, counts


def _refuse_token(texts: Sequence[str], owner: int, name: str) -> None:
    """Raise for the first part of a text that is no number of at most 18 digits."""
    for i, token in enumerate(texts[owner].split()):
        if token.startswith("-") and token[1:].isdecimal():
            raise FormatError(f"{_where(name, owner, i // 2)}{token[:40]} is negative; wanted 1 or more")
        if not (token.isascii() and token.isdecimal()) or len(token) > _MAX_DIGITS:
            many = token.isascii() and token.isdecimal()
            what = f"a number of {len(token)} digits" if many else f"{token[:40]!r}"
            raise FormatError(f"{_where(name, owner, i // 2)}wanted a whole number such as 1024, got {what}")
    raise FormatError(f"{_where(name, owner)}wanted whole numbers separated by spaces")
