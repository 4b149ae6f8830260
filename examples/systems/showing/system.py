"""What is shown of a system: system.yaml, read and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from cellkit.core import FormatError, UsageError
from cellkit.core.errors import suggest
from cellkit.core.recipe import YamlFault, load_yaml
from cellkit.metrics import PROTOCOLS
from cellkit.report.marked import Marks

__all__ = ["System", "Wanted", "Way", "read_system"]

T = TypeVar("T")
COCO = "coco"


@dataclass(frozen=True)
class Way:
    """A recipe, the command that trains its network, and a network that serves where none was trained here."""

    name: str
    recipe: str
    train: str = ""
    network: str = ""


@dataclass(frozen=True)
class Wanted:
    """A number of a protocol of `cellkit eval` (its headline by default), and what was `published` of it."""

    score: str
    label: str = ""
    number: str = "value"
    variant: str = ""
    published: float = math.nan
    source: str = ""

    @property
    def key(self) -> str:
        """What must be counted once for all numbers of a kind."""
        return f"{self.score} {self.variant}"


@dataclass(frozen=True)
class System:
    """What system.yaml says.

    `part` of `split` is shown; `by` is a column of it to report by. `draw`: what a page draws. `classes` names the
    objects where the data set does not. `gain`: the better way and the one it is compared with.
    """

    title: str
    draw: Marks
    split: str
    scores: tuple[Wanted, ...]
    ways: tuple[Way, ...]
    text: str = ""
    part: str = "val"
    layout: Any = "auto"
    invalid: Any = "refuse"
    by: str = ""
    classes: tuple[str, ...] = ()
    gain: tuple[str, ...] = ()
    pictures: int = 10
    worst: int = 4
    folder: Path = Path()

    def places(self, given: Sequence[str]) -> dict[str, str]:
        """Return where networks lie by name, as --way says. Raises `UsageError` for a name that no way has."""
        places = {}
        for text in given:
            name, _, place = text.partition("=")
            if not name or not place:
                raise UsageError(f"--way {text}: wanted NAME=RUN")
            known = [way.name for way in self.ways]
            if name not in known:
                raise UsageError(f"--way {text}: {_meant(name, known)}")
            places[name] = str(Path(place).resolve())
        return places


def read_system(path: Path) -> System:
    """Read system.yaml. Raises `UsageError` where there is none, `FormatError` with what is wrong with it."""
    try:
        document = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); the command runs inside the folder of a system"
        ) from None
    except (YamlFault, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: is no YAML: {error}") from None
    system = _made(System, document, str(path), folder=path.resolve().parent)
    names = [way.name for way in system.ways]
    wrong = {
        "draw": [] if system.draw in get_args(Marks) else [f"wanted one of {', '.join(get_args(Marks))}"],
        "scores": [
            f"{one.score!r}: {_meant(one.score, [*PROTOCOLS, COCO])}"
            for one in system.scores
            if one.score not in (*PROTOCOLS, COCO)
        ]
        or [] if system.scores else ["wanted at least one"],
        "ways": [f"{name!r} is given twice" for name in set(names) if names.count(name) > 1]
        + [f"{n!r} is no plain name" for n in names if n in ("truth", "") or not n.replace("-", "").isalnum()],
        "gain": [
            f"wanted the names of two ways, got {', '.join(system.gain)}"
        ] if system.gain and (len(system.gain) != 2 or not set(system.gain) <= set(names)) else [],
    }  # fmt: skip
    for key, reasons in wrong.items():
        if reasons:
            raise FormatError(f"{path}: {key}: {reasons[0]}")
    if system.by and system.scores[0].score == COCO:
        raise FormatError(f"{path}: by: COCO's AP is not reported by a column")
    return system


def _meant(word: str, known: Iterable[str]) -> str:
    known = list(known)
    return suggest(word, known) or f"known: {', '.join(known)}"


def _made(kind: type[T], given: Any, where: str, **more: Any) -> T:
    """Return the dataclass that a mapping describes. Raises `FormatError` for unknown, missing and wrong keys."""
    if not isinstance(given, Mapping):
        raise FormatError(f"{where}: wanted keys with values, got {given!r}")
    known = {f.name: f for f in fields(kind) if f.name not in more}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise FormatError(f"{where}: unknown key {key!r}; {_meant(str(key), known)}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in given]
    if missing:
        raise FormatError(f"{where}: {missing[0]}: is missing")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("scores", "ways"):
            if not isinstance(value, list):
                raise FormatError(f"{where}: {key}: wanted a list")
            inner = Wanted if key == "scores" else Way
            values[key] = tuple(_made(inner, one, f"{where}: {key}[{i}]") for i, one in enumerate(value))
        elif key in ("classes", "gain"):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise FormatError(f"{where}: {key}: wanted a list of names, got {value!r}")
            values[key] = tuple(value)
        else:
            number = key in ("published", "pictures", "worst")
            if isinstance(value, bool) or not isinstance(value, (int, float) if number else str):
                raise FormatError(f"{where}: {key}: wanted {'a number' if number else 'text'}, got {value!r}")
            values[key] = value
    return kind(**values, **more)
