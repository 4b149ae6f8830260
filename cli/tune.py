"""`cellkit tune`: search the parameters of a recipe for those that score best."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import changed, load_plugins, recipe_options

if TYPE_CHECKING:
    from cellkit.tune.output import Given
    from cellkit.tune.scoring import Scorer
    from cellkit.tune.search import Trial
    from cellkit.tune.tuning import Options, Tuning

_PROTOCOLS = ("dsb2018", "pixel", "semantic", "glas", "instances")
_FILE = click.Path(exists=True, path_type=Path)
_SECONDS_BETWEEN_LINES = 2.0
_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class _Given:
    recipe: str
    images: str
    truth: Path
    protocol: str
    out: Path
    vary: tuple[str, ...]
    trials: int
    folds: int
    time_limit: str | None
    seed: int
    split_file: Path | None
    group_column: str | None
    part: str | None
    allow_missing: bool
    workers: int | None
    memory: str | None
    device: str
    pooling: Any
    resume: bool
    fresh: bool
    force: bool
    as_json: bool
    settings: tuple[str, ...]
    plugins: tuple[str, ...]
    bits: int | None
    pixel_size: float | None


@click.command("tune", short_help="Search the parameters of a recipe for those that score best.")
@click.argument("recipe")
@click.argument("images")
@click.argument("truth", type=_FILE)
@click.option("--as", "protocol", type=click.Choice(_PROTOCOLS), required=True, help="The score, as `cellkit eval`.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE.yaml",
    help="The recipe to write; a table of the trials (.csv) and their state (.sqlite) stand beside it.",
)  # fmt: skip
@click.option(
    "--vary", multiple=True, metavar="STEP.PARAM[=...]",
    help="Vary this: step.param, step (all of it), step.param=0.5..1.5 or step.param=a,b,c. May be given again.  "
    "[default: every parameter with a range or choices but models and tiles, from half to twice its value]",
)  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=40, show_default=True, help="Trials of each search.")
@click.option("--folds", type=click.IntRange(2), default=3, show_default=True, help="Folds to measure the gain on.")
@click.option("--time-limit", metavar="TIME", help="End in about this time with the trials there are, e.g. 9m, 1h30m.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of folds and trials.")
@click.option(
    "--split", "split_file", type=_FILE, metavar="FILE.csv",
    help="A table whose first column names the image, with a column `part` and one of groups that no fold cuts.",
)  # fmt: skip
@click.option("--group-column", metavar="NAME", help="The column of groups.  [default: group, patient, slide ...]")
@click.option("--part", metavar="NAME", help="Tune on this part only, e.g. train.")
@click.option("--pooling", type=click.Choice(["set", "images"]), help="As `cellkit eval`.")
@click.option("--allow-missing", is_flag=True, help="Leave out images without truth.")
@click.option("--workers", type=click.IntRange(min=1), help="Images worked on at once.  [default: all cores]")
@click.option("--memory", metavar="SIZE", help="For layers kept between trials, e.g. 2GB.  [default: a quarter]")
@click.option("--device", default="auto", metavar="DEVICE", help="Where networks run: auto, cpu, cuda or cuda:N.")
@click.option("--resume", is_flag=True, help="Go on with the trials of the same command before.")
@click.option("--fresh", is_flag=True, help="Start over, forgetting the trials there are.")
@click.option("--force", is_flag=True, help="Write the tuned recipe even where it gains nothing on held-out images.")
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def tune_command(ctx: click.Context, **given: Any) -> None:
    """Tune the parameters of RECIPE on IMAGES and their TRUTH, and write the recipe that scores best.

    IMAGES is a folder, a file or a glob; TRUTH what `cellkit eval` takes, or a data set. What is gained is measured on
    folds held out from the tuning; where that is nothing, the recipe is written unchanged. Trial 0 has the recipe's
    own values. Layers that no trial changes are made once, so that varying late steps costs little.

    Exit code 0: done; 2: wrong usage, nothing written; 130: stopped, --resume goes on.

    \b
    Example:
      cellkit tune nuclei-classical images labels --as dsb2018 --vary otsu.scale=0.5..1.5 --vary maxima -o tuned.yaml
    """
    options = _Given(**given)
    show = _Lines() if options.as_json or not sys.stderr.isatty() else _Bar()
    try:
        with show:
            found, scorer, plan, about = _tuned(options, show)
    except KeyboardInterrupt:
        click.echo("cellkit: stopped; the same command with --resume goes on from here", err=True)
        ctx.exit(130)
    if options.as_json:
        import json

        from cellkit.tune.output import summary

        click.echo(json.dumps(summary(found, scorer, plan, about), indent=2, allow_nan=False))
    else:
        _print(found, scorer, options)


def _tuned(options: _Given, show: _Lines | _Bar) -> tuple[Tuning, Scorer, Options, Given]:
    from cellkit.core import Recipe
    from cellkit.metrics import PROTOCOLS, Settings
    from cellkit.models.device import parse_memory
    from cellkit.tune.output import Given, account, write_recipe, write_trials
    from cellkit.tune.scoring import Means, Scorer
    from cellkit.tune.search import Store
    from cellkit.tune.space import space
    from cellkit.tune.tuning import Options, tune

    from .tune_cases import Wanted, open_cases

    seconds = _seconds(options.time_limit)
    started = time.perf_counter()
    load_plugins(options.plugins)
    recipe = changed(Recipe.read(options.recipe), options.settings, options.bits, options.pixel_size)
    searched = space(recipe, options.protocol, options.vary)
    wanted = Wanted(
        options.images, options.truth, options.split_file, options.group_column, options.part, options.allow_missing
    )
    cases = open_cases(wanted, recipe, options.protocol)
    protocol, settings = PROTOCOLS[options.protocol], Settings(pooling=options.pooling)
    protocol.report({}, settings)  # a wrong pooling is told before anything is read
    state = _state(options)
    means = Means(options.workers, None if options.memory is None else parse_memory(options.memory), options.device)
    about = Given(options.recipe, options.images, str(options.truth), options.part or "")
    with Scorer(searched, cases, protocol, settings, means=means) as scorer:
        show.read(len(cases))
        scorer.prepare(show.one_read)
        with Store(state, _identity(scorer, options), fresh=options.fresh) as store:
            left = None if seconds is None else max(0.0, seconds - (time.perf_counter() - started))
            plan = Options(options.trials, options.folds, options.seed, left, options.force)
            show.start((options.folds + 1) * options.trials)
            found = tune(scorer, plan, store, show.add)
    write_trials(options.out.with_suffix(".csv"), found, scorer)
    write_recipe(options.out, found, account(found, scorer, plan, about))
    return found, scorer, plan, about


def _state(options: _Given) -> Path:
    """Return the file of the trials. Raises `UsageError` where it is there and nobody said what becomes of it."""
    from cellkit.core import UsageError

    if options.out.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--out {options.out}: a recipe's file ends in .yaml")
    state = options.out.with_suffix(".sqlite")
    if options.resume and options.fresh:
        raise UsageError("--resume and --fresh contradict each other")
    if options.resume and not state.exists():
        raise UsageError(f"--resume: there are no trials to go on from, no file {state}")
    if state.exists() and not (options.resume or options.fresh):
        raise UsageError(f"{state}: holds the trials of an earlier tuning; --resume goes on, --fresh starts over")
    return state


def _identity(scorer: Scorer, options: _Given) -> dict[str, Any]:
    """Return all that the trials hang on, by the word a user knows it by."""
    import hashlib

    from cellkit.core import registry
    from cellkit.core.recipe import dump

    groups = sorted((case.name, case.group) for case in scorer.cases.values())
    return {
        "the recipe": hashlib.sha256(dump(scorer.space.recipe).encode()).hexdigest(),
        "the networks": hashlib.sha256(scorer.networks.identity().encode()).hexdigest(),
        "plug-ins": registry.plugin_digests(),
        "--vary": [str(one) for one in scorer.space.dimensions],
        "--as": scorer.protocol.name,
        "--pooling": options.pooling,
        "--folds": options.folds,
        "--seed": options.seed,
        "the images or their groups": hashlib.sha256(repr(groups).encode()).hexdigest(),
    }


def _seconds(text: str | None) -> float | None:
    """Return the seconds that a text such as ``9m``, ``1h30m`` or ``90`` stands for."""
    from cellkit.core import UsageError

    if text is None:
        return None
    found = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", text.strip().lower())
    if not found or "".join(map("".join, found)) != text.strip().lower().replace(" ", ""):
        raise UsageError(f"--time-limit {text}: wanted a time such as 9m, 90s or 1h30m")
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in found)
    if not total > 0:
        raise UsageError(f"--time-limit {text}: wanted more than no time")
    return total


class _Tally:
    """Images read and trials done so far, and how far the search that runs has come."""

    def __init__(self) -> None:
        self.total = self.trials = self.images = self.read = 0
        self.best: dict[str, tuple[float, float]] = {}
        self.started = time.perf_counter()

    def count(self, search: str, trial: Trial) -> None:
        self.trials += 1
        first, best = self.best.get(search, (trial.score, trial.score))
        self.best[search] = first, max(best, trial.score)

    def text(self) -> str:
        if not self.total:
            return f"{self.read:,} of {self.images:,} images read"
        parts = [f"{self.trials:,} of {self.total:,} trials"]
        if self.best:
            name, (first, best) = list(self.best.items())[-1]
            parts.append(f"{name}: {first:.4f} to {best:.4f}")
        return ", ".join(parts)


class _Lines:
    """Plain lines on standard error, some seconds apart, where there is no terminal."""

    def __init__(self) -> None:
        self.tally = _Tally()
        self.last = time.perf_counter()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, total: int) -> None:
        self.tally.images = total

    def one_read(self) -> None:
        self.tally.read += 1
        self._show(self.tally.read == self.tally.images)

    def start(self, total: int) -> None:
        self.tally.total = total

    def add(self, search: str, trial: Trial) -> None:
        self.tally.count(search, trial)
        self._show(self.tally.trials == self.tally.total)

    def _show(self, last: bool) -> None:
        now = time.perf_counter()
        if last or now - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = now
            click.echo(self.tally.text(), err=True)


class _Bar(_Lines):
    """A live bar on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("trials", total=None, text="looking for images")

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _show(self, last: bool) -> None:
        tally = self.tally
        done, total = (tally.trials, tally.total) if tally.total else (tally.read, tally.images)
        self.progress.update(self.task, completed=done, total=total, text=tally.text())


