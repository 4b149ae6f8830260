"""The loop of a training: epochs, checkpoints, resume, time limit, logs, validation, and the model at the end."""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from cellkit.core import UsageError
from cellkit.engine.lock import held
from cellkit.io import atomic
from cellkit.models import Card, measure_context, save_model
from cellkit.models.device import choose_device, choose_precision
from cellkit.models.store import RUN_FILE
from cellkit.train.auditing import look_through
from cellkit.train.config import TrainConfig
from cellkit.train.crops import EpochSampler, start_worker
from cellkit.train.dense import DenseTask
from cellkit.train.detection import DetectionTask
from cellkit.train.examples import keep_examples
from cellkit.train.keeper import BEST, IMAGES, LAST, Clock, Keeper, Share, Show, Silent, TimeUp
from cellkit.train.parts import Crops, Parts, open_crops, open_parts, with_classes
from cellkit.train.ranks import Ranks, choose_ranks, end_others, end_with, strategy_of
from cellkit.train.record import Record, told
from cellkit.train.targets import DENSE_HEADS
from cellkit.train.task import STATE, Diverged, TrainingTask, build_network, layout_of
from cellkit.train.validate import Validator, figures

__all__ = ["FOLDS", "MODEL", "Report", "Show", "TooShort", "build_task", "kept_weights", "train"]

MODEL, CONFIG, FOLDS, LOCK = RUN_FILE, "config.yaml", "folds.json", ".lock"
_ASKS = 10
"""Steps after which several processes look at the clock together, each time waiting for one another."""
_FIT = 0.005
"""By how much a score in a lower precision may lie below that in float32 for the card to vouch for it."""


@dataclass(frozen=True)
class Report:
    """What a training came to: `finished`, or stopped by the time limit so that it can be resumed.

    `best` is the best score of a validation, NaN without one. `figures` are those of the card, `notes` what a user
    should know. `leads`: whether this is the process that writes, of several.
    """

    folder: Path
    epochs: int
    finished: bool
    reason: str
    best: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    leads: bool = True


class TooShort(UsageError):
    """There was no time for one epoch."""


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: str | Path | Parts | None = None,
    resume: bool = False,
    time_limit: float | Share | None = None,
    device: str = "auto",
    show: Show | None = None,
) -> Report:
    """Train the network of `config` and write the run to the folder `out`; see `cellkit train`.

    `data`: a folder in place of that of the config, or images that are parted and looked through already; others are
    looked through first (`cellkit.train.auditing`). `time_limit`, in seconds: the run stops cleanly at the end of an
    epoch, so that `resume` can go on. The model is written when all epochs are done (or `loop.hours` or
    `loop.patience` end them). In several processes (`cellkit.train.ranks`) the first alone writes, shows and scores;
    the report of the others knows no figures.

    Raises `UsageError` where the folder holds a training and `resume` is not asked for (or it holds another one),
    where images or labels are no good, or there are fewer devices than the config asks for; `TooShort`, one of them,
    where not one epoch was done in time; `Diverged` where the loss or the weights stop being finite.
    """
    started = time.monotonic()
    place = choose_device(device)
    ranks = choose_ranks(config.loop, place)
    out, show = Path(out), show if show is not None and ranks.leads else Silent()
    _dtype(config, place)  # a precision that the device has not is told before anything is read
    state = _checkpoint(out, resume)
    parts = data if isinstance(data, Parts) else open_parts(config, data)
    config = with_classes(config, parts)
    if state is not None:
        _refuse_other(state, config, out, parts)
    crops = open_crops(config, parts)
    out.mkdir(parents=True, exist_ok=True)
    task = build_task(config, out)
    about = f"{parts.about}; config sha256 {config.digest}"
    card = measure_context(task.kept(), replace(config.plain_card, data=about))
    text = f"{out}: another training is writing here; wait for it or choose another -o"
    alone = held(out / LOCK, text) if ranks.leads else nullcontext()
    with alone, Validator(config, parts.val, parts.gives, card, place) as validator, _quiet():
        notes: tuple[str, ...] = ()
        record = None
        if ranks.leads:
            if parts is not data:
                notes = _looked_through(config, parts, validator, out, resume, show)
            with atomic(out / CONFIG) as temporary:
                temporary.write_text(config.text, encoding="utf-8", newline="")
            record = Record(out, told(config, task.network, validator, parts, place))
        keeper = Keeper(task, validator, show, out, Clock(started, time_limit, config.loop.hours))
        keeper.leads, keeper.asks, keeper.images = ranks.leads, 1 if ranks.world == 1 else _ASKS, parts.digest
        if state is not None:
            task.on_load_checkpoint(state)
        done = len(task.history)
        for note in parts.notes:
            show.note(note)
        if done < config.loop.epochs and not keeper.over():
            crops.pictures.fill()
            left = min(keeper.clock.limit - (time.monotonic() - started), keeper.clock.total - keeper.taken())
            show.start(config.loop.epochs, config.loop.steps, done, left)
            _fit(task, crops, keeper, (place, ranks), out / LAST if state is not None else None)
        report = _ended(task, keeper, validator, show)
        report = replace(report, notes=(*notes, *report.notes))
        if record is not None:
            record.ended(report.finished, report.reason, report.notes)
            keeper.page.draw()
        return report


