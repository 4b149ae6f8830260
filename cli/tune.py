"""`cellkit tune`: search the parameters of a recipe for those that score best."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import changed, load_plugins, recipe_options
from .tune_given import TuneGiven, is_config, refuse_other, seconds_of, state_file
from .tune_show import Shown, shown

if TYPE_CHECKING:
    from cellkit.tune.output import Given
    from cellkit.tune.scoring import Scorer
    from cellkit.tune.tuning import Options, Tuning

_PROTOCOLS = ("dsb2018", "pixel", "semantic", "glas", "instances")
_TRIALS = 40
_FILE = click.Path(exists=True, path_type=Path)


@click.command("tune", short_help="Search the parameters of a recipe for those that score best.")
@click.argument("recipe", metavar="RECIPE|CONFIG")
@click.argument("images", required=False)
@click.argument("truth", type=_FILE, required=False)
@click.option("--as", "protocol", type=click.Choice(_PROTOCOLS), help="The score of a recipe, as `cellkit eval`.")
@click.option("--data", type=_FILE, metavar="DIR", help="Images and truth, instead of those the config names.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE.yaml",
    help="The recipe or config to write; a table of the trials (.csv) and their state (.sqlite, .trials) stand beside.",
)  # fmt: skip
@click.option(
    "--vary", multiple=True, metavar="STEP.PARAM[=...]",
    help="Vary this: step.param, step (all of it), step.param=0.5..1.5 or step.param=a|b|c; of a config section.key. "
    "May be given again.  [default: every parameter with a range or choices but models and tiles, from half to twice "
    "its value; of a config the learning rate, a decade up and down]",
)  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="Trials of each search.  [default: 40, of a config 20]")
@click.option("--sampler", type=click.Choice(["tpe", "random"]), default="tpe", show_default=True, help="How values are drawn.")  # fmt: skip # noqa: E501
@click.option("--prune", type=click.Choice(["median", "halving", "none"]), default="median", show_default=True, help="When a training is given up early.")  # fmt: skip # noqa: E501
@click.option("--search-only", is_flag=True, help="No trainings at the end that measure the gain.")
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
    """Tune RECIPE on IMAGES and their TRUTH, or the CONFIG of a training, and write what scores best.

    IMAGES is a folder, a file or a glob; TRUTH what `cellkit eval` takes, or a data set. What is gained is measured on
    folds held out from the tuning; where that is nothing, the recipe is written unchanged. Trial 0 has the recipe's
    own values. Layers that no trial changes are made once, so that varying late steps costs little.

    CONFIG is what `cellkit train` takes: every trial is a training, in a folder of its own in OUT.trials, on four
    fifths of the images to train on, scored on the rest of them. The best config and the one as it was are then trained
    on all of them and compared on the images to validate on, which no trial has seen.

    Exit code 0: done; 2: wrong usage, nothing written; 130: stopped, --resume goes on.

    \b
    Example:
      cellkit tune nuclei-classical images labels --as dsb2018 --vary otsu.scale=0.5..1.5 --vary maxima -o tuned.yaml
      cellkit tune train.yaml --vary optimiser.rate=1e-4..1e-2 --vary "loss=bce|dice" --time-limit 2h -o tuned.yaml
    """
    options = TuneGiven(**given)
    refuse_other(ctx, is_config(options.recipe))
    if is_config(options.recipe):
        from .tune_train import tune_training

        tune_training(ctx, options)
        return
    show = shown(options.as_json)
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


def _tuned(options: TuneGiven, show: Shown) -> tuple[Tuning, Scorer, Options, Given]:
    from cellkit.core import Recipe
    from cellkit.metrics import PROTOCOLS, Settings
    from cellkit.models.device import parse_memory
    from cellkit.tune.output import Given, account, write_recipe, write_trials
    from cellkit.tune.scoring import Means, Scorer
    from cellkit.tune.search import Store
    from cellkit.tune.space import space
    from cellkit.tune.tuning import Options, tune

    from .tune_cases import Wanted, open_cases

    assert options.images is not None  # `refuse_other` saw to it
    assert options.truth is not None
    assert options.protocol is not None
    seconds = seconds_of(options.time_limit)
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
    state = state_file(options)
    means = Means(options.workers, None if options.memory is None else parse_memory(options.memory), options.device)
    trials = options.trials or _TRIALS
    about = Given(options.recipe, options.images, str(options.truth), options.part or "")
    with Scorer(searched, cases, protocol, settings, means=means) as scorer:
        show.read(len(cases))
        scorer.prepare(show.one_read)
        with Store(state, _identity(scorer, options), fresh=options.fresh) as store:
            left = None if seconds is None else max(0.0, seconds - (time.perf_counter() - started))
            plan = Options(trials, options.folds, options.seed, left, options.force, options.sampler)
            show.start((options.folds + 1) * trials)
            found = tune(scorer, plan, store, show.add)
    write_trials(options.out.with_suffix(".csv"), found.searches, searched.dimensions)
    write_recipe(options.out, found, account(found, scorer, plan, about))
    return found, scorer, plan, about


def _identity(scorer: Scorer, options: TuneGiven) -> dict[str, Any]:
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
        "--sampler": options.sampler,
        "the images or their groups": hashlib.sha256(repr(groups).encode()).hexdigest(),
    }


def _print(found: Tuning, scorer: Scorer, options: TuneGiven) -> None:
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
