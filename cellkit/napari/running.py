"""Run the edited recipe on an image: through the batch engine on its file, as the command does, or in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cellkit.core.check import plan
from cellkit.core.errors import StageError, UsageError
from cellkit.engine.batch import run_batch
from cellkit.engine.execute import run
from cellkit.engine.footprint import bytes_per_pixel
from cellkit.engine.outputs import layers_for
from cellkit.grid.cover import Window
from cellkit.napari.editing import Editing
from cellkit.napari.results import LayerData, RunFolder, layers_of
from cellkit.napari.target import Target

if TYPE_CHECKING:
    from cellkit.engine.blockwise.drive import Progress

__all__ = ["run_target"]


def run_target(editing: Editing, target: Target, out: str, tell: Callable[[str], None]) -> list[LayerData]:
    """Run a recipe on a whole image and return what it makes as layers.

    An image that lies in a file is run through `run_batch` into the folder `out`, with the settings that the command
    line has; one in memory without a folder. `tell` hears of blocks. Raises `CellkitError` where the image fails.
    """
    if target.path:
        return _run_file(editing, target, out, tell)
    bound = plan(editing.recipe)
    height, width = target.pixels.shape
    need = height * width * bytes_per_pixel(bound, layers_for(bound), target.pixels.channels)
    if need > psutil.virtual_memory().total // 2:
        raise UsageError(
            f"{target.name}: {height:,} x {width:,} px need some {need / 1e6:,.0f} MB, over half of this machine's "
            "memory; save the image, and it is done block by block"
        )
    tell("running on the whole image in memory")
    return layers_of(bound, run(bound, target.pixels.read(Window(0, 0, height, width))), target.lies())


def _run_file(editing: Editing, target: Target, out: str, tell: Callable[[str], None]) -> list[LayerData]:
    if not out.strip():
        raise UsageError("name a folder for the results")
    tell(f"running on {Path(target.path).name}")

    def on_block(name: str, progress: Progress) -> None:
        tell(f"{name}: {progress.stage}, block {progress.done:,} of {progress.total:,}")

    result = run_batch(editing.recipe, [target.path], out, on_block=on_block)
    if result.failed:
        raise StageError(result.failed[0][2])
    return RunFolder(result.folder).layers(target.name, image=False, frame=target.lies())