def _looked_through(
    config: TrainConfig, parts: Parts, validator: Validator, out: Path, resume: bool, show: Show
) -> tuple[str, ...]:
    """Look through images and labels; tell what is found and put it into the card. Return what deserves a note."""
    found = look_through(config, parts, out, resume=resume)
    if found is None:
        return ()
    show.note(found.line)
    for text in found.warnings:
        show.note(f"warning: {text}")
    validator.card = replace(validator.card, data=f"{validator.card.data}; {found.line}")
    return found.warnings


def _fit(
    task: TrainingTask, crops: Crops, keeper: Keeper, where: tuple[torch.device, Ranks], checkpoint: Path | None
) -> None:
    """Run the epochs that are left."""
    config, (device, ranks) = task.config, where
    cuda = device.type == "cuda"
    trainer = _trainer(config, keeper, device, ranks)
    loader: Any = DataLoader(
        crops,
        batch_size=config.loop.batch // ranks.world,
        sampler=EpochSampler(len(crops), rank=trainer.global_rank, world=ranks.world),
        num_workers=config.loop.workers,
        collate_fn=task.collate_half if cuda and _dtype(config, device) != torch.float32 else task.collate,
        pin_memory=cuda,
        worker_init_fn=start_worker,
        persistent_workers=config.loop.workers > 0,
        prefetch_factor=4 if config.loop.workers else None,
    )
    task.layout = layout_of(task.network, device)
    task.network.to(memory_format=task.layout)
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, loader, ckpt_path=checkpoint, weights_only=True)
    except TimeUp:
        keeper.reason = "time limit"
    except SystemExit as error:  # into which Lightning turns Ctrl-C, deaf to it from then on
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
    except Diverged:  # of which all know
        raise
    except BaseException:
        end_with(getattr(trainer.strategy.launcher, "procs", ()))
        end_others()
        raise
    end_with(getattr(trainer.strategy.launcher, "procs", ()))


def _trainer(config: TrainConfig, keeper: Keeper, device: torch.device, ranks: Ranks) -> Any:
    """Return Lightning's trainer. Raises `UsageError` where the processes asked for are not those that were started."""
    one: Any = [device.index or 0] if device.type == "cuda" else 1
    try:
        return lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=one if ranks.world == 1 else ranks.devices,
            num_nodes=ranks.nodes,
            strategy=strategy_of(ranks),
            precision=_precision(config, device),
            max_epochs=config.loop.epochs,
            accumulate_grad_batches=config.loop.accumulate,
            gradient_clip_val=config.loop.clip or None,
            benchmark=device.type == "cuda",  # crops are all of one size, so the fastest kernels are sought once
            default_root_dir=keeper.out,
            callbacks=[keeper],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
    except (ValueError, MisconfigurationException) as error:
        if ranks.world == 1:
            raise
        raise UsageError(f"loop.devices {ranks.devices}, loop.nodes {ranks.nodes}: {error}") from error


