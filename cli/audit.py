"""`cellkit audit`: look through a data set for faults of its images and labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .progress import passed_on

if TYPE_CHECKING:
    from cellkit.io.datasets import Audit

_FILE = click.Path(dir_okay=False, path_type=Path)
_LAYOUTS = ["auto", "dsb2018", "labels", "glas", "darkfield", "masks", "voc", "bbbc041", "coco"]
_SHOWN = 3


@click.command("audit", short_help="Look through a data set for faults of its images and labels.")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--layout", type=click.Choice(_LAYOUTS), default="auto", show_default=True,
    help="What the folder looks like; told by what it holds.",
)  # fmt: skip
@click.option("--tiny", type=click.IntRange(0), default=10, show_default=True, help="Fewer pixels make a tiny object.")
@click.option(
    "--overlap", type=click.FloatRange(0, 1, min_open=True), default=0.8, show_default=True,
    help="IoU from which two boxes overlap; masks overlap from one pixel on.",
)  # fmt: skip
@click.option(
    "--alike", type=click.FloatRange(0, 1, min_open=True), default=0.67, show_default=True,
    help="Correlation from which two images show one field.",
)  # fmt: skip
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Write counts and every finding as JSON.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Write one row a finding.")
@click.pass_context
def audit_command(ctx: click.Context, **given: Any) -> None:
    """List the faults of the data set in DIR: of its files, images, objects and split.

    DIR is a folder of images and truth in a layout that is known (`cellkit.io.datasets.LAYOUTS`), or one COCO or
    BBBC041 file of it.

    Exit code 0: no fault found; 1: faults found; 2: no data set, or wrong usage.

    \b
    Example:
      cellkit audit dsb2018 --csv faults.csv
    """
    from cellkit.io.datasets import audit, open_dataset

    dataset = open_dataset(given["folder"], layout=given["layout"], allow_missing=True)
    progress = partial(passed_on, doing="looking")
    found = audit(dataset, tiny=given["tiny"], overlap=given["overlap"], alike=given["alike"], progress=progress)
    if given["json_file"] is not None:
        _write_json(given["json_file"], found)
    if given["csv_file"] is not None:
        _write_csv(given["csv_file"], found)
    _print(found)
    ctx.exit(1 if found.findings else 0)


def _print(found: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, dataset = Console(), found.dataset
    classes = "".join(f"\n  {name} in {count:,} images" for name, count in found.present.items())
    console.print(
        f"[bold]{escape(str(dataset.folder))}[/]  layout {dataset.layout}, {found.images:,} images, "
        f"{found.objects:,} {'pieces' if dataset.kind == 'classes' else 'objects'}{escape(classes)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for note in dataset.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    if not found.findings:
        console.print("[green]no fault found[/]")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("images", justify="right")
    table.add_column("for instance", overflow="fold")
    for check, count in found.counts.items():
        if count:
            own = [finding for finding in found.findings if finding.check == check]
            images = len({finding.image for finding in own})
            shown = [str(finding).removeprefix(f"{check}: ") for finding in own[:_SHOWN]]
            table.add_row(check, f"{count:,}", f"{images:,}", escape("\n".join(shown)))
    console.print(table)
    clean = ", ".join(check for check, count in found.counts.items() if not count)
    console.print(f"[dim]Nothing found of: {clean}.[/]", highlight=False)


def _write_json(path: Path, found: Audit) -> None:
    import json

    _write(path, json.dumps(found.document(), indent=2, allow_nan=False) + "\n")


def _write_csv(path: Path, found: Audit) -> None:
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["check", "image", "object", "other", "message"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.document()["findings"])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    from cellkit.io import atomic

    with atomic(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
