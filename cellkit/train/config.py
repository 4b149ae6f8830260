"""The config of a training: everything it needs, checked whole before the first batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cellkit.core import Recipe, Span, Step, UsageError
from cellkit.core.errors import CellkitError, Fault, suggest
from cellkit.core.recipe import YamlFault, dump, load_yaml
from cellkit.core.stage import Parameter, read_parameters
from cellkit.formats.objects import UNNAMED
from cellkit.io.datasets import LAYOUTS
from cellkit.models.architecture import find
from cellkit.models.card import FIXED_CLASSES, Card
from cellkit.models.device import parse_memory
from cellkit.models.store import find_model
from cellkit.train._networks import checked_network
from cellkit.train._recipes import read_baseline, read_recipe, stage_of
from cellkit.train.losses import DEFAULT_LOSSES, loss_faults
from cellkit.train.optimisers import OPTIMISERS
from cellkit.train.schedules import SCHEDULES
from cellkit.train.standin import faults_of, standing_in
from cellkit.train.targets import DENSE_HEADS, TargetRules

__all__ = [
    "ConfigError",
    "DataRules",
    "LoopRules",
    "ModelRules",
    "TrainConfig",
    "parse_config",
    "read_config",
    "recipe_faults",
]

_VERSION = 1
_TOP = (
    "cellkit_train", "name", "recipe", "trains", "data", "model", "targets", "loss", "optimiser", "schedule",
    "augment", "loop", "metric", "baseline", "licence",
)  # fmt: skip
METRICS = ("auto", "dsb2018", "instances", "pixel", "semantic", "coco", "coco50")
"""What may decide which checkpoint is the best; see `TrainConfig`."""


class ConfigError(CellkitError):
    """A config of a training that does not check. `faults` lists everything found."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        count = len(faults)
        head = f"the config has {count} fault{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {fault}" for fault in faults)]))


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """The images.

    `folder` and `layout`: as `cellkit audit` takes them. `split`: a CSV file with the columns name, part and, where
    known, group and others, beside the folder or by path; `train` and `val` are the parts it names. Without it, a fifth
    of the groups is kept for validation. `balance`: a column whose values are drawn equally often, or, by an `evenness`
    below 1, less evenly: a value of n images as often as n to the power of (1 - evenness). `objects`: share of crops
    that are moved to an object. `mirrored`: what objects are that a crop shows mirrored beyond an image's edge: new
    objects, or unknown, so that nothing is learnt there (dense networks). `cache`: memory for decoded images, in each
    process. `audit`: what becomes of the faults that images and labels are looked through for; see
    `cellkit.train.auditing`.

    For detectors, `invalid`: whether boxes without extent or beyond their image stop the training or are left out;
    `ignore`: classes of the data set that are no objects to be found; `balance_classes`: images and objects are drawn
    so that all classes come up equally often.
    """

    folder: str = ""
    layout: str = "auto"
    split: str = ""
    train: str = "train"
    val: str = "val"
    balance: str = ""
    evenness: Annotated[float, Span(0, 1)] = 1.0
    objects: Annotated[float, Span(0, 1)] = 0.5
    mirrored: Literal["objects", "unknown"] = "objects"
    cache: str = "2GB"
    audit: Literal["warn", "refuse", "off"] = field(default="warn", repr=False)  # may change where a run goes on
    invalid: Literal["refuse", "drop"] = "refuse"
    ignore: tuple[str, ...] = ()
    balance_classes: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRules:
    """The network. `head`: see `cellkit.models.HEADS`. `classes`: its outputs, where the head does not say them.

    A detector has no head to choose, and its classes are those of the data set where none are named.
    `channels`: of its input. `start`: a trained network of the same shape whose weights it begins with. `stored`: the
    format of the weights in model.safetensors; float16 is half the size.
    """

    architecture: str = "unet-compact"
    head: Literal["sigmoid", "softmax", "border", "distance", "boxes", "masks"] = "distance"
    classes: tuple[str, ...] = ()
    channels: Annotated[int, Span(1, 1024)] = 1
    start: str = ""
    stored: Literal["float32", "float16"] = "float32"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the output channels."""
        return FIXED_CLASSES.get(self.head, self.classes)


@dataclass(frozen=True, kw_only=True)
class LoopRules:
    """How long and in what portions. An epoch is `steps` batches of `batch` crops of `crop` px.

    `hours`: ends sooner (0: no limit). `pace`: what the schedule of the learning rate runs over, all epochs or the
    hours; for the latter its length is reckoned anew after each epoch, by the time it took, so that no two runs are the
    same.
    `accumulate`: batches a step of the optimiser. `clip`: largest norm of the
    gradients (0: none). `ema`: decay of the running mean of the weights, which is what is kept (0: none). `precision`:
    of the convolutions. `workers`: processes that make crops. `validate`: epochs from one validation to the next.
    `patience`: validations without gain after which it stops (0: never).

    `devices`: GPUs (or processes, on the CPU) that share each batch, `auto` for all GPUs there are; on each of `nodes`
    machines, which share the folder of the run. Only what batch normalisation counts differs from one device with the
    whole batch. `strategy`: Lightning's, for several of them (``auto`` is ``ddp``).
    """

    epochs: Annotated[int, Span(1, 1_000_000)] = 50
    steps: Annotated[int, Span(1, 10_000_000)] = 200
    batch: Annotated[int, Span(1, 4096)] = 8
    crop: Annotated[int, Span(16, 4096, "px")] = 256
    hours: Annotated[float, Span(0, 1000)] = 0.0
    pace: Literal["epochs", "hours"] = "epochs"
    accumulate: Annotated[int, Span(1, 1024)] = 1
    clip: Annotated[float, Span(0, 1e6)] = 1.0
    ema: Annotated[float, Span(0, 0.999999)] = 0.999
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    workers: Annotated[int, Span(0, 256)] = 0
    validate: Annotated[int, Span(1, 10_000)] = 5
    patience: Annotated[int, Span(0, 10_000)] = 0
    seed: Annotated[int, Span(0, 2**31 - 1)] = 0
    devices: Annotated[int | Literal["auto"], Span(1, 1024)] = 1
    nodes: Annotated[int, Span(1, 1024)] = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A checked config. `prefix` are the steps before the trained one; `folder` is where relative paths begin.

    `metric`: the protocol of `cellkit eval` that tells which checkpoint is best (``auto``: that of objects where the
    recipe makes labels and the data hold objects, else of a detector COCO's AP, else that of classes, else that of
    pixels); ``coco50`` is the AP at an IoU of 0.5. `baseline`: a recipe that is scored beside the trained one at the
    end. `licence`: of the data, for the card.
    """

    name: str
    recipe: Recipe
    trains: str
    prefix: tuple[Step, ...]
    data: DataRules
    model: ModelRules
    targets: TargetRules
    loss: Any
    optimiser: tuple[str, Mapping[str, Any]]
    schedule: tuple[str, Mapping[str, Any]]
    augment: Any
    loop: LoopRules
    metric: str = "auto"
    baseline: Recipe | None = None
    licence: str = ""
    folder: Path = Path()
    text: str = ""
    warnings: tuple[Fault, ...] = ()

    @property
    def digest(self) -> str:
        """The first 16 digits of the sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, str]:
        """All that must not change when a training goes on, by the section of the config it stands in."""
        parts = {key: getattr(self, key) for key in ("prefix", "trains", "data", "model", "targets", "loss", "augment")}
        parts |= {"optimiser": self.optimiser, "schedule": self.schedule}
        fixed = ("steps", "batch", "crop", "accumulate", "clip", "ema", "precision", "seed")
        parts |= {f"loop.{name}": getattr(self.loop, name) for name in fixed}
        return {key: repr(value) for key, value in parts.items()}

    @property
    def plain_card(self) -> Card:
        """The card of the network, as far as it is known before it is trained."""
        model = self.model
        steps: Any = load_yaml(dump(Recipe(steps=self.prefix)))["steps"] if self.prefix else []
        return Card(
            name=self.name,
            architecture=model.architecture,
            task=find(model.architecture).task,
            channels=model.channels,
            classes=model.outputs or (UNNAMED,),
            head=model.head,
            parameters=find(model.architecture).complete(model.parameters),
            recipe=tuple(steps),
            tile=None if model.head in DENSE_HEADS else self.loop.crop,
            licence=self.licence,
            obtain="`cellkit train` with the config it was trained by",
        )

    @property
    def steps(self) -> int:
        """The steps of the optimiser in the whole training."""
        return self.loop.epochs * -(-self.loop.steps // self.loop.accumulate)


def read_config(path: str | Path) -> TrainConfig:
    """Read a config. Raises `UsageError` where the file cannot be read, `ConfigError` with every fault in it."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a config: {error}") from error
    config, faults = parse_config(text, path.parent)
    wrong = tuple(fault for fault in faults if not fault.warning)
    if wrong or config is None:
        raise ConfigError(wrong)
    return config


