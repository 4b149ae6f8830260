"""`cellkit samples`: real pictures to try things on."""

from __future__ import annotations

import click


@click.command("samples", short_help="Write example pictures to a folder.")
@click.argument("folder")
def samples_command(folder: str) -> None:
    """Write example pictures to FOLDER: real ones that scikit-image ships, and fields of nuclei with known truth.

    \b
    Example:
      cellkit samples pictures
    """
    from cellkit.io.samples import write_samples

    for path in write_samples(folder):
        click.echo(str(path))
