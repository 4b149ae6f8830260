"""`cellkit compare`: trainings side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellkit.report.runs import Run

Broken = list[tuple[str, str]]


@click.command("compare", short_help="Show trainings side by side.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PAGE.html", help="Write a page, and the bars as PNG beside it.")  # fmt: skip # noqa: E501
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def compare_command(ctx: click.Context, runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Show trainings side by side: scores with intervals, by the column they were balanced by, and what differs.

    RUN is a folder that `cellkit train` wrote, finished or not, one of a training in folds, or a folder of those.
    Scores of different rules or different images are told apart. Of one RUN alone, report.html and curves.png in it
    are drawn anew (with -o: that page instead).

    Exit code 0: all were read; 1: some could not be, each is named with the reason; 2: none could, or wrong usage.

    \b
    Example:
      cellkit compare runs/unet runs/fcn8 -o compare.html
    """
    from cellkit.train.runs import find_runs

    found, broken = find_runs(runs)
    for name, reason in broken:
        click.echo(f"cannot be read: {name}: {reason}", err=True)
    if not found:
        click.echo("cellkit: there is no run to show", err=True)
        ctx.exit(2)
    written = _write(found, broken, out)
    if as_json:
        _print_json(found, broken, written)
    else:
        _print(found)
        for path in written:
            click.echo(str(path))
    ctx.exit(1 if broken else 0)


def _write(runs: Sequence[Run], broken: Broken, out: Path | None) -> list[Path]:
    """Write pages and pictures, and return their paths."""
    from cellkit.core import WriteError
    from cellkit.report.comparison import comparison_page, picture_of
    from cellkit.report.plots import png
    from cellkit.train.runs import write_bytes, write_page, write_text

    if out is None:
        if len(runs) > 1:
            return []
        try:
            return write_page(runs[0], Path(runs[0].folder))
        except WriteError as error:  # the folder of somebody else can still be looked at
            click.echo(f"note: {error}; -o writes the page elsewhere", err=True)
            return []
    picture = out.with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    if len(runs) == 1:
        return write_page(runs[0], out.parent, page=out.name, picture=picture.name)
    return [write_text(out, comparison_page(runs, broken)), write_bytes(picture, png(picture_of(runs)))]


def _print(runs: Sequence[Run]) -> None:
    from rich.console import Console

    from cellkit.report.bars import columns_of
    from cellkit.report.comparison import apart, columns_by, rows_of, settings_table
    from cellkit.report.runs import differing, labels, spread

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    names = labels(runs)
    head, rows = rows_of(runs, names)
    print_table(console, head, rows, 3)
    lines = apart(runs, names)
    if lines:
        console.print("These scores cannot all be compared:", style="yellow")
        for line in lines:
            console.print(f"  {line}", markup=False)
    for column in columns_of(runs):
        console.print(f"\nby {column}", markup=False, style="bold")
        print_table(console, *columns_by(runs, names, column), 1)
    for run, name in zip(runs, names, strict=True):
        if run.folds:
            found = spread(fold.score.value for fold in run.folds)
            values = ", ".join(f"{fold.name} {fold.score.value:.4f}" for fold in run.folds)
            text = f"mean {found.mean:.4f}, variance {found.variance:.3g}, {found.least:.4f} to {found.most:.4f}"
            console.print(f"\n{name}: {text}: {values}", markup=False)
    differ = differing(runs)
    if differ:
        console.print("\nwhat differs", style="bold")
        head, rows = settings_table(differ, names)
        print_table(console, head, rows, len(head))


def print_table(console: Any, head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> None:
    """Print a table of texts, of which the first `words` columns are words."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for i, name in enumerate(head):
        table.add_column(Text(name), justify="left" if i < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_json(runs: Sequence[Run], broken: Broken, written: Sequence[Path]) -> None:
    import json

    from cellkit.report.comparison import plain_of
    from cellkit.report.runs import differing, groups, labels

    names = labels(runs)
    known = dict(zip(map(id, runs), names, strict=True))
    document = {
        "runs": [plain_of(run, name) for run, name in zip(runs, names, strict=True)],
        "comparable": [[known[id(run)] for run in group] for group in groups(runs)],
        "differing": {key: dict(zip(names, values, strict=True)) for key, values in differing(runs).items()},
        "broken": [{"run": name, "reason": reason} for name, reason in broken],
        "written": [str(path) for path in written],
    }
    click.echo(json.dumps(document, indent=2, allow_nan=False, default=str))