def _precision(config: TrainConfig, device: torch.device) -> Any:
    """Return the precision as Lightning calls it."""
    dtype = _dtype(config, device)
    return {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[dtype]


def _dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    able = Card("any", "any", "dense", 1, ("any",), "sigmoid", precision=("float32", "bfloat16", "float16"))
    dtype: torch.dtype = choose_precision(config.loop.precision, device, able)
    return dtype


def _ended(task: TrainingTask, keeper: Keeper, validator: Validator, show: Show) -> Report:
    """Write the model, where the training has come to its end, and return the report."""
    config, done = task.config, len(task.history)
    best = task.best if math.isfinite(task.best) else math.nan
    if not keeper.leads:
        finished = keeper.reason != "time limit"
        return Report(keeper.out, done, finished, keeper.reason or "all epochs", best, leads=False)
    if keeper.reason == "time limit":
        if not done:
            raise TooShort(
                "--time-limit: not one epoch was done in that time, so nothing is kept; give more time, or make epochs "
                f"shorter (loop.steps, now {config.loop.steps})"
            )
        return Report(keeper.out, done, False, keeper.reason, best)
    network, at = kept_weights(task)
    show.note(f"scoring the weights of epoch {at}")
    card = measure_context(network, validator.card)
    validator.card = card
    scores, notes, precision = _scored(task, validator, show, at)
    card = replace(card, figures={"validation": scores, "epoch": at, "epochs": done}, precision=precision)
    save_model(keeper.out / MODEL, network, card, dtype=config.model.stored)
    return Report(keeper.out, done, True, keeper.reason or "all epochs", best, card.figures, tuple(notes))


def kept_weights(task: TrainingTask) -> tuple[torch.nn.Module, int]:
    """Return the network that a training has kept so far, on the CPU, and the epoch that it is of.

    It is that of the best validation, or, before the first, of the last epoch. Raises `OSError` where there is none.
    """
    source = task.folder / (BEST if (task.folder / BEST).is_file() else LAST)
    state = torch.load(source, map_location="cpu", weights_only=True)
    task.load_state_dict(state["state_dict"])
    if task.ema is not None:
        task.ema.to("cpu").load_state_dict(state[STATE]["ema"])
    return task.cpu().kept(), len(state[STATE]["history"])


def build_task(config: TrainConfig, out: Path) -> TrainingTask:
    """Return what trains the network of `config` in the folder `out`."""
    kind = DenseTask if config.model.head in DENSE_HEADS else DetectionTask
    task: TrainingTask = kind(config, build_network(config), out)
    return task


def _scored(
    task: TrainingTask, validator: Validator, show: Show, epoch: int
) -> tuple[dict[str, Any], list[str], tuple[str, ...]]:
    """Return the figures of the kept weights and of the baseline, notes, and the precisions the figures hold in."""
    config = task.config
    column = config.data.balance
    found, failed = validator.score(task.kept())
    scores = {"model": figures(found, validator.protocol, validator.pairs, column)}
    notes = [f"failed: {text}" for text in failed]
    notes += keep_examples(validator, task.kept(), found, task.folder, epoch=epoch)
    precision: tuple[str, ...] = ("float32",)
    dtype = _dtype(config, validator.device)
    if dtype != torch.float32:
        lower, _ = validator.score(task.kept(), dtype)
        name = str(dtype).rpartition(".")[2]
        scores[name] = figures(lower, validator.protocol, validator.pairs)
        if lower.value >= found.value - _FIT:
            precision = ("float32", name)
    if config.baseline is not None:
        show.note(f"scoring the baseline {config.baseline.name}")
        other, failed = validator.baseline(config.baseline)
        scores["baseline"] = {
            "recipe": config.baseline.name,
            **figures(other, validator.protocol, validator.pairs, column),
        }
        notes += [f"baseline: failed: {text}" for text in failed]
    return scores, notes, precision


def _checkpoint(out: Path, resume: bool) -> dict[str, Any] | None:
    """Return the last checkpoint to go on from, None to begin. Raises `UsageError` where `out` is unfit."""
    path = out / LAST
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; wanted a folder for the run")
    if (out / FOLDS).exists():
        raise UsageError(f"{out / FOLDS}: holds a training in folds; give --folds as well, or another -o")
    if path.exists() and not resume:
        raise UsageError(f"{path}: holds an earlier training; --resume goes on with it, another -o begins a new one")
    if resume and not path.exists():
        if not (out / CONFIG).exists():  # else it was stopped in its first epoch
            raise UsageError(f"--resume: there is no training to go on with in {out}")
        return None
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever it meets first in a damaged file
        raise UsageError(f"{path}: cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or STATE not in state:
        raise UsageError(f"{path}: is no checkpoint of `cellkit train`")
    return state


def _refuse_other(state: Mapping[str, Any], config: TrainConfig, out: Path, parts: Parts) -> None:
    before, now = state[STATE]["config"], config.identity
    differ = [key for key in now if before.get(key) != now[key]]
    if differ:
        raise UsageError(
            f"--resume: the config is not the one of the training in {out}: {', '.join(differ)} changed; only epochs, "
            "hours, validation and patience may"
        )
    if state.get(IMAGES, parts.digest) != parts.digest:
        raise UsageError(
            f"--resume: the training in {out} is about other images or another split of them; now there are "
            f"{parts.about} (is it a fold? then give --folds and the folder around it)"
        )


_KNOWN = (
    "does not have many workers",
    "GPU available but not used",
    "The number of training batches",
    "isinstance\\(treespec, LeafSpec\\)",
    "Checkpoint directory",
    "`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`",
    "You are using `torch.load`",
    "`torch.jit",
    "modules in eval mode",
)
"""Beginnings or parts of what Lightning says that is known here and means nothing to a user."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's remarks on what is meant as it is away from the user; warnings of others stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in _KNOWN:
                warnings.filterwarnings("ignore", message=f".*{text}.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
