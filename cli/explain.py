"""`cellkit explain`: one page that shows what each step did to one image."""

from __future__ import annotations

from typing import Any

import click

from .options import changed, load_plugins, recipe_options


@click.command("explain", short_help="Show what each step does to one image.")
@click.argument("recipe")
@click.argument("image")
@click.option("-o", "--out", required=True, metavar="PAGE.html", help="The page to write.")
@recipe_options
def explain_command(**given: Any) -> None:
    """Run RECIPE on IMAGE and write one self-contained page: the image after every step, with parameters and time.

    \b
    Example:
      cellkit explain nuclei pictures/nuclei/field1.png -o page.html
    """
    from pathlib import Path

    from cellkit.core import Recipe
    from cellkit.engine.explain import explain

    load_plugins(given["plugins"])
    recipe = changed(Recipe.read(given["recipe"]), given["settings"], given["bits"], given["pixel_size"])
    page = Path(given["out"])
    steps = explain(recipe, given["image"], page)
    click.echo(f"{page}: {steps} steps")
