"""The file of a grid: many trainings that begin with one config and differ in named ways."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellkit.core import UsageError
from cellkit.core.errors import CellkitError, Fault, suggest
from cellkit.core.recipe import YamlFault, dump, load_yaml
from cellkit.train.changes import changed, written
from cellkit.train.config import METRICS, TrainConfig, parse_config
from cellkit.train.folds import end_of
from cellkit.train.gridvalues import FIRST, Value, Values, crossed, label_of, one_at_a_time

__all__ = ["Cell", "Grid", "GridError", "identity_of", "read_grid", "safe_name"]

_VERSION = 1
_TOP = ("cellkit_grid", "config", "set", "vary", "each", "cells", "folds", "baseline", "metric")
_CELL = ("name", "set", "config", "of", "recipe", "trains")
_PATHS = ("recipe", "recipe.file", "baseline", "model.start", "data.folder", "data.split")
"""Keys whose values may be files beside the grid file instead of beside the config."""
_MOST, _LETTERS = 1000, 200
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}")
_TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|fold-\d+|.*\.", re.IGNORECASE)
"""Names of folders that Windows has not, or that would be read as folds."""


class GridError(CellkitError):
    """A grid that does not check. `faults` lists everything found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        head = f"the grid has {len(faults)} fault{'s' if len(faults) != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {fault}" for fault in faults)]))