def parse_config(text: str, folder: Path = Path()) -> tuple[TrainConfig | None, list[Fault]]:
    """Return the config and every fault; None where it has any that is no warning. Paths begin at `folder`."""
    faults: list[Fault] = []
    try:
        data = load_yaml(text)
    except YamlFault as fault:
        return None, [Fault(fault.where, str(fault))]
    if not isinstance(data, dict):
        return None, [Fault("config", "wanted a mapping with `recipe:`, `trains:`, `data:`, `model:`")]
    for key in data:
        if key not in _TOP:
            faults.append(
                Fault("config", f"unknown key {key!r}", suggest(str(key), _TOP) or f"keys: {', '.join(_TOP)}")
            )
    if data.get("cellkit_train", _VERSION) != _VERSION:
        faults.append(Fault("cellkit_train", f"version {data['cellkit_train']!r} is not known", "write 1"))
    recipe, trains, prefix = read_recipe(data, folder, faults)
    model = _section(ModelRules, data.get("model"), "model", faults)
    model = checked_network(model, stage_of(recipe, trains), data, faults)
    dense = model.head in DENSE_HEADS
    targets = _targets(data.get("targets") if dense else None, faults)
    loss = data.get("loss", DEFAULT_LOSSES[model.head]) if dense else ()
    if dense and not any(fault.where == "model.head" for fault in faults):
        faults += loss_faults(loss, model.head, model.outputs)
    augment = data.get("augment", [])
    faults += _augment_faults(augment)
    config = TrainConfig(
        name=_plain(data.get("name", "model"), "name", faults) or "model",
        recipe=recipe,
        trains=trains,
        prefix=prefix,
        data=_section(DataRules, data.get("data"), "data", faults),
        model=model,
        targets=targets,
        loss=loss,
        optimiser=_named(OPTIMISERS, data.get("optimiser", "adamw"), "optimiser", faults),
        schedule=_named(SCHEDULES, data.get("schedule", "constant"), "schedule", faults),
        augment=augment,
        loop=_section(LoopRules, data.get("loop"), "loop", faults),
        metric=_metric(data.get("metric", "auto"), faults),
        baseline=read_baseline(data.get("baseline"), folder, faults),
        licence=_plain(data.get("licence", ""), "licence", faults),
        folder=folder,
        text=text,
        warnings=tuple(fault for fault in faults if fault.warning),
    )
    _check_together(config, faults)
    return (None if any(not fault.warning for fault in faults) else config), faults


