"""The ways of a system, each run on the images for validation through the engine, and what they found."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd

from cellkit.core import Boxes, CellkitError, Recipe, UsageError
from cellkit.core.check import check, plan
from cellkit.core.recipe import Step
from cellkit.engine.batch import BatchResult, Outcome, Settings, run_batch
from cellkit.io import read_labels
from cellkit.models import find_model
from cellkit.report.sides import Layer

from .system import COCO, System, Way

if TYPE_CHECKING:
    from .scoring import Images

__all__ = ["Ran", "recipe_of", "run_way"]

_LAYERS = {"labels": ("labels",), "mask": ("labels", "mask"), "classes": ("classes",)}
_EVERY = "any_score"
"""The layer of boxes of any score, which AP is about."""
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
    kinds = ("boxes", "instances") if system.draw == "boxes" else ()
    wanted = [name for name, kind in layers.items() if kind.name in kinds or name in _LAYERS.get(system.draw, ())]
    if not wanted:
        raise UsageError(f"{way.recipe}: makes no {system.draw}, which is what is shown")
    layer = wanted[-1] if kinds else next(name for name in _LAYERS[system.draw] if name in wanted)
    recipe = replace(recipe, outputs=tuple(dict.fromkeys([layer, *(n for n in recipe.outputs if n not in _PICTURES)])))
    if not kinds:
        result = _batch(recipe, images, folder, way.name, options)
        made: dict[str, Any] = dict(_pixels(images, folder, layer))
        every: dict[str, Any] = {}
    else:
        numbers = _numbers(images, _classes(recipe))
        once = any(one.score == COCO for one in system.scores) and _plain_suppression(recipe.steps)
        if once:  # the network runs once for what the recipe gives and for boxes of any score
            recipe = replace(recipe, steps=_kept_apart(recipe.steps), outputs=(*recipe.outputs, _EVERY))
        result = _batch(recipe, images, folder, way.name, options)
        made = dict(_boxes(images, folder, layer, numbers))
        if once:
            every = dict(_boxes(images, folder, _EVERY, numbers))
        elif any(one.score == COCO for one in system.scores):
            whole = replace(recipe, steps=_any_score(recipe.steps), outputs=(layer,))
            _batch(whole, images, folder / _EVERY, f"{way.name}, boxes of any score", options)
            every = dict(_boxes(images, folder / _EVERY, layer, numbers))
        else:
            every = {}
    failed = {name: why for name, (done_as, why) in _rows(images, folder).items() if not done_as}
    return Ran(way.name, way.recipe, "done", "", folder, made, every, failed, networks, result.seconds)


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


def _plain_suppression(steps: Sequence[Step]) -> bool:
    """Tell whether there is one detector, of boxes, that drops by score and overlap alone: in either order the same."""
    found = list(_detectors(steps))
    return [step.stage for step in found] == ["detect"] and found[0].params.get("method", "nms") == "nms"


def _detectors(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if step.stage in _DETECT:
            yield step
        yield from _detectors(step.steps)


def _kept_apart(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return steps with the detector in two: boxes of any score, and of these the boxes that the recipe asks for."""
    made: list[Step] = []
    for step in steps:
        if step.stage != "detect":
            made.append(replace(step, steps=_kept_apart(step.steps)))
            continue
        asked = {"score": step.params.get("score", 0.5), "iou": step.params.get("iou", 0.5)}
        made.append(replace(step, params={**step.params, "score": 0.0}, out=_EVERY))
        made.append(Step("suppress", asked, inputs=(_EVERY,), out=step.out or "boxes"))
    return tuple(made)


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


def _pixels(images: Images, folder: Path, layer: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield what was found in each image, None where that failed."""
    suffix = ".tif" if layer == "labels" else ".png"
    for name, (stem, _) in _rows(images, folder).items():
        found = read_labels(folder / layer / f"{stem}{suffix}") if stem else None
        yield name, found if found is None or layer != "mask" else found > 0


def _boxes(
    images: Images, folder: Path, layer: str, numbers: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[str, Boxes | None]]:
    """Yield the boxes found in each image, numbered as the data set numbers classes; None where it failed."""
    rows = pd.read_parquet(folder / f"{layer}.parquet")
    by_image = dict(list(rows.groupby("image"))) if len(rows) else {}
    for name, (stem, _) in _rows(images, folder).items():
        if not stem:
            yield name, None
            continue
        own = by_image.get(stem)
        if own is None:
            yield name, Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
            continue
        corners = np.ascontiguousarray(own[["x0", "y0", "x1", "y1"]], np.float32)
        yield name, Boxes(corners, own["score"].to_numpy(np.float32), numbers(own["class"].to_numpy(np.int64)))


def _classes(recipe: Recipe) -> tuple[str, ...]:
    """Return the classes that the first network of a recipe knows; none without a network."""
    model = next(_models(recipe.steps), "")
    return find_model(model).card.classes if model else ()


def _numbers(images: Images, own: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns a network's numbers of classes, called `own`, into those of the data set.

    Classes go by their names; where none of them is known and there are as many, by their place. What is returned
    raises `UsageError` for a class that the data set does not have.
    """
    known = {name.casefold(): number for number, name in enumerate(images.classes)}
    places = [known.get(name.casefold(), -1) for name in own]
    if not own or (len(own) == len(known) and set(places) == {-1}):
        places = list(range(len(known)))

    def numbered(classes: np.ndarray) -> np.ndarray:
        for number in np.unique(classes).tolist():
            if not 0 <= number < len(places) or places[number] < 0:
                name = own[number] if number < len(own) else str(number)
                raise UsageError(f"the network finds {name!r}; the data set has {', '.join(images.classes)}")
        return np.array(places, np.int32)[classes]

    return numbered
