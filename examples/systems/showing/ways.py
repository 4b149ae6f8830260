"""The ways of a system, each run on the images for validation through the engine, and what they found."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cellkit.core import Boxes, CellkitError, Recipe, UsageError
from cellkit.core.check import check, plan
from cellkit.core.recipe import Step
from cellkit.engine.batch import BatchResult, Outcome, Settings, run_batch
from cellkit.formats import coco
from cellkit.io import read_labels
from cellkit.models import find_model
from cellkit.report.sides import Layer

from .system import COCO, System, Way

if TYPE_CHECKING:
    from .scoring import Images

__all__ = ["Ran", "recipe_of", "run_way"]

_LAYERS = {"labels": ("labels",), "mask": ("mask", "labels"), "classes": ("classes",)}
_DETECT = ("detect", "detect_masks")
_PICTURES = ("overlay", "rle")
"""Outputs of recipes that no page needs."""
Options = tuple[Mapping[str, str], "int | None", str]
"""Where networks lie, workers, and the device."""


@dataclass(frozen=True, eq=False)
class Ran:
    """What became of a way: `state` is done, not trained or failed, and `reason` says more.

    `found`: what it found in each image, None where that failed (`failed` says why); empty where it did not run.
    `every`: of detectors, the boxes of any score, which AP is about. `folder`: its results.
    """

    name: str
    recipe: str
    state: str
    reason: str = ""
    folder: Path = Path()
    found: Mapping[str, Layer | None] = field(default_factory=dict)
    every: Mapping[str, Boxes | None] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    seconds: float = 0.0

    def told(self) -> str:
        """Return what became of it in words."""
        if self.state != "done":
            return f"{self.state}: {self.reason}"
        network = ", ".join(self.networks)
        text = f"network {network}" if network else "no network"
        if self.failed:
            name, why = next(iter(self.failed.items()))
            text += (
                f"; {len(self.failed):,} of {len(self.found):,} images failed, which count as all wrong: {name}: {why}"
            )
        return text


def recipe_of(system: System, way: Way) -> Recipe:
    """Return the recipe of a way: a file beside system.yaml, or one that ships with cellkit."""
    path = system.folder / way.recipe
    return Recipe.read(path if path.is_file() else way.recipe)


def run_way(system: System, way: Way, images: Images, folder: Path, options: Options) -> Ran:
    """Run a way on all images. What is wrong with it is told in what is returned, and stops no other way."""
    try:
        recipe = recipe_of(system, way)
        places = _networks(system, way, recipe, options[0])
    except CellkitError as error:
        return Ran(way.name, way.recipe, "failed", str(error))
    if None in places.values():
        lacking = next(name for name, place in places.items() if place is None)
        return Ran(way.name, way.recipe, "not trained", way.train or f"there is no network {lacking}")
    recipe = replace(recipe, steps=_placed(recipe.steps, {name: str(place) for name, place in places.items()}))
    networks = tuple(_shown(system, str(place)) for place in places.values())
    try:
        return _run(system, (way, recipe, networks), images, folder, options)
    except CellkitError as error:
        return Ran(way.name, way.recipe, "failed", str(error))


def _run(
    system: System, what: tuple[Way, Recipe, tuple[str, ...]], images: Images, folder: Path, options: Options
) -> Ran:
    way, recipe, networks = what
    wrong = [fault for fault in check(recipe) if not fault.warning or fault.stops]
    if wrong:
        raise UsageError(str(wrong[0]))
    layers = plan(recipe).layers
    outputs = [name for name in recipe.outputs if name not in _PICTURES]
    layer = COCO
    if system.draw != "boxes":
        found = [name for name in _LAYERS[system.draw] if name in layers]
        if not found:
            raise UsageError(f"{way.recipe}: makes no {' or '.join(_LAYERS[system.draw])}, which is what is shown")
        layer = found[0]
    recipe = replace(recipe, outputs=tuple(dict.fromkeys([layer, *outputs])))
    result = _batch(recipe, images, folder, way.name, options)
    made = dict(_layers(images, folder, layer, lambda names: _numbers(images, recipe, names)))
    every: dict[str, Any] = {}
    if any(one.score == COCO for one in system.scores):
        whole = replace(recipe, steps=_any_score(recipe.steps), outputs=(COCO,))
        _batch(whole, images, folder / "any-score", f"{way.name}, boxes of any score", options)
        every = dict(_layers(images, folder / "any-score", COCO, lambda names: _numbers(images, recipe, names)))
    failed = {name: why for name, (found_in, why) in _rows(images, folder).items() if not found_in}
    return Ran(
        way.name, way.recipe, "done", "", folder, made, every, failed, networks, result.seconds
    )  # fmt: skip


def _networks(system: System, way: Way, recipe: Recipe, places: Mapping[str, str]) -> dict[str, str | None]:
    """Return where each network of a recipe lies, None for one that is not there.

    Raises a `CellkitError` for one that is there and cannot be opened.
    """
    names = list(dict.fromkeys(_models(recipe.steps)))
    found: dict[str, str | None] = {}
    for name in names:
        own = name.removeprefix("runs/")
        given = places.get(own) if own != name else None
        if given is None and len(names) == 1:
            given = places.get(way.name)
        if given is not None:
            found[name] = find_model(given).name and given
            continue
        here = system.folder / name
        if here.exists() and _is_model(here):
            found[name] = str(here)
        elif way.network and (system.folder / way.network).exists() and len(names) == 1:
            found[name] = str(system.folder / way.network)
        elif "/" in name or here.exists():
            found[name] = None
        else:
            found[name] = name  # one of those that `cellkit models` lists; `check` tells where it is not
    return found


def _shown(system: System, place: str) -> str:
    """Return where a network lies as a page may say it: without the folders of this machine."""
    path = Path(place)
    if not path.is_absolute():
        return place
    return path.relative_to(system.folder).as_posix() if path.is_relative_to(system.folder) else path.name


def _is_model(path: Path) -> bool:
    """Tell whether a file or the folder of a training holds a network; a training that goes on does not yet."""
    return path.is_file() or any(path.glob("*.safetensors")) or any(path.glob("*.onnx"))


def _models(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        if isinstance(step.params.get("model"), str):
            yield step.params["model"]
        yield from _models(step.steps)


def _placed(steps: Sequence[Step], places: Mapping[str, str]) -> tuple[Step, ...]:
    """Return steps whose networks lie in `places`."""
    made = []
    for step in steps:
        model = step.params.get("model")
        params = {**step.params, "model": places.get(model, model)} if model is not None else step.params
        made.append(replace(step, params=params, steps=_placed(step.steps, places)))
    return tuple(made)


def _any_score(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return steps whose detectors give objects of any score: AP ranks them all."""
    return tuple(
        replace(
            step,
            params={**step.params, "score": 0.0} if step.stage in _DETECT else step.params,
            steps=_any_score(step.steps),
        )
        for step in steps
    )


