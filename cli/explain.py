"""`cellkit explain`: one page that shows what each step did to one image."""

from __future__ import annotations

from typing import Any

import click

from .options import changed, load_plugins, recipe_options


@click.command("explain", short_help="Show what each step does to one image.")
@click.argument("recipe")
@click.argument("image")
@click.option("-o", "--out", required=True, metavar="PAGE.html", help="The page to write.")
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="STEP.PARAM=A:B:N",
    help="A slider for a number: N values from A to B, by factors with :log; the steps behind are shown for each.",
)  # fmt: skip
@recipe_options
def explain_command(**given: Any) -> None:
    """Run RECIPE on IMAGE and write one self-contained page: the image after every step, with parameters and time.

    With --sweep, which may be given several times, the page has sliders: dragging one shows what all steps from that
    one on make of each value, and how many objects there are. At most 64 values a slider and 60 MB of pictures.

    \b
    Example:
      cellkit explain nuclei pictures/nuclei/field1.png -o page.html
      cellkit explain nuclei-classical pictures/nuclei/field1.png --sweep otsu.scale=0.5:1.5:11 -o page.html
    """
    from pathlib import Path

    from cellkit.core import Recipe
    from cellkit.engine.explain import explain

    load_plugins(given["plugins"])
    recipe = changed(Recipe.read(given["recipe"]), given["settings"], given["bits"], given["pixel_size"])
    page = Path(given["out"])
    steps = explain(recipe, given["image"], page, given["sweeps"])
    click.echo(f"{page}: {steps} steps")