def _print(found: Tuning, scorer: Scorer, options: _Given) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cellkit.tune.output import headline

    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(headline(found))}[/]", highlight=False)
    scores = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("held out", "images", "trials", "as it was", "tuned"):
        scores.add_column(name, justify="left" if name == "held out" else "right")
    for number, fold in enumerate(found.folds, 1):
        scores.add_row(
            f"fold {number}", f"{fold.images:,}", f"{fold.trials:,}", f"{fold.default:.4f}", f"{fold.tuned:.4f}"
        )
    console.print(scores)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    heads = ["parameter", "as it was", *(f"fold {n}" for n in range(1, len(found.folds) + 1)), "written"]
    for name in heads:
        table.add_column(name, justify="left" if name == "parameter" else "right")
    written = dict(found.best.values) if found.tuned and found.best is not None else scorer.space.defaults
    for target, default in scorer.space.defaults.items():
        values = [default, *(fold.best.values[target] for fold in found.folds), written[target]]
        table.add_row(escape(target), *(escape(str(value)) for value in values))
    console.print(table)
    for note in scorer.space.notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)
    for name, reason in list(found.failed.items())[:10]:
        console.print(f"[red]failed[/] {escape(name)}: {escape(reason)}", highlight=False)
    console.print(f"[dim]Interval: {found.gain.method}. {found.seconds:,.0f} s.[/]", highlight=False)
    console.print(f"{escape(str(options.out))}, {escape(options.out.with_suffix('.csv').name)}", highlight=False)