def _batch(recipe: Recipe, images: Images, folder: Path, name: str, options: Options) -> BatchResult:
    done = 0

    def tell(_: Outcome) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0 or done == len(images.names):
            click.echo(f"{name}: {done:,} of {len(images.names):,} images", err=True)

    paths = [pair.image for pair in images.pairs.values()]
    settings = Settings(workers=options[1], device=options[2])
    return run_batch(recipe, paths, folder, settings=settings, on_image=tell)


def _rows(images: Images, folder: Path) -> dict[str, tuple[str, str]]:
    """Return what the run calls each image, empty where it failed, and why it failed."""
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        by_source = {row["source"]: row for row in csv.DictReader(file)}
    rows = {name: by_source[str(pair.image)] for name, pair in images.pairs.items()}
    return {name: (row["image"] if row["status"] == "done" else "", row["reason"]) for name, row in rows.items()}


def _layers(images: Images, folder: Path, layer: str, numbers: Any) -> Iterator[tuple[str, Layer | None]]:
    """Yield what was found in each image, None where that failed."""
    rows = _rows(images, folder)
    if layer != COCO:
        suffix = ".tif" if layer == "labels" else ".png"
        for name, (stem, _) in rows.items():
            found = read_labels(folder / layer / f"{stem}{suffix}") if stem else None
            yield name, found if found is None or layer != "mask" else found > 0
        return
    document = (folder / "coco.json").read_bytes()
    # One entry for each image that did not fail, in the order of images.csv.
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        done = [row["image"] for row in csv.DictReader(file) if row["status"] == "done"]
    sets = dict(zip(done, coco.decode_dataset(document, str(folder / "coco.json")), strict=True))
    for name, (stem, _) in rows.items():
        if not stem:
            yield name, None
            continue
        one = sets[stem]
        kinds = numbers(one.classes or ("object",) * len(one))
        scores = np.ones(len(one)) if one.scores is None else one.scores
        yield name, Boxes(one.boxes.astype(np.float32), scores.astype(np.float32), np.array(kinds, np.int32))


def _numbers(images: Images, recipe: Recipe, names: Sequence[str]) -> list[int]:
    """Return the numbers that the data set gives to classes as the network calls them.

    Raises `UsageError` where it has another class: neither of that name, nor as many classes, of other names.
    """
    known = {name.casefold(): number for number, name in enumerate(images.classes)}
    if all(name.casefold() in known for name in names):
        return [known[name.casefold()] for name in names]
    model = next((m for m in _models(recipe.steps)), "")
    own = list(find_model(model).card.classes) if model else []
    if len(own) == len(images.classes) and not any(name.casefold() in known for name in own):
        return [own.index(name) for name in names]
    strange = next(name for name in names if name.casefold() not in known)
    raise UsageError(f"the network finds {strange!r}; the classes of the data set are {', '.join(images.classes)}")
