"""`cellkit tune` of the config of a training: every trial is a training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import load_plugins
from .tune_given import TuneGiven, seconds_of, state_file
from .tune_show import Shown, shown

if TYPE_CHECKING:
    from cellkit.train.parts import Parts
    from cellkit.tune.config_output import Asked
    from cellkit.tune.config_space import ConfigSpace
    from cellkit.tune.config_tuning import ConfigTuning
    from cellkit.tune.search import Trial

_TRIALS = 20
_SHOWN = 10
_FEW = 10


def tune_training(ctx: click.Context, options: TuneGiven) -> None:
    """Carry out the command for a config."""
    show = shown(options.as_json)
    try:
        with show:
            found, asked = _tuned(options, show)
    except KeyboardInterrupt:
        click.echo("cellkit: stopped; the same command with --resume goes on from here", err=True)
        ctx.exit(130)
    if options.as_json:
        import json

        from cellkit.tune.config_output import summary

        click.echo(json.dumps(summary(found, asked), indent=2, allow_nan=False))
    else:
        _print(found, asked, options)


def _tuned(options: TuneGiven, show: Shown) -> tuple[ConfigTuning, Asked]:
    from cellkit.core import UsageError
    from cellkit.train.config import read_config
    from cellkit.train.parts import open_parts
    from cellkit.tune.config_output import Asked, write
    from cellkit.tune.config_space import config_space
    from cellkit.tune.config_tuning import Wanted, tune_config
    from cellkit.tune.search import Draw, Store
    from cellkit.tune.trainings import Plan, Trainings

    seconds = seconds_of(options.time_limit)
    started = time.monotonic()
    load_plugins(options.plugins)
    config = read_config(options.recipe)
    space = config_space(config, options.vary)
    for note in space.notes:
        show.say(f"note: {note}")
    if config.loop.devices != 1 or config.loop.nodes != 1:
        raise UsageError("loop.devices: a search runs in one process; tune with devices: 1, then train on more")
    parts = open_parts(config, options.data)
    state, folder = state_file(options), _folder(options)
    left = None if seconds is None else max(0.0, seconds - (time.monotonic() - started))
    plan = Plan(options.seed, options.prune, options.device, left, options.search_only)
    trainings = Trainings(space, parts, folder, plan, show.tell)
    if options.prune != "none" and config.loop.validate >= config.loop.epochs:
        show.say("note: loop.validate leaves one validation, at the end, so that no trial can be given up early")
    judges = sum(row.part == "val" for row in trainings.inner)
    if judges < _FEW:
        show.say(
            f"note: trials are scored on {judges} of the images to train on, so that chance has a large part in it"
        )
    wanted = Wanted(options.trials or _TRIALS, Draw(options.seed, options.sampler), options.force)
    with Store(state, _identity(space, parts, options), fresh=options.fresh) as store:
        trainings.begin(fresh=options.fresh)
        show.start(wanted.trials)

        def told(search: str, trial: Trial) -> None:
            show.add(search, trial)
            if trial.pruned:
                show.say(f"trial {trial.number}: given up after epoch {trial.pruned:,}, score {trial.score:.4f}")
            elif trial.failed:
                show.say(f"trial {trial.number}: {trial.note}")

        found = tune_config(trainings, wanted, store, told)
    asked = Asked(options.recipe, wanted, trainings)
    write(options.out, found, asked)
    return found, asked


def _folder(options: TuneGiven) -> Path:
    """Return the folder of the trainings. Raises `UsageError` where it holds some whose scores are not known."""
    from cellkit.core import UsageError

    folder = options.out.with_suffix(".trials")
    if not options.resume and not options.fresh and folder.exists():
        raise UsageError(f"{folder}: holds the trainings of an earlier tuning; --fresh starts over, and removes them")
    return folder


def _identity(space: ConfigSpace, parts: Parts, options: TuneGiven) -> dict[str, Any]:
    """Return all that the trials hang on, by the word a user knows it by."""
    import hashlib

    from cellkit.core import registry
    from cellkit.core.recipe import dump

    def digest(what: object) -> str:
        return hashlib.sha256(repr(what).encode()).hexdigest()

    images = [(pair.name, pair.split, pair.group) for pair in (*parts.train, *parts.val)]
    return {
        "the config": digest(space.config.text),
        "its recipe": digest(dump(space.config.recipe)),
        "the weights to start from": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _starts(space)],
        "plug-ins": registry.plugin_digests(),
        "--vary": [str(one) for one in space.dimensions],
        "--sampler": options.sampler,
        "--prune": options.prune,
        "--seed": options.seed,
        "the images, their parts or their groups": digest(images),
    }


def _starts(space: ConfigSpace) -> list[Path]:
    """Return the files of weights that trials may start from."""
    varied = [choice for one in space.dimensions if one.target == "model.start" for choice in one.choices]
    paths = [space.config.folder / name for name in (space.config.model.start, *varied) if name]
    return [path for path in paths if path.is_file()]


def _print(found: ConfigTuning, asked: Asked, options: TuneGiven) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cellkit.tune.config_output import counted, headline
    from cellkit.tune.output import value_text

    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(headline(found))}[/]", highlight=False)
    targets = [one.target for one in asked.trainings.space.dimensions]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("trial", "score", "outcome", "seconds", *targets):
        table.add_column(escape(name), justify="left" if name in ("outcome", *targets) else "right")
    order = sorted(found.trials, key=lambda one: (one.number != found.best.number, -one.score, one.number))
    first = [one for one in order if one.number == 0]
    for one in [*first, *(one for one in order if one.number)][:_SHOWN]:
        outcome = f"given up after epoch {one.pruned:,}" if one.pruned else "failed" if one.failed else one.note
        values = [escape(value_text(one.values[target])) for target in targets]
        table.add_row(str(one.number), f"{one.score:.4f}", escape(outcome), f"{one.seconds:,.1f}", *values)
    console.print(table)
    if len(order) > _SHOWN:
        console.print(f"[dim]and {len(order) - _SHOWN:,} more in the table[/]", highlight=False)
    interval = f"Interval: {found.gain.method}. " if found.gain is not None else ""
    console.print(f"[dim]{interval}{counted(found, asked.wanted)}. {found.seconds:,.0f} s.[/]", highlight=False)
    if found.model is not None:
        console.print(f"trained with it: {escape(str(found.model))}", highlight=False)
    console.print(f"{escape(str(options.out))}, {escape(options.out.with_suffix('.csv').name)}", highlight=False)
