"""`cellkit train`: train the network of a recipe's step by a config."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import load_plugins
from .progress import Lines, span, surface

if TYPE_CHECKING:
    from cellkit.train.config import TrainConfig
    from cellkit.train.loop import Report

_SECONDS_BETWEEN_LINES = 10.0
_UNITS = {"h": 3600, "m": 60, "s": 1, "": 1}


@click.command("train", short_help="Train the network of a recipe's step.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), metavar="DIR", help="Images and truth, instead of those the config names.")  # fmt: skip # noqa: E501
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run.  [default: the config's name beside it]")  # fmt: skip # noqa: E501
@click.option("--folds", type=click.IntRange(2), metavar="K", help="Train K models, each judged by the images that it did not see.")  # fmt: skip # noqa: E501
@click.option("--resume", is_flag=True, help="Go on from the last finished epoch of the run.")
@click.option("--time-limit", metavar="TIME", help="Stop cleanly within this time, e.g. 9m or 1h30m; --resume goes on.")
@click.option("--device", default="auto", metavar="DEVICE", help="Where to train: auto, cpu, cuda or cuda:N.")
@click.option("--devices", metavar="N", help="How many GPUs share each batch, or auto for all there are; see loop.devices.")  # fmt: skip # noqa: E501
@click.option("--with", "plugins", multiple=True, metavar="FILE.py", help="Load stages or architectures of your own.")
@click.option("--show-batch", "sheet", type=click.Path(dir_okay=False, path_type=Path), metavar="PAGE.html", help="Only write a page of crops as the network will see them.")  # fmt: skip # noqa: E501
@click.option("--check", is_flag=True, help="Only check the config, and say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def train_command(ctx: click.Context, config: Path, out: Path | None, **given: Any) -> None:
    """Train by CONFIG, which names a recipe and the step whose network is trained.

    The folder of the run holds model.safetensors (the best weights with their card), config.yaml, log.csv and the
    checkpoints last.ckpt and best.ckpt, of which --resume takes the last; audit.json lists what is wrong with images
    and labels, which are looked through first. With --folds it holds such a run for each, fold-1, fold-2 ..., and
    folds.json with all scores; no group of images is cut, and a part of the split file for validation is kept for the
    end.

    Exit code 0: done, or stopped by --time-limit; 1: the loss (of a fold) is no longer a number, last.ckpt remains; 2:
    wrong config, data or usage; 130: stopped, --resume goes on.

    \b
    A config:
      cellkit_train: 1
      recipe: my-recipe.yaml        # the steps before the trained one are the preprocessing
      trains: predict
      data: {folder: dsb2018, balance: modality}
      model: {architecture: unet-compact, head: distance}
      optimiser: {name: adamw, rate: 0.003}
      schedule: one_cycle
      augment: full
      baseline: nuclei-classical
      loop: {epochs: 50, steps: 200, batch: 8, crop: 256}

    \b
    Detectors: `trains: detect` with `model: {architecture: faster-rcnn}`, which learns from boxes, labels or masks, or
    `trains: detect_masks` with mask-rcnn; their classes are those of the data set.

    \b
    Example:
      cellkit train nuclei.yaml --data dsb2018 -o nuclei-run --time-limit 1h
    """
    load_plugins(given["plugins"])
    limit = _seconds(given["time_limit"])
    from cellkit.train.config import read_config

    checked = read_config(config)
    follows = os.environ.get("LOCAL_RANK", "0") != "0"  # one of several processes, of which the first speaks
    for fault in checked.warnings if not follows else ():
        click.echo(f"note: {fault}", err=True)
    checked = _on_devices(checked, given["devices"])
    if given["sheet"] is not None:
        from cellkit.train.parts import open_parts, write_sheet

        write_sheet(checked, open_parts(checked, given["data"]), given["sheet"])
        click.echo(str(given["sheet"]))
        return
    if given["check"]:
        _print_plan(checked, given["data"], given["folds"])
        return
    from cellkit.train.dense import Diverged

    folder = out if out is not None else config.with_suffix("")
    plain = follows or given["as_json"]
    show = Shown(surface(plain, "reading the images", _SECONDS_BETWEEN_LINES))
    options = {"resume": given["resume"], "time_limit": limit, "device": given["device"], "show": show}
    try:
        with show:
            if given["folds"] is not None:
                from cellkit.train.crossing import train_folds
                from cellkit.train.folds import open_folds

                dealt = open_folds(checked, given["folds"], given["data"])
                whole = train_folds(checked, dealt, folder, **options)
            else:
                from cellkit.train.loop import train

                report = train(checked, folder, data=given["data"], **options)
    except Diverged as error:
        if follows:  # the first tells of it; Lightning would end that one with the first of the others that fails
            ctx.exit(0)
        click.echo(f"cellkit: {error}", err=True)
        ctx.exit(1)
    except KeyboardInterrupt:
        click.echo("cellkit: stopped; the same command with --resume goes on from the last finished epoch", err=True)
        ctx.exit(130)
    if given["folds"] is not None:
        from .train_folds import print_folds

        print_folds(whole, as_json=given["as_json"])
        ctx.exit(1 if whole.leads and whole.reason == "failed" else 0)
    if not report.leads:
        return
    if given["as_json"]:
        import json

        click.echo(json.dumps(_summary(report), indent=2, allow_nan=False))
    else:
        _print(report)


def _on_devices(config: TrainConfig, devices: str | None) -> TrainConfig:
    """Return the config with ``--devices`` in place of its own."""
    from dataclasses import replace

    from cellkit.core import UsageError

    if devices is None:
        return config
    if devices != "auto" and not (devices.isdecimal() and 1 <= int(devices) <= 1024):
        raise UsageError(f"--devices {devices}: wanted a number from 1, or auto")
    number: Any = "auto" if devices == "auto" else int(devices)
    return replace(config, loop=replace(config.loop, devices=number))


def _seconds(text: str | None) -> float | None:
    """Return the seconds that a text such as ``9m``, ``1h30m`` or ``90`` stands for."""
    from cellkit.core import UsageError

    if text is None:
        return None
    plain = text.strip().lower().replace(" ", "")
    found = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", plain)
    if not found or "".join(map("".join, found)) != plain:
        raise UsageError(f"--time-limit {text}: wanted a time such as 9m, 90s or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in found)
    if not total > 0:
        raise UsageError(f"--time-limit {text}: wanted more than no time")
    return total


def _print_plan(config: TrainConfig, data: Path | None, folds: int | None) -> None:
    from cellkit.train.losses import loss_terms

    parts = dealt = None
    if folds is not None:
        from cellkit.train.folds import open_folds
        from cellkit.train.parts import with_classes

        dealt = open_folds(config, folds, data)
        config = with_classes(config, dealt.every)
    elif data is not None or config.data.folder:
        from cellkit.train.parts import open_parts, with_classes

        parts = open_parts(config, data)
        config = with_classes(config, parts)
    loop, model = config.loop, config.model
    finds = model.head in ("boxes", "masks")
    terms = () if finds else loss_terms(config.loss, model.head, model.outputs)
    rows = {
        "recipe": f"{config.recipe.name or 'without a name'}, step {config.trains}, behind "
        f"{', '.join(step.label for step in config.prefix) or 'no step'}",
        "network": f"{model.architecture}, {model.channels} channels, {model.head}: "
        f"{', '.join(model.outputs) or 'the classes of the data set'}",
        "loss": " + ".join(f"{term.weight:g} {term.name}({', '.join(term.channels) or 'all'})" for term in terms)
        or "the detector's own",
        "optimiser": _named(config.optimiser),
        "schedule": f"{_named(config.schedule)} over {config.steps:,} steps",
        "crops": f"{loop.epochs:,} epochs of {loop.steps:,} batches of {loop.batch} crops of {loop.crop} px: "
        f"{loop.epochs * loop.steps * loop.batch:,} crops",
    }
    if dealt is not None:
        rows |= {f"fold {number}": one.about for number, one in enumerate(dealt.parts, 1)}
        rows["held back"] = f"{len(dealt.held):,} images"
    elif parts is not None:
        rows["data"] = "; ".join((parts.about, *parts.notes))
    for name, text in rows.items():
        click.echo(f"{name:<10}{text}")
    click.echo("The config is sound.")


def _named(what: tuple[str, Mapping[str, Any]]) -> str:
    name, parameters = what
    given = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return f"{name} ({given})" if given else name


class Shown:
    """How far a training has come: a line an epoch, and some in between, or a bar with the lines above it."""

    def __init__(self, on: Lines) -> None:
        self.on = on
        self.epochs = self.steps = self.done = 0
        self.seconds = math.inf
        self.began = time.perf_counter()

    def __enter__(self) -> Shown:
        self.on.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.on.__exit__(*error)

    def start(self, epochs: int, steps: int, done: int, seconds: float = math.inf) -> None:
        """So many epochs of so many steps are planned, `done` of them before, and `seconds` given."""
        self.epochs, self.steps, self.done, self.seconds = epochs, steps, done, seconds
        self.began = time.perf_counter()
        self.note(f"{epochs - done:,} epochs of {steps:,} steps to go" if done else f"{epochs:,} epochs of {steps:,} steps")  # fmt: skip # noqa: E501

    def step(self, epoch: int, step: int) -> None:
        """Take note of a step of an epoch, from 1."""
        text = f"epoch {epoch:,} of {self.epochs:,}: step {step:,} of {self.steps:,}{self.left(epoch, step)}"
        self.on.move(self.worded(text), (epoch - 1) * self.steps + step, self.epochs * self.steps)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Take note of an epoch that is done, by its row of the log."""
        score = f", score {row['score']:.4f}" if "score" in row else ""
        left = self.left(int(row["epoch"]) + 1, 0)
        self.note(f"epoch {row['epoch']:,} of {self.epochs:,}: loss {row['loss']:.4f}{score}{left}")

    def left(self, epoch: int, step: int) -> str:
        """Return the time that is left at the speed so far, validation included, as ``, 90 s left``."""
        done = (epoch - 1 - self.done) * self.steps + step
        total = (self.epochs - self.done) * self.steps
        if not 0 < done < total:
            return ""
        taken = time.perf_counter() - self.began
        return span(max(0.0, min(taken / done * (total - done), self.seconds - taken)))

    def note(self, text: str) -> None:
        """Say something that stays."""
        self.on.say(self.worded(text))

    def worded(self, text: str) -> str:
        """Return a text as it is said; a grid puts before it what it is about."""
        return text


def _summary(report: Report) -> dict[str, Any]:
    return {
        "folder": str(report.folder),
        "epochs": report.epochs,
        "finished": report.finished,
        "reason": report.reason,
        "best": report.best if report.best == report.best else None,  # NaN is no JSON
        "figures": dict(report.figures),
        "notes": list(report.notes),
    }


def _print(report: Report) -> None:
    if not report.finished:
        click.echo(f"stopped by the time limit after epoch {report.epochs:,}; --resume goes on")
        return
    click.echo(f"done after epoch {report.epochs:,} ({report.reason}): {report.folder / 'model.safetensors'}")
    for name, one in report.figures.get("validation", {}).items():
        sure = "" if one["low"] is None else f" (95 % interval {one['low']:.4f} to {one['high']:.4f})"
        value = "undefined" if one["value"] is None else f"{one['value']:.4f}"
        click.echo(f"  {name}: {one['score']} {value}{sure} on {one['images']:,} images")
        for column, values in one.items():
            if column.startswith("by_"):
                for key, part in values.items():
                    mean = "undefined" if part["value"] is None else f"{part['value']:.4f}"
                    click.echo(f"    {key}: {mean} on {part['images']:,}")
    for note in report.notes[:10]:
        click.echo(f"note: {note}")
