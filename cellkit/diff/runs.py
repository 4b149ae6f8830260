"""The folder that a run left: its images, what lies there of each, and the settings it ran with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cellkit.core.check import WRITERS, bind
from cellkit.core.errors import RecipeError, UsageError
from cellkit.core.recipe import ReadOptions, Recipe, load

__all__ = ["Entry", "Run", "open_run", "settings"]

_LABELS = (".tif", ".zarr")
_RASTERS = (".png", ".tif", ".zarr")
_TABLE = "table"
Settings = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Entry:
    """One image of a run: how it ended, why it failed, the file it came from and that file's digest."""

    name: str
    source: str = ""
    status: str = "done"
    reason: str = ""
    digest: str = ""
    objects: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the image ended well."""
        return self.status == "done"


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has ended: its folder, its account (``run.json`` without the images), and its images by name."""

    folder: Path
    account: Mapping[str, Any]
    images: Mapping[str, Entry]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that were written."""
        return tuple(map(str, self.account.get("recipe", {}).get("outputs", ())))

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe as it ran; None where this version cannot read it."""
        try:
            return load(json.dumps(self.account.get("recipe", {})))
        except RecipeError:
            return None

    @property
    def read_options(self) -> ReadOptions:
        """How the run read its images."""
        return self.recipe.read_options if self.recipe is not None else ReadOptions()

    @property
    def label_layers(self) -> tuple[str, ...]:
        """The label layers that lie in the folder."""
        counted = {name for entry in self.images.values() for name in entry.objects} | {"seeds"}
        return tuple(n for n in self.outputs if n in counted and n not in self.tables and self._folder(n).is_dir())

    @property
    def rasters(self) -> tuple[str, ...]:
        """The other layers of pixels that lie in the folder: masks, classes, probabilities."""
        others = {*self.label_layers, *self.tables, *WRITERS}
        return tuple(name for name in self.outputs if name not in others and self._folder(name).is_dir())

    @cached_property
    def tables(self) -> dict[str, Path]:
        """The tables of the run by the name of their output."""
        paths = {n: self.folder / f"{'objects' if n == _TABLE else n}.parquet" for n in self.outputs}
        return {name: path for name, path in paths.items() if path.is_file()}

    def labels(self, layer: str, image: str) -> Path | None:
        """Return the file that holds a label layer of an image; None where there is none."""
        return self._file(layer, image, _LABELS)

    def raster(self, layer: str, image: str) -> Path | None:
        """Return the file that holds another layer of an image; None where there is none."""
        return self._file(layer, image, _RASTERS)

    @cached_property
    def measured(self) -> dict[str, str]:
        """Which label layer the rows of a table are about, by table, as far as the recipe tells."""
        found: dict[str, str] = {}
        made: dict[str, str] = {}
        steps = bind(self.recipe).walk() if self.recipe is not None else iter(())
        for _, step in steps:
            first = step.bindings.get(step.spec.arguments[0].name) if step.spec.arguments else None
            if step.kind is None or not isinstance(first, str):
                continue
            if step.kind.name == _TABLE:
                made[step.output] = made.get(first, first)
        layers = self.label_layers
        for table in self.tables:
            about = made.get(table, layers[0] if len(layers) == 1 else "")
            if about in layers:
                found[table] = about
        return found

    def _folder(self, name: str) -> Path:
        return self.folder / name

    def _file(self, layer: str, image: str, suffixes: Sequence[str]) -> Path | None:
        paths = (self._folder(layer) / f"{image}{suffix}" for suffix in suffixes)
        return next((path for path in paths if path.exists()), None)


def open_run(folder: str | Path) -> Run:
    """Open the folder of a run that has ended.

    Raises `UsageError` where it is none, has not ended, or its account cannot be read.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        if (folder / ".cellkit").is_dir():
            raise UsageError(f"{folder}: the run has not ended; the command that began it goes on with it")
        what = "there is no such folder" if not folder.exists() else "holds no run (no run.json in it)"
        raise UsageError(f"{folder}: {what}; wanted a folder that `cellkit run -o` wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        listed = data.pop("images")
        images = {
            str(one["name"]): Entry(
                str(one["name"]), str(one.get("source", "")), str(one.get("status", "")), str(one.get("reason", "")),
                str(one.get("sha256", "")), {str(k): int(v) for k, v in one.get("objects", {}).items()},
            )
            for one in listed
        }  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: is no account of a run: {type(error).__name__}: {error}") from error
    return Run(folder, data, images)


def settings(before: Run, after: Run) -> Settings:
    """Return what the runs were set to do differently, by a name such as ``otsu.scale`` or ``versions.numpy``.

    None stands for what one side does not have. Where the runs' folders lie, when and how fast they ran is none of it.
    """
    one, two = _flat(before), _flat(after)
    return {key: (one.get(key), two.get(key)) for key in {**one, **two} if one.get(key) != two.get(key)}


def _flat(run: Run) -> dict[str, Any]:
    recipe = run.account.get("recipe", {})
    found: dict[str, Any] = {"steps": " > ".join(label for label, _ in _steps(recipe.get("steps", ())))}
    for label, step in _steps(recipe.get("steps", ())):
        for key, value in step.items():
            found[f"{label}.{key}"] = value
    found |= {f"read.{key}": value for key, value in recipe.get("read", {}).items()}
    found["outputs"] = ", ".join(run.outputs)
    for name, about in run.account.get("digests", {}).get("networks", {}).items():
        found[f"weights of {name}"] = about
    for name, digest in run.account.get("digests", {}).get("plugins", {}).items():
        found[f"plug-in {name}"] = digest
    found |= {f"version of {name}": text for name, text in run.account.get("versions", {}).items()}
    for key in ("platform", "device"):
        found[key] = run.account.get(key)
    return found


def _steps(steps: Sequence[Any], seen: dict[str, int] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every step by its name, else its stage, with its parameters; a name that comes again has a number."""
    seen = {} if seen is None else seen
    for step in steps:
        data = {str(step): {}} if isinstance(step, str) else dict(step)
        inner = data.pop("steps", ())
        name = data.pop("name", "")
        wiring = {key: data.pop(key) for key in ("in", "out") if key in data}
        stage, params = next(iter(data.items()), ("", {}))
        label = str(name or stage)
        seen[label] = seen.get(label, 0) + 1
        numbered = label if seen[label] == 1 else f"{label} {seen[label]}"
        told: dict[str, Any] = {"stage": stage} if name else {}
        yield numbered, told | wiring | dict(params or {})
        yield from _steps(inner, seen)
