"""`cellkit models`: list architectures and trained networks, show one, verify one on this device, make a new one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellkit.core import CellkitError
    from cellkit.models import ArchitectureSpec, Card, Located


class _Names(click.Group):
    """A group in which any word that is no subcommand is the name of what to show."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            return "show", self.commands["show"], args
        return super().resolve_command(ctx, args)


@click.group(
    "models", cls=_Names, invoke_without_command=True, short_help="List networks, show, verify or make one.",
    subcommand_metavar="[NAME | COMMAND [ARGS]...]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def models_command(ctx: click.Context, as_json: bool) -> None:
    """List the architectures and the trained networks, or show the one called NAME.

    Trained networks are looked for in the folders of $CELLKIT_MODELS, in the user's data folder and among those that
    ship with cellkit; a path to a file or folder does as well.

    \b
    Examples:
      cellkit models
      cellkit models unet
      cellkit models verify my-model.safetensors
    """
    if ctx.invoked_subcommand is not None:
        return
    from cellkit.models import architectures, models
    from cellkit.models.store import folders

    known, found = architectures(), models()
    if as_json:
        _echo_json(
            {
                "architectures": [_architecture_json(spec) for spec in known.values()],
                "models": [_model_json(name, model) for name, model in found.items()],
            }
        )
        return
    _print_architectures(known)
    _print_models(found, folders())


@models_command.command("show", short_help="Show an architecture or a trained network (the same as NAME alone).")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def show_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show an architecture with its parameters, or the card of a trained network.

    \b
    Example:
      cellkit models show unet
    """
    from cellkit.core import UsageError
    from cellkit.core.errors import suggest
    from cellkit.models import architectures, find_model, models

    as_json = as_json or bool(ctx.parent and ctx.parent.params.get("as_json"))
    known = architectures()
    if name in known and name not in models():
        if as_json:
            _echo_json(_architecture_json(known[name]))
        else:
            _print_architecture(known[name])
        return
    try:
        located = find_model(name)
    except UsageError:
        hint = suggest(name, [*known, *models(), *models_command.commands])
        if not hint:
            raise
        raise UsageError(f"no architecture and no trained network is called {name!r}; {hint}") from None
    if as_json:
        _echo_json(_model_json(located.name, located))
    else:
        _print_model(located)


@models_command.command("verify", short_help="Run a network's golden pair on this device.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
@click.pass_context
def verify_command(ctx: click.Context, names: Sequence[str], device: str) -> None:
    """Run each network on the input that is stored with it, and compare with the stored output.

    Exit code 0: this device gives the same numbers; 1: it does not, so do not use it; 2: wrong usage or a damaged file.

    \b
    Example:
      cellkit models verify my-model.safetensors --device cuda
    """
    from cellkit.core import CellkitError
    from cellkit.models import find_model
    from cellkit.models.verify import verify

    wrong = failed = 0
    for name in names:
        try:
            verdict = verify(find_model(name), device)
        except CellkitError as error:  # the others are looked at all the same
            failed += 1
            click.echo(f"cellkit: {error}", err=True)
            continue
        for run in verdict.comparisons:
            word = "the same numbers" if run.agrees else "OTHER NUMBERS"
            click.echo(f"{name}: {verdict.device}, {run.precision}: {word}: {run.found}")
        if not verdict.agrees:
            wrong += 1
            click.echo(f"{name}: this device's numbers differ; use another device, or precision: float32", err=True)
    ctx.exit(2 if failed else 1 if wrong else 0)


@models_command.command("new", short_help="Write an untrained network, to try a recipe or measure speed.")
@click.argument("architecture")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="PATH",
    help="FILE.safetensors, or a folder.",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="PARAM=VALUE", help="Change one parameter.")
@click.option("--channels", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of the input.")
@click.option("--classes", metavar="A,B", help="Names of the outputs.  [default: by the head]")
@click.option(
    "--head", type=click.Choice(["sigmoid", "softmax", "border", "distance", "boxes", "masks"]),
    help="What the outputs mean.  [default: by the architecture]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random weights.")
def new_command(architecture: str, out: Path, **given: Any) -> None:
    """Write a network of ARCHITECTURE with random weights. It predicts nothing of use.

    \b
    Example:
      cellkit models new unet-compact -o try.safetensors --set width=8
    """
    from cellkit.models.architecture import find

    spec = find(architecture)
    parameters = spec.complete(_settings(given["settings"]))
    card = _new_card(spec, parameters, out, given)
    card = _write_new(card, out, given["seed"])
    reach = "the whole input" if card.reach is None else f"{card.reach} px"
    click.echo(f"{out}: untrained {spec.name}, divisor {card.divisor}, reach {reach}, halo {card.halo} px")


def _settings(settings: Sequence[str]) -> dict[str, Any]:
    import yaml

    from cellkit.core import UsageError

    found = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: wanted param=value")
        try:
            found[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            found[name.strip()] = text
    return found


def _new_card(spec: ArchitectureSpec, parameters: Mapping[str, Any], out: Path, given: Mapping[str, Any]) -> Card:
    from cellkit.models.card import FIXED_CLASSES, Card

    head: Any = given["head"] or ("sigmoid" if spec.task == "dense" else spec.task)
    usual = {**FIXED_CLASSES, "softmax": ("background", "object")}.get(head, ("object",))
    classes = tuple(name.strip() for name in given["classes"].split(",")) if given["classes"] else usual
    return Card(
        name=out.stem,
        architecture=spec.name,
        task=spec.task,
        channels=given["channels"],
        classes=classes,
        head=head,
        parameters=parameters,
        data="none: this network is untrained",
        weak="everything: this network is untrained, its weights are random; for trying recipes and measuring speed",
    )


def _write_new(card: Card, out: Path, seed: int) -> Card:
    import torch

    from cellkit.models import build, measure_context, save_model
    from cellkit.models.architecture import find

    spec = find(card.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(card.architecture, card.channels, len(card.classes), card.parameters).eval()
    if spec.task == "dense":
        card = measure_context(network, card)
    return save_model(out, network, card)


def _echo_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _architecture_json(spec: ArchitectureSpec) -> dict[str, Any]:
    parameters = {
        p.name: {
            "type": p.type_text,
            "default": p.default,
            **({"low": p.span.low, "high": p.span.high, "unit": p.span.unit} if p.span else {}),
        }
        for p in spec.parameters.values()
    }
    defaults = {name: p.default for name, p in spec.parameters.items()}
    return {
        "name": spec.name,
        "task": spec.task,
        "summary": spec.summary,
        "source": spec.source,
        "divisor": spec.divisor(defaults),
        "context": spec.context,
        "parameters": parameters,
    }


def _model_json(name: str, model: Located | CellkitError) -> dict[str, Any]:
    import json

    if isinstance(model, Exception):
        return {"name": name, "error": str(model)}
    weights = None if model.weights is None else str(model.weights)
    return {"name": name, "path": str(model.path), "weights": weights, "card": json.loads(model.card.dump())}


def _print_architectures(known: Mapping[str, ArchitectureSpec]) -> None:
    from rich.markup import escape

    table = _table("architecture", "finds", "parameters", "source")
    for spec in known.values():
        table.add_row(spec.name, spec.task, str(len(spec.parameters)), escape(spec.source))
    _print(table)


def _print_models(found: Mapping[str, Located | CellkitError], folders: Sequence[Path]) -> None:
    from rich.markup import escape

    click.echo()
    if not found:
        click.echo(f"no trained networks in {', '.join(map(str, folders))}")
        return
    table = _table("trained network", "finds", "architecture", "classes", "licence", "weights")
    for name, model in found.items():
        if isinstance(model, Exception):
            table.add_row(escape(name), "[red]cannot be read: see below[/]")
            continue
        card = model.card
        there = "missing" if model.weights is None else "here"
        row = (name, card.task, card.architecture, ", ".join(card.classes), card.licence, there)
        table.add_row(*map(escape, row))
    _print(table)
    for name, model in found.items():
        if isinstance(model, Exception):
            click.echo(f"{name}: {model}", err=True)


def _print_architecture(spec: ArchitectureSpec) -> None:
    from rich.markup import escape

    from .inspect import _plain, _unwrapped

    click.echo(f"{spec.name}: {spec.task}")
    for paragraph in (inspect.getdoc(spec.function) or "").split("\n\n"):
        _print(f"\n{escape(_unwrapped(paragraph))}")
    defaults = {name: p.default for name, p in spec.parameters.items()}
    context = "the whole input" if spec.context == "WHOLE" else "local"
    _print(f"\nsource: {escape(spec.source)}")
    _print(f"sides of an input: multiples of {spec.divisor(defaults)}; context of a pixel: {context}\n")
    table = _table("parameter", "type", "default", "range")
    for p in spec.parameters.values():
        table.add_row(p.name, escape(p.type_text), escape(_plain(p.default)), str(p.span or ""))
    _print(table)


def _print_model(model: Located) -> None:
    from rich.markup import escape

    from .inspect import _plain

    card = model.card
    table = _table("", "")
    missing = f"missing: {model.remedy}"
    rows: dict[str, Any] = {
        "path": model.path,
        "weights": missing if model.weights is None else model.weights,
        "architecture": card.architecture,
        "parameters": ", ".join(f"{name}={_plain(value)}" for name, value in card.parameters.items()),
        "finds": f"{card.task}, {card.head}",
        "classes": ", ".join(card.classes),
        "input": f"{_channels(card)}, {_plain(card.input_range[0])} to {_plain(card.input_range[1])}",
        "mean, std": f"{_plain(card.mean)}, {_plain(card.std)}" if card.mean or card.std else "",
        "pixel size": "" if card.pixel_size is None else f"{card.pixel_size:g} um",
        "recipe": _recipe_text(card),
        "divisor": card.divisor,
        "reach": "the whole input" if card.reach is None else f"{card.reach} px",
        "halo": f"{card.halo} px; tiled and untiled differ by at most {card.tolerance:g}",
        "precision": ", ".join(card.precision),
        "sha256": card.sha256,
        "data": card.data,
        "licence": card.licence,
        "weak": card.weak,
        "obtain": "" if model.weights is None else card.obtain,
    }
    for name, value in rows.items():
        if value != "":
            table.add_row(name, escape(str(value)))
    click.echo(f"{model.name}: a trained network")
    _print(table)
    if card.figures:
        figures = _table("figure", "measured")
        for name, value in card.figures.items():
            figures.add_row(escape(name), escape(_figure(value)))
        click.echo()
        _print(figures)


def _channels(card: Card) -> str:
    return f"{card.channels} channel{'s' * (card.channels > 1)}"


def _recipe_text(card: Card) -> str:
    import json

    return ", ".join(step if isinstance(step, str) else json.dumps(step) for step in card.recipe)


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_figure(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(what: Any) -> None:
    from rich.console import Console

    Console().print(what, highlight=False)