def _check_together(config: TrainConfig, faults: list[Fault]) -> None:
    """Look at what hangs on several sections, where each by itself is right."""
    if any(not fault.warning for fault in faults):
        return
    divisor = find(config.model.architecture).divisor(config.plain_card.parameters)
    if config.loop.crop % divisor:
        near = max(divisor, round(config.loop.crop / divisor) * divisor)
        faults.append(Fault("loop.crop", f"{config.loop.crop} is no multiple of {divisor}", f"e.g. {near}"))
    if config.loop.pace == "hours" and not config.loop.hours:
        faults.append(Fault("loop.pace", "there are no hours to run over", "e.g. loop: {hours: 2, pace: hours}"))
    if config.loop.pace == "hours" and (config.loop.devices != 1 or config.loop.nodes != 1):
        faults.append(Fault("loop.pace", "several processes would not agree on the speed so far", "pace: epochs"))
    if config.model.start:
        here = config.folder / config.model.start
        try:
            find_model(str(here) if here.exists() else config.model.start)
        except CellkitError as error:
            faults.append(Fault("model.start", str(error)))
    try:
        parse_memory(config.data.cache)
    except UsageError as error:
        faults.append(Fault("data.cache", str(error)))
    if config.data.layout not in ("auto", *LAYOUTS):
        fix = suggest(config.data.layout, LAYOUTS) or f"layouts: auto, {', '.join(LAYOUTS)}"
        faults.append(Fault("data.layout", f"no layout is called {config.data.layout!r}", fix))
    if config.model.outputs:  # else the steps behind are checked once the data set has named its classes
        faults += recipe_faults(config)


