"""Cards: what is known of a trained network, as data. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Union

from cellkit.core import FormatError
from cellkit.core.errors import suggest
from cellkit.models.architecture import Task

__all__ = ["FIXED_CLASSES", "HEADS", "Card", "Head", "parse_card"]

Head = Literal["sigmoid", "softmax", "border", "distance", "boxes", "masks"]

HEADS: Mapping[str, str] = {
    "sigmoid": "one probability a class, each by itself",
    "softmax": "one probability a class, background among them, that add up to 1",
    "border": "softmax over background, interior and border of an object",
    "distance": "interior and border of an object, and its distance map scaled to [0, 1], each by itself",
    "boxes": "boxes with a class and a score",
    "masks": "boxes with a class, a score and a mask",
}
"""What the outputs of a network mean."""

FIXED_CLASSES: Mapping[str, tuple[str, ...]] = {
    "border": ("background", "interior", "border"),
    "distance": ("interior", "border", "distance"),
}
"""The channels of those heads that prescribe them."""

_VERSION = 1
_MOST_BYTES = 10_000_000
_MOST_CLASSES = 1024
_LARGEST = 1e30  # well inside float32


@dataclass(frozen=True)
class Card:
    """A trained network, but for its weights.

    `architecture`, `parameters`: by which it is rebuilt. `task`: see `ArchitectureSpec`. `channels`: of the input,
    whose values lie in `input_range`; `mean` and `std`, one a channel, are subtracted and divided by before the
    network. `classes`: names of the output channels (dense) or of the classes that 0, 1, ... stand for (boxes, masks).
    `head`: see `HEADS`. `recipe`: the steps it was trained behind, as a recipe holds them.

    `divisor`: sides of an input are multiples of it. `reach`: pixels of context that an output pixel can depend on, or
    None where it is the whole input. `halo`: pixels of context that a tile is given. `tolerance`: the largest
    difference between tiled at that halo and untiled, in probabilities, at float32. `tile`: the side of the pictures a
    detector was trained on, beyond which it tiles. `activation`: bytes that live at once for a pixel of a tile, at
    float32 (0: not known). `precision`: the number formats in which its figures hold.

    `sha256` digests the weights. `obtain` says how to get or train them. `data`, `licence`: what it was trained on and
    under which terms it may be used. `figures`: measured scores. `weak`: what it gets wrong.
    """

    name: str
    architecture: str
    task: Task
    channels: int
    classes: tuple[str, ...]
    head: Head
    parameters: Mapping[str, Any] = field(default_factory=dict)
    input_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixel_size: float | None = None
    recipe: tuple[Any, ...] = ()
    divisor: int = 1
    reach: int | None = None
    halo: int = 0
    tolerance: float = 1e-4
    tile: int | None = None
    activation: float = 0.0
    precision: tuple[str, ...] = ("float32",)
    sha256: str = ""
    obtain: str = ""
    data: str = ""
    licence: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    weak: str = ""

    def __post_init__(self) -> None:
        for name in ("classes", "mean", "std", "input_range", "precision"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("parameters", "recipe", "figures"):
            object.__setattr__(self, name, _tupled(getattr(self, name)))
        problem = _problem(self)
        if problem:
            raise FormatError(f"card {self.name!r}: {problem}")

    def dump(self) -> str:
        """Return the card as JSON; `parse_card` gives an equal card back."""
        return json.dumps({"cellkit_card": _VERSION, **asdict(self)}, indent=2, ensure_ascii=False)


def parse_card(text: str, where: str) -> Card:
    """Return the card that JSON `text` holds. Raises `FormatError`, naming `where`, for anything else."""
    if len(text) > _MOST_BYTES:
        raise FormatError(f"{where}: no card: {len(text):,} characters")
    try:
        values = _tupled(json.loads(text, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: no card: {error}") from error
    if not isinstance(values, dict) or "cellkit_card" not in values:
        raise FormatError(f"{where}: no card: wanted a JSON object with the key cellkit_card")
    version = values.pop("cellkit_card")
    if version != _VERSION:
        raise FormatError(f"{where}: a card of version {version!r}; this cellkit reads version {_VERSION}")
    known = {f.name: f for f in fields(Card)}
    for name in values:
        if name not in known:
            raise FormatError(f"{where}: unknown key {name!r} {suggest(name, known)}".rstrip())
    missing = [name for name in ("name", "architecture", "task", "channels", "classes", "head") if name not in values]
    if missing:
        raise FormatError(f"{where}: the card lacks {', '.join(missing)}")
    for name, value in values.items():
        wanted = _TYPES[str(known[name].type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise FormatError(f"{where}: {name}: wanted {known[name].type}, got {_short(value)}")
    try:
        return Card(**values)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


_NUMBER = (int, float)
_TYPES: Mapping[str, Any] = {
    "str": str,
    "Task": str,
    "Head": str,
    "int": int,
    "float": _NUMBER,
    "int | None": (int, type(None)),
    "float | None": (*_NUMBER, type(None)),
    "tuple[str, ...]": tuple,
    "tuple[float, ...]": tuple,
    "tuple[float, float]": tuple,
    "tuple[Any, ...]": tuple,
    "Mapping[str, Any]": dict,
}
"""What JSON, its lists as tuples, gives for each annotation of `Card`."""


def _tupled(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_tupled(item) for item in value)
    return {key: _tupled(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON; where a figure is undefined, write null")


def _problem(card: Card) -> str:
    """Return what is wrong with the values of a card, or an empty string."""
    heads = {"dense": ("sigmoid", "softmax", "border", "distance"), "boxes": ("boxes",), "masks": ("masks",)}
    if card.task not in heads:
        return f"task: wanted one of {', '.join(heads)}, got {card.task!r}"
    if card.head not in heads[card.task]:
        return f"head: for {card.task}, wanted one of {', '.join(heads[card.task])}, got {card.head!r}"
    if not card.name.strip():
        return "name: wanted a name, got an empty text"
    if not 1 <= len(card.classes) <= _MOST_CLASSES or not all(isinstance(name, str) and name for name in card.classes):
        return f"classes: wanted 1 to {_MOST_CLASSES:,} names, got {_short(card.classes)}"
    if len(set(card.classes)) != len(card.classes):
        return f"classes: a name occurs twice: {_short(card.classes)}"
    if card.head in FIXED_CLASSES and card.classes != FIXED_CLASSES[card.head]:
        return f"classes: head {card.head} has {', '.join(FIXED_CLASSES[card.head])}; got {', '.join(card.classes)}"
    if not 1 <= card.channels <= 1024:
        return f"channels: wanted 1 to 1024, got {card.channels}"
    for name, least, most in (
        ("divisor", 1, 4096),
        ("halo", 0, 10_000),
        ("tile", 16, 100_000),
        ("reach", 0, 100_000),
        ("activation", 0, 1e9),
    ):
        value = getattr(card, name)
        if value is not None and not least <= value <= most:
            return f"{name}: wanted {least} to {most}, got {value}"
    for name in ("mean", "std"):
        values = getattr(card, name)
        if values and not (len(values) == card.channels and _numbers(values) and (name == "mean" or min(values) > 0)):
            return f"{name}: wanted one number a channel{', positive' * (name == 'std')}, got {_short(values)}"
    low_high = card.input_range
    if len(low_high) != 2 or not _numbers(low_high) or not low_high[0] < low_high[1]:
        return f"input_range: wanted two numbers, the lower first, got {_short(low_high)}"
    if not card.precision or not all(name in ("float32", "bfloat16", "float16") for name in card.precision):
        return f"precision: wanted float32, bfloat16 or float16, got {_short(card.precision)}"
    if not _numbers((card.tolerance,)) or not 0 <= card.tolerance <= 1:
        return f"tolerance: wanted 0 to 1, got {_short(card.tolerance)}"
    if card.pixel_size is not None and not (_numbers((card.pixel_size,)) and card.pixel_size > 0):
        return f"pixel_size: wanted a positive number of micrometres, got {_short(card.pixel_size)}"
    return _not_plain(card)


def _not_plain(card: Card) -> str:
    """Return what of a card could not be written as JSON in UTF-8, or an empty string."""
    for name in (f.name for f in fields(card)):
        try:
            json.dumps(getattr(card, name), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return f"{name}: wanted plain texts, finite numbers, lists and mappings of them: {error}"
    return ""


def _numbers(values: Sequence[Union[float, Any]]) -> bool:
    # Compared, not passed to math.isfinite, which fails for whole numbers beyond the largest float.
    return all(isinstance(v, _NUMBER) and not isinstance(v, bool) and -_LARGEST < v < _LARGEST for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