@dataclass(frozen=True)
class Cell:
    """One training of a grid, or (`of` another cell) that one's network behind other steps.

    `values`: the label of each varied key. `left_out`: parameters of the config that its network or optimiser has not.
    """

    name: str
    config: TrainConfig
    values: Mapping[str, str] = field(default_factory=dict)
    of: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its folder, which hangs on its own name alone."""
        return safe_name(self.name)


@dataclass(frozen=True)
class Grid:
    """A checked grid. `keys`: those varied, each with its labels. `folds`: 0 without cross-validation."""

    path: Path
    cells: tuple[Cell, ...]
    keys: Mapping[str, tuple[str, ...]]
    folds: int = 0
    baseline: str = ""

    @property
    def trained(self) -> tuple[Cell, ...]:
        """The cells that are trained themselves."""
        return tuple(cell for cell in self.cells if not cell.of)


def safe_name(name: str) -> str:
    """Return a name of a folder for `name`: itself where every disk takes it, else with digits that tell it apart."""
    if _PLAIN.fullmatch(name) and not _TAKEN.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40]
    digits = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:6]
    return f"{plain or 'cell'}-{digits}"


def identity_of(config: TrainConfig) -> dict[str, str]:
    """Return what makes a training and its score this one, but for where it ends, by the key of the config."""
    steps = dump(replace(config.recipe, name="", outputs=()))
    found = {**config.identity, "metric": config.metric, "recipe": hashlib.sha256(steps.encode()).hexdigest()[:16]}
    found["loop.pace"] = config.loop.pace
    start = config.folder / config.model.start
    if config.model.start and start.is_file():
        found["model.start"] = hashlib.sha256(start.read_bytes()).hexdigest()[:16]
    return found


def read_grid(path: str | Path) -> Grid:
    """Read a grid and check the config of each of its cells.

    Raises `UsageError` where the file cannot be read, `GridError` with every fault in it.
    """
    path = Path(path)
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a grid: {error}") from error
    except YamlFault as fault:
        raise UsageError(f"{path}: cannot be read as a grid: {fault.where}: {fault}") from fault
    if not isinstance(data, dict):
        raise UsageError(f"{path}: wanted a mapping with `config:` and `vary:` or `cells:`")
    reader = _Reader(path, data)
    grid = reader.grid()
    if reader.faults:
        raise GridError(reader.faults)
    return grid


_Base = tuple[Mapping[str, Any], Path]
"""The data of a config, and the folder where its paths begin."""


class _Reader:
    """Reads a grid, noting faults."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path, self.data = path, data
        self.faults: list[Fault] = []
        self.common: set[str] = set()  # what is wrong with the config of all is told once
        self.made: dict[str, tuple[Cell, _Base]] = {}

    def grid(self) -> Grid:
        """Return the grid as far as it is sound."""
        self._unknown("grid", self.data, _TOP)
        if self.data.get("cellkit_grid", _VERSION) != _VERSION:
            self._fault("cellkit_grid", f"version {self.data['cellkit_grid']!r} is not known", "write 1")
        self.metric = self.data.get("metric", "auto")
        if self.metric not in METRICS:
            fix = suggest(str(self.metric), METRICS) or f"known: {', '.join(METRICS)}"
            self._fault("metric", f"no score is called {self.metric!r}", fix)
            self.metric = "auto"
        self.set = self._changes(self.data.get("set"), "set")
        base = self._base(self.data.get("config"), "config")
        self.singly = self.data.get("each") is not None
        if self.singly and self.data.get("vary") is not None:
            self._fault("each", "not beside `vary`, which makes every combination", "leave one of them out")
        keys = self._vary("each" if self.singly else "vary")
        folds = self._folds()
        if base is None:
            return Grid(self.path, (), {})
        self._all_alike(base)
        self._cells(base, keys)
        self._names()
        cells = tuple(cell for cell, _ in self.made.values())
        baseline = self.data.get("baseline", FIRST if self.singly and keys else None)
        if baseline is not None and baseline not in self.made:
            self._fault("baseline", f"no cell is called {baseline!r}", self._near(baseline))
        labels = {key: tuple(label for label, _ in values) for key, values in keys.items()}
        return Grid(self.path, cells, labels, folds, baseline or "")

    def _fault(self, where: str, message: str, fix: str = "") -> None:
        self.faults.append(Fault(where, message, fix))

    def _unknown(self, where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in given:
            if key not in known:
                fix = suggest(str(key), known) or f"keys: {', '.join(known)}"
                self._fault(where, f"unknown key {key!r}", fix)

    def _near(self, name: Any) -> str:
        some = ", ".join(itertools.islice(self.made, 8))
        return suggest(str(name), self.made) or f"cells: {some}{' ...' * (len(self.made) > 8)}"

    def _folds(self) -> int:
        folds = self.data.get("folds")
        if folds is None:
            return 0
        if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
            self._fault("folds", f"wanted a number from 2, got {folds!r}", "leave it out for the parts of the split")
            return 0
        return folds

    def _base(self, name: Any, where: str) -> _Base | None:
        if not isinstance(name, str):
            self._fault(where, "wanted the file of a config of a training", "config: nuclei.yaml")
            return None
        path = self.path.parent / name
        try:
            data = load_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            self._fault(where, f"{path}: cannot be read as a config: {getattr(error, 'strerror', '') or error}")
            return None
        except YamlFault as fault:
            self._fault(where, f"{path}: {fault.where}: {fault}")
            return None
        if not isinstance(data, dict):
            self._fault(where, f"{path}: wanted a mapping with `recipe:`, `data:`, `model:`")
            return None
        return data, path.parent

    def _changes(self, given: Any, where: str) -> dict[str, Any]:
        if given is None:
            return {}
        if not isinstance(given, dict) or not all(isinstance(key, str) and all(key.split(".")) for key in given):
            self._fault(where, f"wanted dotted keys with their values, got {given!r}", "set: {loop.epochs: 20}")
            return {}
        return given

    def _vary(self, word: str) -> dict[str, list[Value]]:
        """Return for each key varied by `word` its labels, each with the changes that it stands for."""
        given = self.data.get(word)
        if given is None:
            return {}
        if not isinstance(given, dict) or not given:
            fix = f"{word}: {{model.architecture: [unet, linknet]}}"
            self._fault(word, "wanted keys, each with a list of values", fix)
            return {}
        found: dict[str, list[Value]] = {}
        for key, values in given.items():
            where = f"{word} {key}"
            if not isinstance(key, str) or not isinstance(values, list) or len(values) < 2:
                self._fault(where, f"wanted a list of at least two values, got {values!r}")
                continue
            found[key] = [self._value(key, value, where) for value in values]
            labels = [label for label, _ in found[key]]
            for label in sorted({label for label in labels if labels.count(label) > 1}):
                self._fault(where, f"{label!r} is there twice", "give each a name of its own: {name: ..., set: {...}}")
        counts = [len(values) for values in found.values()]
        count = 1 + sum(counts) - len(counts) if self.singly else math.prod(counts)
        if count > _MOST:
            self._fault(word, f"{count:,} combinations; at most {_MOST:,}", "vary less, or list `cells:`")
            return {}
        return found

    def _value(self, key: str, value: Any, where: str) -> Value:
        if isinstance(value, dict) and "set" in value:
            self._unknown(where, value, ("name", "set"))
            name = value.get("name")
            if not isinstance(name, str) or not name.strip():
                self._fault(where, "a value with `set:` wants a name", '{name: "SGD", set: {optimiser: sgd}}')
            return str(name).strip(), self._changes(value["set"], f"{where}, {name}")
        return label_of(key, value), {key: value}

    def _all_alike(self, base: _Base) -> None:
        """Check the config with what is set for all, whose faults would be those of every cell."""
        try:
            data, _ = changed(base[0], _placed(self.set, base[1], self.path.parent))
        except UsageError as error:
            self._fault("set", str(error))
            self.set = {}
            return
        for fault in parse_config(written(data), base[1])[1]:
            if not fault.warning:
                self.common.add(str(fault))

    def _cells(self, base: _Base, keys: Values) -> None:
        listed = self.data.get("cells")
        if listed is not None and (not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed)):
            self._fault("cells", "wanted a list of mappings, each with a name", "cells: [{name: base}]")
            listed = None
        if not keys and not listed:
            if not self.faults:
                self._fault("grid", "there is nothing to train", "vary: {key: [values]}, or cells: [{name: base}, ...]")
            return
        for name, combination in one_at_a_time(keys) if self.singly else crossed(keys):
            values = dict(zip(keys, (label for label, _ in combination), strict=True))
            self._trained(name, base, [changes for _, changes in combination], values)
        later = []
        for number, one in enumerate(listed or (), 1):
            name = one.get("name")
            if not isinstance(name, str) or not name.strip() or len(name) > _LETTERS or not name.isprintable():
                wanted = f"wanted a name of at most {_LETTERS} letters, in one line, got {name!r}"
                self._fault(f"cells, number {number}", wanted)
                continue
            name = name.strip()
            where = f"cell {name!r}"
            self._unknown(where, one, _CELL)
            if "of" in one:
                later.append((name, one))
                self.made.setdefault(name, None)  # type: ignore[arg-type] # keeps its place
                continue
            for key in ("recipe", "trains"):
                if key in one:
                    self._fault(where, f"{key}: only with `of`", f"set: {{{key}: {one[key]}}}")
            own = self._base(one["config"], f"{where}, config") if "config" in one else base
            if own is not None:
                self._trained(name, own, [self._changes(one.get("set"), f"{where}, set")], {})
        for name, one in later:
            self._of(name, one)
        self.made = {name: found for name, found in self.made.items() if found is not None}

    def _trained(self, name: str, base: _Base, changes: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> None:
        where = f"cell {name!r}"
        if name in self.made:
            self._fault(where, "there are two of that name", "give each a name of its own")
            return
        if not name.isprintable():
            self._fault(where, "a name must be of letters that can be printed, in one line")
            return
        data, lost = base[0], []
        try:
            for some in (self.set, *changes):
                data, left_out = changed(data, _placed(some, base[1], self.path.parent))
                lost += left_out
        except UsageError as error:
            self._fault(where, str(error))
            return
        config = self._checked(where, data, base[1])
        if config is not None:
            self.made[name] = Cell(name, config, values, left_out=tuple(lost)), (data, base[1])

    def _checked(self, where: str, data: Mapping[str, Any], folder: Path) -> TrainConfig | None:
        if self.metric != "auto":
            data = {**data, "metric": self.metric}
        config, faults = parse_config(written(data), folder)
        for fault in faults:
            if fault.warning:
                continue
            alike = str(fault) in self.common
            told = Fault(fault.where if alike else f"{where}: {fault.where}", fault.message, fault.fix)
            if told not in self.faults:
                self.faults.append(told)
        if config is not None and (config.loop.devices != 1 or config.loop.nodes != 1):
            self._fault(f"{where}: loop.devices", "the trainings of a grid run in one process each", "devices: 1")
        return config

    def _of(self, name: str, one: Mapping[str, Any]) -> None:
        """Make a cell that is the network of another one behind other steps."""
        where, of = f"cell {name!r}", one["of"]
        steps = self._changes(one.get("set"), f"{where}, set")
        for key in [*(key for key in steps if not key.startswith("recipe.")), *(["config"] if "config" in one else [])]:
            self._fault(where, f"{key}: not with `of`, which trains nothing", "recipe: other-steps.yaml")
        there = self.made.get(of) if isinstance(of, str) else None
        if self.made.get(name) is not None:
            self._fault(where, "there are two of that name")
        elif there is None:
            known = isinstance(of, str) and of in self.made and of != name
            told = f"of: {of!r} is " + ("of another cell itself" if known else "no cell")
            self._fault(where, told, "name the one that is trained" if known else self._near(of))
        elif not steps and not isinstance(one.get("recipe"), (str, dict)):
            fix = "recipe: other-steps.yaml, or set: {recipe.otsu.scale: 0.9}"
            self._fault(where, "of: wants the recipe to put the network into", fix)
        else:
            _, (data, folder) = there
            changes = {key: one[key] for key in ("recipe", "trains") if key in one} | steps | {"baseline": None}
            data, _ = changed(data, _placed(changes, folder, self.path.parent))
            config = self._checked(where, data, folder)
            if config is not None:
                self.made[name] = Cell(name, config, of=of), (data, folder)

    def _names(self) -> None:
        """Look for cells whose folders or trainings would be the same."""
        folders: dict[str, str] = {}
        trainings: dict[Any, str] = {}
        for name, (cell, _) in self.made.items():
            other = folders.setdefault(cell.folder.lower(), name)
            if other != name:
                self._fault(f"cell {name!r}", f"has the folder of {other!r}; not all disks tell their names apart")
            ends = (*end_of(cell.config).items(), cell.config.loop.validate)
            key = (cell.of, *identity_of(cell.config).items(), *ends)
            other = trainings.setdefault(key, name)
            if other != name:
                self._fault(f"cell {name!r}", f"is the same as {other!r}", "leave one out, or change its `set:`")
            there = self.made.get(cell.of)
            if there is not None and identity_of(there[0].config) == identity_of(cell.config):
                self._fault(
                    f"cell {name!r}", f"has the same steps as {cell.of!r}, whose network it is", "another recipe"
                )


def _placed(changes: Mapping[str, Any], folder: Path, beside: Path) -> dict[str, Any]:
    """Return `changes` to a config in `folder` where files may also be named as they lie `beside` the grid."""
    return dict(_walked(changes, "", folder, beside))


def _walked(values: Mapping[str, Any], before: str, folder: Path, beside: Path) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and name in ("data", "model", "recipe"):
            yield key, dict(_walked(value, f"{name}.", folder, beside))
        elif name in _PATHS and isinstance(value, str) and value and not (folder / value).exists() and (beside / value).exists():  # fmt: skip # noqa: E501
            path = (beside / value).resolve()
            try:
                yield key, Path(os.path.relpath(path, folder.resolve())).as_posix()
            except ValueError:  # on another drive
                yield key, str(path)
        else:
            yield key, value
