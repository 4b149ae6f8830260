"""`cellkit convert`: objects from one format to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellkit.formats.objects import ObjectSet
    from cellkit.io.objects import Images

_FORMATS = ("labels", "rle", "coco", "coco-results", "geojson", "rois", "yolo", "voc")
_SHOWN = 20


@click.command("convert", short_help="Turn labels, RLE, COCO, GeoJSON, ROIs, YOLO and VOC into each other.")
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", required=False, type=click.Path(path_type=Path))
@click.option("--from", "source_format", type=click.Choice(_FORMATS), help="Format of SRC.  [default: by its content]")
@click.option("--to", "target_format", type=click.Choice(_FORMATS), help="Format of DST.  [default: by its suffix]")
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), metavar="DIR",
    help="Folder of the images, or their COCO data set: for formats that do not hold the images' sizes.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Only check SRC, a Kaggle submission, against the images of --images.")
@click.pass_context
def convert_command(ctx: click.Context, **given: Any) -> None:
    """Convert the objects of SRC to DST.

    SRC is a file, a folder with a file an image, or the output folder of `cellkit run`. The formats are labels (label
    images), rle (Kaggle CSV), coco (JSON), coco-results, geojson (QuPath), rois (ImageJ), yolo and voc (boxes). For
    labels, geojson, rois, yolo and voc DST is a folder, or a file where there is one image. What DST cannot hold is
    said on standard error.

    Exit code 0: done; 1: --check found faults; 2: wrong usage or damaged input.

    \b
    Examples:
      cellkit convert out out.json
      cellkit convert labels rois
      cellkit convert submission.csv labels --images stage1_test
      cellkit convert submission.csv --check --images stage1_test
    """
    from cellkit.core import UsageError
    from cellkit.io.objects import Images, infer_format, read_objects
    from cellkit.io.objectwriter import write_objects

    images = Images(given["images"]) if given["images"] is not None else None
    if given["check"]:
        ctx.exit(_check(given["source"], images))
    if given["target"] is None:
        raise UsageError("where to? give DST, a file such as objects.json or a folder (or --check)")
    form = given["target_format"] or infer_format(given["target"], to_write=True)
    tally = _Tally()
    sets = tally.counted(read_objects(given["source"], given["source_format"], images=images))
    count, losses = write_objects(given["target"], sets, form)
    for line in losses.lines():
        click.echo(line, err=True)
    images_text = f"{count:,} image{'s' if count != 1 else ''}"
    click.echo(f"{images_text}, {tally.objects:,} object{'s' if tally.objects != 1 else ''} -> {given['target']}")


class _Tally:
    def __init__(self) -> None:
        self.objects = 0

    def counted(self, sets: Iterable[ObjectSet]) -> Iterator[ObjectSet]:
        for objects in sets:
            self.objects += len(objects)
            yield objects


def _check(source: Path, images: Images | None) -> int:
    from cellkit.core import UsageError
    from cellkit.formats.kaggle import check_submission
    from cellkit.io.objects import read_text, sizes_of

    if images is None:
        raise UsageError("--check needs the images: give their folder with --images")
    sizes = sizes_of(images)
    faults = check_submission(read_text(source), sizes)
    for fault in faults[:_SHOWN]:
        click.echo(fault, err=True)
    if len(faults) > _SHOWN:
        click.echo(f"and {len(faults) - _SHOWN:,} more", err=True)
    click.echo(f"{source}: {len(faults):,} faults" if faults else f"{source}: fit for {len(sizes):,} images")
    return 1 if faults else 0
