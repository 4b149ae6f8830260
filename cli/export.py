"""`cellkit export`: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export", short_help="Write a network as an ONNX file.")
@click.argument("model")
@click.option(
    "--onnx", "onnx_file", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE.onnx",
    help="Where to write it.",
)  # fmt: skip
@click.option("--opset", type=click.IntRange(18), metavar="N", help="ONNX operator set.  [default: torch's]")
@click.option(
    "--fixed", type=click.IntRange(16), metavar="PX",
    help="Make both sides of the input this many pixels, for runtimes and networks that need it.  [default: any size]",
)  # fmt: skip
def export_command(model: str, onnx_file: Path, opset: int | None, fixed: int | None) -> None:
    """Write MODEL, a dense network, as an ONNX file from images (n, c, y, x) to probabilities (n, k, y, x).

    Normalisation and activation are in it, and the card too, so that the file is a model for `cellkit run` as well. It
    is compared with torch at several sizes, and written only where no probability differs by more than 0.0001.

    \b
    Example:
      cellkit export my-model.safetensors --onnx my-model.onnx
    """
    from cellkit.models import find_model
    from cellkit.models.onnx_export import export_onnx

    compared = export_onnx(find_model(model), onnx_file, opset=opset, fixed=fixed)
    click.echo(f"{onnx_file}: {compared}")
