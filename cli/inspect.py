"""`cellkit check`, `cellkit stages`, `cellkit recipes`: look before running."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from .options import changed, load_plugins, recipe_options

if TYPE_CHECKING:
    from cellkit.core import Plan, StageSpec


@click.command("check", short_help="Prove a recipe before a pixel is read.")
@click.argument("recipe")
@click.argument("images", nargs=-1)
@recipe_options
@click.pass_context
def check_command(ctx: click.Context, **given: Any) -> None:
    """Report every fault of RECIPE at once, and how each step is bound to its layers.

    With IMAGES, each file is opened too, and the recipe is tried on a small part of the first of every shape of file.

    Exit code 0: no fault; 1: the recipe is right but some images are not; 2: the recipe has faults.

    \b
    Example:
      cellkit check my-recipe.yaml plate/
    """
    from dataclasses import replace

    from cellkit.core.check import bind
    from cellkit.core.recipe import parse, text_of

    load_plugins(given["plugins"])
    recipe, structural = parse(text_of(given["recipe"]))
    if not structural:
        recipe = changed(recipe, given["settings"], given["bits"], given["pixel_size"])
    plan = bind(recipe)
    faults = [*structural, *plan.faults]
    for fault in faults:
        click.echo(f"{'warning' if fault.warning else 'fault'}: {fault}", err=True)
    wrong = [fault for fault in faults if not fault.warning]
    if wrong:
        click.echo(f"{len(wrong)} fault{'s' if len(wrong) > 1 else ''} in {given['recipe']}", err=True)
        ctx.exit(2)
    _print_plan(replace(plan, faults=()))
    if given["images"]:
        from cellkit.engine.trial import try_images

        bad = 0
        for line, fine in try_images(plan, given["images"]):
            bad += not fine
            click.echo(line, err=not fine)
        ctx.exit(1 if bad else 0)


def _print_plan(plan: Plan) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("step", "reads -> writes", "parameters", box=None, pad_edge=False, header_style="bold")
    for depth, step in plan.walk():
        params = ", ".join(f"{name}={_plain(value)}" for name, value in step.params.items())
        table.add_row("  " * depth + step.step.label, step.describe(), escape(params))
    console = Console(soft_wrap=False)
    console.print(table)
    console.print(f"outputs: {', '.join(plan.outputs)}", highlight=False, markup=False)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, tuple) else str(value)


@click.command("stages", short_help="List the stages, or show one.")
@click.argument("name", required=False)
@click.option("--with", "plugins", multiple=True, metavar="FILE.py", help="Load stages of your own.")
def stages_command(name: str | None, plugins: tuple[str, ...]) -> None:
    """List every stage, or show one: what it reads and makes, its parameters with ranges, and its documentation.

    \b
    Example:
      cellkit stages watershed
    """
    from cellkit.core import registry

    load_plugins(plugins)
    if name is not None:
        _print_stage(registry.get(name))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("stage", "reads -> makes", "what it does", box=None, pad_edge=False, header_style="bold")
    for spec in registry.stages().values():
        table.add_row(spec.name, escape(_signature(spec)), escape(spec.summary))
    Console().print(table)


def _signature(spec: StageSpec) -> str:
    if spec.bracket:
        return "bracket"
    parts = []
    for argument in spec.arguments:
        text = "|".join(map(str, argument.kinds))
        if argument.kinds[0].name != "histogram":
            parts.append(f"[{text}]" if argument.optional else f"{text}..." if argument.variadic else text)
    return f"{', '.join(parts)} -> {'|'.join(map(str, spec.returns))}"


def _print_stage(spec: StageSpec) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{spec.name}[/]: {escape(_signature(spec))}", highlight=False)
    for paragraph in (inspect.getdoc(spec.function) or "").split("\n\n"):
        console.print(f"\n{_unwrapped(paragraph)}", highlight=False, markup=False)
    console.print()
    if not spec.parameters:
        console.print("no parameters")
        return
    table = Table("parameter", "type", "default", "range", box=None, pad_edge=False, header_style="bold")
    for parameter in spec.parameters.values():
        span = str(parameter.span) if parameter.span else ""
        table.add_row(parameter.name, parameter.type_text, escape(_plain(parameter.default)), span)
    console.print(table)


def _unwrapped(paragraph: str) -> str:
    """Join the lines of a paragraph, so that it wraps where this terminal ends; lists and examples stay."""
    lines = paragraph.split("\n")
    if any(line.startswith((" ", "*", "-", ">>>")) for line in lines):
        return paragraph
    return " ".join(lines)


@click.command("recipes", short_help="List the shipped recipes, or print one.")
@click.argument("name", required=False)
def recipes_command(name: str | None) -> None:
    """List the recipes that ship with cellkit, or print one as YAML, to be saved and changed.

    \b
    Example:
      cellkit recipes nuclei > my-recipe.yaml
    """
    from cellkit.core import Recipe
    from cellkit.core.recipe import shipped, text_of

    if name is not None:
        click.echo(text_of(name), nl=False)
        return
    for recipe in shipped():
        click.echo(f"{recipe}: {Recipe.read(recipe).description.strip()}")