def recipe_faults(config: TrainConfig) -> list[Fault]:
    """Return what is wrong with the recipe where its trained step finds the classes of `config`."""
    try:
        with standing_in(config.recipe, config.trains, config.plain_card) as (bound, _):
            found = faults_of(bound)
    except UsageError as error:
        found = [Fault("trains", str(error))]
    return [Fault(f"recipe {fault.where}", fault.message, fault.fix) for fault in found]


S = TypeVar("S", DataRules, ModelRules, LoopRules)


def _section(kind: type[S], values: Any, where: str, faults: list[Fault]) -> S:
    """Return the section as far as it can be understood."""
    if values is None:
        return kind()
    if not isinstance(values, dict):
        faults.append(Fault(where, f"wanted a mapping, got {values!r}"))
        return kind()
    free: set[str] = {"parameters"} & {f.name for f in fields(kind)}
    known: dict[str, Parameter] = {name: p for name, p in read_parameters(kind).items() if name not in free}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key in free:
            given[key] = value
        elif key not in known:
            fix = suggest(str(key), [*known, *free]) or f"keys: {', '.join([*known, *free])}"
            faults.append(Fault(where, f"unknown key {key!r}", fix))
        else:
            try:
                given[key] = known[key].coerce(value)
            except ValueError as error:
                faults.append(Fault(f"{where}.{key}", str(error)))
    return kind(**given)


def _targets(values: Any, faults: list[Fault]) -> TargetRules:
    try:
        return TargetRules.of(values or {})
    except (UsageError, TypeError) as error:
        faults.append(Fault("targets", str(error)))
        return TargetRules()


def _named(registry: Any, values: Any, where: str, faults: list[Fault]) -> tuple[str, Mapping[str, Any]]:
    """Read ``name`` or ``{name: ..., parameters}``."""
    given = {"name": values} if isinstance(values, str) else values
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        faults.append(Fault(where, f"wanted a name, or a mapping with `name:`, got {values!r}"))
        return "", {}
    rest = {key: value for key, value in given.items() if key != "name"}
    faults += registry.faults(given["name"], rest, where)
    return given["name"], rest


def _augment_faults(values: Any) -> list[Fault]:
    from cellkit.train.augment import augment_faults

    return augment_faults(values)


def _plain(value: Any, where: str, faults: list[Fault]) -> str:
    if isinstance(value, str):
        return value.strip()
    faults.append(Fault(where, f"wanted a text, got {value!r}", "put it in quotes"))
    return ""


def _metric(value: Any, faults: list[Fault]) -> str:
    if value in METRICS:
        return str(value)
    fix = suggest(str(value), METRICS) or f"known: {', '.join(METRICS)}"
    faults.append(Fault("metric", f"no score is called {value!r}", fix))
    return "auto"
