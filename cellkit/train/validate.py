"""Scores: the recipe of a training on the images for validation, the trained step run by the network in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cellkit.core import FormatError, Recipe, Sample, UsageError
from cellkit.core.check import BoundStep, Plan, plan
from cellkit.core.errors import CellkitError, RecipeError
from cellkit.engine.execute import execute
from cellkit.engine.networks import Networks
from cellkit.io import read
from cellkit.io.datasets import Pair
from cellkit.metrics import PROTOCOLS, Protocol, Report, Settings
from cellkit.metrics.pooling import image_means, redrawn
from cellkit.models._detector import DetectorBackend
from cellkit.models.card import Card
from cellkit.models.inference import fold_norms
from cellkit.models.runtime import Backend, Network, Options
from cellkit.models.torch_backend import TorchBackend
from cellkit.train._objectscore import Objects, coco_protocol, figures_of_objects, objects_of, renamed
from cellkit.train.config import TrainConfig
from cellkit.train.record import digest_of
from cellkit.train.standin import faults_of, standing_in
from cellkit.train.targets import DENSE_HEADS

__all__ = ["Validator", "figures"]

_LAYERS: Mapping[str, tuple[str, ...]] = {
    "dsb2018": ("labels",),
    "instances": ("labels",),
    "semantic": ("classes",),
    "pixel": ("labels", "mask"),
    "coco": ("instances", "boxes"),
    "coco50": ("instances", "boxes"),
}

Keep = Callable[[Pair, np.ndarray, np.ndarray], None]


class _InMemory(Networks):
    """Hands the network in memory to the step that names `model`, and opens the others."""

    def __init__(self, model: str, network: Network, options: Options) -> None:
        super().__init__(options)
        self._model, self._network = model, network

    def _get(self, step: BoundStep, model: str) -> Network:
        return self._network if model == self._model else super()._get(step, model)


class Validator:
    """Scores networks on `pairs` through the recipe of `config`. A context manager.

    `gives`: what the truth of all pairs holds. `card`: of the network, as far as it is known. For COCO's AP the trained
    step reports objects of any score down to the network's own lowest, whatever the recipe says, as AP is about their
    ranking; and the truth of all images is read at once.

    Raises `UsageError` where there is nothing to score, `FormatError` where the truth for AP is not sound.
    """

    def __init__(
        self, config: TrainConfig, pairs: Sequence[Pair], gives: Sequence[str], card: Card, device: torch.device
    ) -> None:
        self.config, self.pairs, self.gives, self.card, self.device = config, tuple(pairs), tuple(gives), card, device
        self._stack = ExitStack()
        self.plan, self._model = self._stack.enter_context(standing_in(config.recipe, config.trains, card))
        wrong = faults_of(self.plan)
        if wrong:
            raise RecipeError(wrong)
        name, self.layer = _chosen(config, self.plan, self.gives, self.pairs)
        self.workers = os.cpu_count() or 1
        self._objects: dict[str, Objects] = {}
        if name in PROTOCOLS:
            self.protocol = PROTOCOLS[name]
        else:
            self.protocol = coco_protocol(name, self.layer, card.classes, _threshold(self.plan, config.trains))
            every = config.recipe.set(f"{config.trains}.score", 0.0) if card.task != "dense" else config.recipe
            self.plan, self._model = self._stack.enter_context(standing_in(every, config.trains, card))
            self._objects = {pair.name: self._read(pair) for pair in self.pairs}
        if config.baseline is not None:
            self._baseline(config.baseline)

    def __enter__(self) -> Validator:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def score(
        self, network: torch.nn.Module, dtype: torch.dtype = torch.float32, keep: Keep | None = None
    ) -> tuple[Report, list[str]]:
        """Return the report on `network`, which is changed, and why images failed that did (counted as all wrong).

        `keep` is handed each pair with its truth and what was found, from several threads.
        """
        on_cpu = self.device.type == "cpu"
        options = Options(str(self.device), lanes=self.workers if on_cpu else 2, batch=1 if on_cpu else 8)
        backend: Backend
        if self.card.task == "dense":
            backend = TorchBackend(fold_norms(network.eval()), self.card, self.device, dtype)
        else:
            backend = DetectorBackend(network, self.card, self.device, dtype)
        loaded = Network(self.card, backend, options)
        threads = torch.get_num_threads()
        if on_cpu and self.workers > 1:
            loaded.on_lane = _one_thread
        try:
            return self._report(self.plan, self.layer, lambda: _InMemory(self._model, loaded, options), keep)
        finally:
            loaded.close()
            torch.set_num_threads(threads)

    def counted(self, network: torch.nn.Module) -> tuple[Report, list[str], dict[str, Any]]:
        """As `score`, with the counts by image that the report was made of."""
        kept: dict[str, Any] = {}
        protocol = self.protocol

        def make(counts: Mapping[str, Any], settings: Settings) -> Report:
            kept.update(counts)
            return protocol.make(counts, settings)

        self.protocol = replace(protocol, make=make)
        try:
            return *self.score(network), kept
        finally:
            self.protocol = protocol

    def baseline(self, recipe: Recipe) -> tuple[Report, list[str]]:
        """Return the report on another recipe, on the same images by the same score.

        Raises `UsageError` where it does not make what is scored.
        """
        options = Options(str(self.device))
        return self._report(self._baseline(recipe), self.layer, lambda: Networks(options))

    def _baseline(self, recipe: Recipe) -> Plan:
        bound = plan(replace(recipe, outputs=()))
        if self.layer not in bound.layers:
            raise UsageError(f"baseline: {recipe.name or 'the recipe'} makes no {self.layer}, which is what is scored")
        return bound

    def _report(self, bound: Plan, layer: str, networks: Any, keep: Keep | None = None) -> tuple[Report, list[str]]:
        failed: list[str] = []
        opened = networks()

        def one(pair: Pair) -> Any:
            truth = self._truth(pair)
            try:
                sample = execute(bound, read(pair.image, bound.recipe.read_options), [layer], networks=opened)
                found = self._found(sample, layer, truth)
            except CellkitError as error:
                failed.append(f"{pair.name}: {error}")
                # Nothing at all, or what shares no pixel with the truth.
                found = Objects(truth.size, ()) if isinstance(truth, Objects) else (truth == 0).astype(np.int32)
            if keep is not None and not isinstance(truth, Objects):
                keep(pair, truth, found)
            return self.protocol.count(truth, found)

        with ThreadPoolExecutor(self.workers, "validate") as pool:
            counts = dict(zip([pair.name for pair in self.pairs], pool.map(one, self.pairs), strict=True))
        groups = {pair.name: pair.group or pair.name for pair in self.pairs}
        return self.protocol.report(counts, Settings(groups=groups)), sorted(failed)

    def _truth(self, pair: Pair) -> Any:
        if pair.name in self._objects:
            return self._objects[pair.name]
        whole = self.protocol.name == "semantic" or "labels" not in self.gives
        return np.ascontiguousarray(pair.classes() if whole else pair.labels(), np.int32)

    def _read(self, pair: Pair) -> Objects:
        """Return the objects that AP is about, numbered by the classes of the network."""
        if self.layer == "instances":
            return objects_of(pair.instances(), pair.shape)
        return objects_of(pair.boxes(invalid=self.config.data.invalid), pair.shape)

    def _found(self, sample: Sample, layer: str, truth: Any) -> Any:
        if not isinstance(truth, Objects):
            return np.asarray(sample[layer]).astype(np.int32)
        return objects_of(renamed(sample[layer], sample.layer(layer).names, self.card.classes), truth.size)


def figures(report: Report, protocol: Protocol, pairs: Sequence[Pair], column: str = "") -> dict[str, Any]:
    """Return what a card says of a report: the score with its interval, and its mean by the values of a column."""
    out: dict[str, Any] = {
        "score": protocol.headline,
        "value": _number(report.value),
        "low": _number(report.low),
        "high": _number(report.high),
        "images": len(report.per_image),
        "rule": report.rule,
        "digest": digest_of(pair.name for pair in pairs),
    }
    if protocol.name not in PROTOCOLS:
        return {**out, **figures_of_objects(report, protocol, pairs, column)}
    if column and report.per_image and "value" in report.per_image[0]:
        known = {pair.name: (pair.fields.get(column, ""), pair.group or pair.name) for pair in pairs}
        values: dict[str, list[tuple[float, str]]] = {}
        for row in report.per_image:
            kind, group = known.get(row["image"], ("", row["image"]))
            if np.isfinite(row["value"]):
                values.setdefault(kind or "none", []).append((float(row["value"]), group))
        out[f"by_{column}"] = {name: _part(found) for name, found in sorted(values.items())}
    return out


def _part(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Return the mean of some images, each with its group, and its interval."""
    values = np.array([value for value, _ in found])
    spans = redrawn(len(values), [group for _, group in found], lambda times: {"mean": image_means(values, times)})
    low, high = map(_number, spans["mean"])
    return {"value": _number(values.mean()), "low": low, "high": high, "images": len(values)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _one_thread() -> None:
    torch.set_num_threads(1)


def _chosen(config: TrainConfig, bound: Plan, gives: Sequence[str], pairs: Sequence[Pair]) -> tuple[str, str]:
    """Return the name of the score, and the layer that it scores. Raises `UsageError` where the recipe makes none."""
    metric, makes = config.metric, bound.layers
    if metric == "auto":
        metric = "coco" if config.model.head not in DENSE_HEADS else "semantic" if "classes" in makes else "pixel"
        if "labels" in makes and "labels" in gives and (metric != "coco" or _apart(pairs)):
            metric = "dsb2018"
    layer = next((name for name in _LAYERS[metric] if name in makes), None)
    if layer is None:
        wanted = " or ".join(_LAYERS[metric])
        able = "`to_labels`" if config.model.head == "masks" else "`threshold` and `components`"
        raise UsageError(
            f"metric {metric}: the recipe makes no {wanted}; it makes {', '.join(makes)}; add steps behind "
            f"`{config.trains}` that do, such as {able}"
        )
    if metric in ("dsb2018", "instances") and "labels" not in gives:
        raise UsageError(f"metric {metric}: the data set holds no objects, only {', '.join(gives) or 'boxes'}")
    if layer == "instances" and not {"instances", "labels"} & set(gives):
        raise UsageError(f"metric {metric}: the data set holds no masks of objects, only {', '.join(gives) or 'boxes'}")
    return metric, layer


def _apart(pairs: Sequence[Pair]) -> bool:
    """Tell whether no objects of the truth overlap, so that labels can hold them."""
    for pair in pairs:
        if pair.truth.kind != "labels":  # else they are labels already
            try:
                pair.labels()
            except FormatError:
                return False
    return True


def _threshold(bound: Plan, trains: str) -> float:
    """Return the score from which on the trained step reports objects."""
    params = next((step.params for _, step in bound.walk() if step.step.label == trains), {})
    return float(params.get("score", 0.5))
