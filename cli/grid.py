"""`cellkit grid`: many trainings that differ in named ways, and their table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import load_plugins
from .progress import surface
from .train import _SECONDS_BETWEEN_LINES, Shown, _seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellkit.train.gridfile import Grid
    from cellkit.train.gridfiles import GridReport
    from cellkit.train.gridopen import Opened

_NOTES = 10


@click.command("grid", short_help="Train many configs that differ in named ways, and compare them.")
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="GRID.yaml")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="OUT", help="Folder of the grid.  [default: the file's name beside it]")  # fmt: skip # noqa: E501
@click.option("--data", type=click.Path(exists=True, path_type=Path), metavar="DIR", help="Images and truth, instead of those the configs name.")  # fmt: skip # noqa: E501
@click.option("--time-limit", metavar="TIME", help="Share this time evenly among all trainings, e.g. 9m or 2h; --resume goes on.")  # fmt: skip # noqa: E501
@click.option("--resume", is_flag=True, help="Go on with what is not done.")
@click.option("--device", default="auto", metavar="DEVICE", help="Where to train: auto, cpu, cuda or cuda:N.")
@click.option("--with", "plugins", multiple=True, metavar="FILE.py", help="Load stages or architectures of your own.")
@click.option("--check", is_flag=True, help="Only check the grid, and say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def grid_command(ctx: click.Context, grid: Path, out: Path | None, **given: Any) -> None:
    """Train the cells of GRID.yaml one after the other, and write what they score as tables and bar charts.

    OUT holds cells/<name>, each a run as `cellkit train` writes one (or folds of it), and grid.csv, grid.md, grid.png,
    grid.json and report.html, written anew after each cell. All configs are checked before the first batch. With
    --time-limit every training gets an even share, so that the table is whole; --resume trains each further until its
    epochs are done. A finished cell is never trained again, unless its config has changed; what was there then moves
    to OUT/replaced.

    Exit code 0: done, or stopped by --time-limit; 1: a cell failed, its row says why, the others are trained; 2: wrong
    grid, config, data or usage; 130: stopped, --resume goes on.

    \b
    A grid:
      cellkit_grid: 1
      config: nuclei.yaml                  # all cells begin with it
      set: {loop.hours: 0.2}               # changes for all, by dotted keys
      vary:                                # every combination
        model.architecture: [unet, linknet]
        training:                          # several keys at once, under a name
          - {name: SGD, set: {optimiser: sgd, schedule: cosine}}
          - {name: Adam, set: {optimiser: adam}}
      each:                                # instead of vary: one key at a time from the cell base, all first values
        loss: [jaccard, cross_entropy]
        size: [{name: 288 px, set: {recipe.resize.size: 288}}, {name: 256 px, set: {recipe.resize.size: 256}}]
      cells:                               # single cells, beside or instead
        - {name: base}
        - {name: colour, set: {model.channels: 3, recipe: colour.recipe.yaml}}
        - {name: other, config: other.yaml}
        - {name: watershed, of: base, recipe: watershed.recipe.yaml}   # base's network behind other steps
      folds: 3                             # cross-validate every cell
      baseline: base                       # what the others gain over it
      metric: auto                         # or dsb2018, instances, pixel, semantic, coco, coco50

    \b
    Example:
      cellkit grid architectures.yaml -o architectures --time-limit 2h
    """
    load_plugins(given["plugins"])
    limit = _seconds(given["time_limit"])
    import time

    started = time.monotonic()
    from cellkit.train.gridfile import read_grid
    from cellkit.train.gridopen import open_cells

    checked = read_grid(grid)
    cells = open_cells(checked, given["data"])
    for cell in checked.cells:
        for text in cell.left_out:
            click.echo(f"note: {cell.name}: left out {text}", err=True)
    if given["check"]:
        _print_plan(checked, cells)
        return
    from cellkit.train.gridrun import run_grid

    folder = out if out is not None else grid.with_suffix("")
    show = GridShown(surface(given["as_json"], "reading the images", _SECONDS_BETWEEN_LINES))
    left = None if limit is None else max(0.0, limit - (time.monotonic() - started))
    try:
        with show:
            options = {"resume": given["resume"], "time_limit": left, "device": given["device"], "show": show}
            report = run_grid(checked, cells, folder, **options)
    except KeyboardInterrupt:
        click.echo("cellkit: stopped; the same command with --resume goes on from the last finished epoch", err=True)
        ctx.exit(130)
    if given["as_json"]:
        import json

        click.echo(json.dumps(report.document(), indent=2, allow_nan=False))
    else:
        _print(report)
    ctx.exit(1 if report.failed else 0)


def _print_plan(grid: Grid, cells: Sequence[Opened]) -> None:
    total = 0
    for opened in cells:
        cell, loop = opened.cell, opened.config.loop
        if cell.of:
            text = f"the network of {cell.of} behind the steps of {opened.config.recipe.name or 'another recipe'}"
        else:
            count = len(opened.parts)
            folds = f"{count} folds of " if count > 1 else ""
            hours = f", at most {loop.hours:g} h" if loop.hours else ""
            total += count * loop.epochs * loop.steps
            text = (
                f"{folds}{loop.epochs:,} epochs of {loop.steps:,} steps of {loop.batch} crops of {loop.crop} px{hours}"
            )
        click.echo(f"{cell.name}: {text}")
    for about in dict.fromkeys(one.whole.about for one in cells):
        click.echo(f"data: {about}")
    trained = len(grid.trained)
    behind = f", {len(cells) - trained:,} scored behind other steps" if len(cells) > trained else ""
    click.echo(f"{trained:,} cells to be trained{behind}: {total:,} steps in all")
    click.echo("The grid is sound.")


class GridShown(Shown):
    """How far a grid has come, with the cell that it is about."""

    where = ""

    def cell(self, number: int, count: int, name: str) -> None:
        """Say which cell what follows is about."""
        self.where = f"cell {number:,} of {count:,}, {name}: " if number else ""

    def worded(self, text: str) -> str:
        """Return a text with the cell before it."""
        return f"{self.where}{text}"


def _print(report: GridReport) -> None:
    from rich.console import Console

    from cellkit.report.gridtable import head_and_cells, marginal_cells, marginals

    from .compare import print_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    keys = report.grid.keys
    head, rows = head_and_cells(report.rows, list(keys), report.grid.baseline)
    print_table(console, head, rows, 1 + len(keys))
    for key, labels in keys.items():
        found = marginals(report.rows, key, labels)
        if found:
            console.print(f"\nby {key}", markup=False, style="bold")
            print_table(console, *marginal_cells(found), 1)
    waiting = [row.name for row in report.rows if row.state == "waiting"]
    if waiting:
        console.print(f"not begun: {', '.join(waiting)}", markup=False)
    if not report.finished:
        console.print("not all is done; the same command with --resume goes on", markup=False)
    for note in [*report.notes, *(f"{row.name}: {note}" for row in report.rows for note in row.notes)][:_NOTES]:
        console.print(f"note: {note}", markup=False)
    console.print(str(report.folder / "report.html"), markup=False, soft_wrap=True)
