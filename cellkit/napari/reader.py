"""What napari calls when a path is opened: the results of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cellkit.napari.results import LayerData, RunFolder, run_of

__all__ = ["get_reader"]

_MOST = 12
"""Images of a run that are opened at once."""

Reading = Callable[[str | Sequence[str]], list[LayerData]]


def get_reader(path: str | Sequence[str]) -> Reading | None:
    """Return what reads `path`, the folder of a run or a result in it, or None where it is neither."""
    paths = [path] if isinstance(path, str) else list(path)
    return _read if paths and all(run_of(Path(one)) is not None for one in paths) else None


def _read(path: str | Sequence[str]) -> list[LayerData]:
    found: list[LayerData] = []
    for one in [path] if isinstance(path, str) else path:
        where = run_of(Path(one))
        if where is not None:
            found += _layers(*where)
    return found


def _layers(folder: Path, layer: str, name: str) -> list[LayerData]:
    run = RunFolder(folder)
    if name:
        return run.layers(name, layer)
    found: list[LayerData] = []
    names = list(run.images)
    for number, image in enumerate(names[:_MOST]):
        layers = run.layers(image)
        for _, settings, _ in layers:
            settings["visible"] = not number  # all images begin at the same corner
        found += layers
    if len(names) > _MOST:
        from napari.utils.notifications import show_info

        show_info(
            f"{folder} holds {len(names):,} images; the first {_MOST} are open. "
            f"Open {folder.name}/labels/NAME.tif for any other."
        )
    return found
