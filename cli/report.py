"""`cellkit report`: one page of a run."""

from __future__ import annotations

import sys

import click


@click.command("report", short_help="Write one page that shows what a run has made.")
@click.argument("folder", metavar="OUT")
@click.option("--title", default="", metavar="TEXT", help="Title of the page.")
@click.option("--single/--beside", default=None, help="All in one file, or pictures in OUT/report.  [default: by size]")
@click.option("--workers", type=click.IntRange(min=1), help="Images drawn at once.  [default: all cores]")
@click.option("--open", "shown", is_flag=True, help="Open the page in a browser.")
def report_command(folder: str, title: str, single: bool | None, workers: int | None, shown: bool) -> None:
    """Write OUT/report.html, a page of the run in OUT: pictures, objects, measurements, failures, times.

    The page works from the disk and fetches nothing. A run that is not finished has a page too; the same command
    writes it anew. Large ones keep their pictures in OUT/report, which belongs to the page.

    \b
    Example:
      cellkit report out --open
    """
    from cellkit.engine.report import write_report

    bar = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if bar:
            click.echo(f"\r{done:,} of {total:,} images", nl=done == total, err=True)

    written = write_report(folder, title=title, single=single, workers=workers, on_image=tell)
    size = f"{written.bytes / 1e6:,.1f} MB"
    noted = f", {written.noted:,} with a note" if written.noted else ""
    click.echo(f"{written.page}: {written.images:,} images{noted}, {size}, {written.seconds:,.1f} s")
    if shown:
        click.launch(written.page.absolute().as_uri())
