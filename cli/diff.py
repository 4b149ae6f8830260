"""`cellkit diff`: what changed between two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .compare import print_table
from .eval_output import write_text
from .progress import passed_on

if TYPE_CHECKING:
    from cellkit.diff.compare import Difference

_FOLDER = click.Path(path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("diff", short_help="Show what changed between two runs.")
@click.argument("before", type=_FOLDER, metavar="OUT_A")
@click.argument("after", type=_FOLDER, metavar="OUT_B")
@click.option(
    "--iou", "limit", type=click.FloatRange(0, 1), default=0.9, show_default=True,
    help="An object whose IoU with what it was is below this counts as changed.",
)  # fmt: skip
@click.option("--tolerant", is_flag=True, help="Exit 0 too where only edges of objects differ, with at least that IoU.")
@click.option("--worst", type=click.IntRange(1), default=12, show_default=True, metavar="N", help="How many images to show, those in which most changed.")  # fmt: skip # noqa: E501
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Write everything as JSON.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Write a row for each image and layer that differs.")  # fmt: skip # noqa: E501
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="Write a page with pictures of what changed.")
@click.pass_context
def diff_command(ctx: click.Context, before: Path, after: Path, **given: Any) -> None:
    """Show what changed from the run in OUT_A to that in OUT_B, both written by `cellkit run`.

    Images are matched by name, objects by their pixels, whatever their numbers: kept, changed, lost, gained, split or
    merged. Measurements are those of objects that were matched. Settings that differ (the recipe as it ran, weights,
    versions) are listed, but are no difference by themselves. Large label images are read part by part.

    Exit code 0: no result differs; 1: some do, or could not be compared; 2: wrong usage.

    \b
    Example:
      cellkit diff out-before out-after --html diff.html
    """
    from cellkit.diff.account import csv_rows, document
    from cellkit.diff.compare import compare_runs
    from cellkit.diff.runs import open_run

    runs = open_run(before), open_run(after)
    pages = given["worst"] if given["html_file"] is not None else 0

    found = compare_runs(*runs, limit=given["limit"], keep=pages, progress=partial(passed_on, doing="comparing"))
    if given["json_file"] is not None:
        _write_json(given["json_file"], document(found))
    if given["csv_file"] is not None:
        _write_csv(given["csv_file"], csv_rows(found))
    if given["html_file"] is not None:
        write_text(given["html_file"], _page(found, given["worst"]))
    _print(found, given["worst"])
    ctx.exit(1 if (found.moves if given["tolerant"] else found.differs) else 0)


def _print(found: Difference, worst: int) -> None:
    from rich.console import Console

    from cellkit.diff.account import headline, image_rows, measurement_rows, setting_rows

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(headline(found), markup=False, style="bold")
    if found.images:
        console.print()
        print_table(console, *image_rows(found.images[:worst]), 2)
        if len(found.images) > worst:
            console.print(f"and {len(found.images) - worst:,} more images; --worst, --csv and --json tell of them")
    for name, shifts in found.measurements.items():
        head, rows = measurement_rows(shifts)
        if rows:
            console.print(f"\nmeasurements of matched objects ({name})", markup=False, style="bold")
            print_table(console, head, rows, 1)
    head, rows = setting_rows(found)
    if rows:
        console.print("\nsettings that differ", style="bold")
        print_table(console, head, rows, 3)


def _page(found: Difference, worst: int) -> str:
    from cellkit.diff.account import headline, image_rows, measurement_rows, setting_rows
    from cellkit.diff.pictures import views_of
    from cellkit.metrics.changes import RULE
    from cellkit.report.diffpage import Part, diff_page

    images = found.images[: max(100, worst)]
    more = len(found.images) - len(images)
    note = f"and {more:,} more images. " if more else ""
    parts = [Part("Images", *image_rows(images), words=2, note=f"{note}{RULE[0].upper()}{RULE[1:]}.")]
    for name, shifts in found.measurements.items():
        title = "Measurements" if len(found.measurements) == 1 else f"Measurements: {name}"
        parts.append(Part(title, *measurement_rows(shifts), note="Of objects that were matched."))
    parts.append(Part("Settings", *setting_rows(found), words=3))
    facts = [headline(found), f"before: {found.before.folder}", f"after: {found.after.folder}"]
    return diff_page(f"{found.before.folder.name} and {found.after.folder.name}", facts, parts, views_of(found))


def _write_json(path: Path, data: dict[str, Any]) -> None:
    import json

    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(path: Path, rows: Iterator[Sequence[str]]) -> None:
    import io
    from csv import writer

    stream = io.StringIO()
    writer(stream, lineterminator="\n").writerows(rows)
    write_text(path, stream.getvalue())
