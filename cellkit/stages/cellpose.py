"""Cellpose as a stage, where it is installed."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from cellkit.core.errors import Fault, StageError, UsageError, suggest
from cellkit.core.kinds import Image, Labels
from cellkit.core.stage import WHOLE, Span, stage
from cellkit.stages._foreign import Package, consecutive, reason, refuse_not_finite, stamp

__all__ = ["cellpose"]

PACKAGE = Package("Cellpose", ("cellpose",), "pip install cellpose", noisy=("fastremap", "segment_anything"))

_SIZED = ("cyto", "cyto2", "cyto3", "nuclei")
"""Models of Cellpose 3 that come with one that estimates the diameter."""


def _review(params: Mapping[str, Any], _: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Fault]:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", params["device"]):
        yield Fault("device", f"wanted auto, cpu, cuda or cuda:N, got {params['device']!r}")
    if PACKAGE.missing():
        yield from PACKAGE.review()
        return
    names = (params["model"],) if params["model"] else _defaults()
    if not any(Path(name).is_file() or (_folder() / file).is_file() for name in names for file in _files(name)):
        yield Fault(
            "model",
            f"no weights of {names[0]!r} on this machine; Cellpose will try to download them",
            f"put its file into {_folder()}, or give the path of a file",
            warning=True,
        )


@stage(reach=WHOLE, review=_review)
def cellpose(  # noqa: PLR0913 - the words of Cellpose's own users
    image: Image,
    /,
    *,
    model: str | None = None,
    diameter: Annotated[float | None, Span(1, 10_000, "px", log=True)] = None,
    flow_threshold: Annotated[float, Span(0, 100)] = 0.4,
    cellprob_threshold: Annotated[float, Span(-20, 20)] = 0.0,
    min_size: Annotated[int, Span(0, 1_000_000, "px")] = 15,
    normalize: bool = True,
    niter: Annotated[int | None, Span(1, 100_000)] = None,
    augment: bool = False,
    tile_overlap: Annotated[float, Span(0.05, 0.5)] = 0.1,
    batch: Annotated[int, Span(1, 1024)] = 8,
    device: str = "auto",
) -> Labels:
    """Find cells or nuclei with Cellpose, where it is installed (`pip install cellpose`; versions 3 and 4).

    `image`: (y, x, c). Version 4 takes 1 to 3 channels in any order; version 3 takes one, or two: first the cells, then
    their nuclei. Returns int32 (y, x), numbered without gaps; zero everywhere where nothing is found.

    `model` is a name that Cellpose knows or a file of its weights, by default that of the installed version (cyto3 in
    version 3, Cellpose-SAM in version 4). `diameter` is that of the objects; without it version 3 estimates it (models
    cyto, cyto2, cyto3, nuclei) or takes that of the training objects, and version 4 leaves the image as it is. The
    other parameters are those of `CellposeModel.eval`: `flow_threshold` drops shapes whose flows fit worse (0: none),
    `cellprob_threshold` bounds the foreground, `min_size` drops smaller objects, `normalize` stretches each channel
    between its 1st and 99th percentile, `niter` is the number of steps along the flows, `augment` averages over flipped
    tiles, `tile_overlap` is the share by which tiles overlap and `batch` their number in one call. `device`: `auto`,
    `cpu`, `cuda` or `cuda:1`.

    Cellpose loads, and where it must downloads, its weights by its own means, in its own format. The package is under
    the BSD 3-clause licence; its authors' weights were trained on data under CC BY-NC, for non-commercial use.

    Raises `UsageError` where Cellpose is not installed, does not know the model, cannot load or download its weights,
    or the device is not there; `StageError` where the channels are not what it takes, or a value is not finite.

    Source: Stringer, Wang, Michaelos & Pachitariu 2021, "Cellpose: a generalist algorithm for cellular segmentation",
    Nature Methods 18; for version 4 Pachitariu, Rariden & Stringer 2025, "Cellpose-SAM: superhuman generalization for
    cellular segmentation".

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> labels = ck.stages.cellpose(image)  # doctest: +SKIP
    """
    models = PACKAGE.module("cellpose.models")
    third = hasattr(models, "SizeModel")  # version 4 knows no sizes
    pixels, channels = _pixels(image, third)
    name = model or _default(models, third)
    estimate = third and diameter is None and name in _SIZED and not Path(name).is_file()
    with PACKAGE.network(*_loader(models, name, estimate, device)) as network:
        wanted = {
            "batch_size": batch,
            "diameter": diameter,
            "flow_threshold": flow_threshold,
            "cellprob_threshold": cellprob_threshold,
            "min_size": min_size,
            "normalize": normalize,
            "niter": niter,
            "augment": augment,
            "tile_overlap": tile_overlap,
            "channel_axis": None if pixels.ndim == 2 else 2,
            **({"channels": channels} if third else {}),
        }
        unknown = wanted.keys() - inspect.signature(models.CellposeModel.eval).parameters.keys()
        if unknown:
            raise UsageError(f"this version of Cellpose has no {', '.join(sorted(unknown))}; pip install -U cellpose")
        masks = network.eval(pixels, **wanted)[0]
    height, width = image.shape[:2]
    masks = np.asarray(masks).reshape(pixels.shape[:2])[:height, :width]
    return consecutive(masks, (height, width))


def _pixels(image: np.ndarray, third: bool) -> tuple[np.ndarray, list[int]]:
    """Return the image as Cellpose takes it, a copy, and what version 3 wants to know of its channels."""
    count, most = image.shape[2], 2 if third else 3
    if count > most:
        fix = "put `grayscale` before it" if count == 3 else "put `channel: {name: 0}` before it, or another number"
        meaning = " (cells, then nuclei)" if third else ""
        raise StageError(f"cellpose: wanted 1 to {most} channels{meaning}, the image has {count}; {fix}")
    refuse_not_finite("cellpose", image)
    # Version 3 takes an axis of less than 8 px for channels; version 4 divides by side - 1.
    least = 8 if third else 2
    missing = [(0, max(0, least - side)) for side in image.shape[:2]]
    pixels = np.pad(image, (*missing, (0, 0)), mode="edge")
    if third and count == 1:
        return pixels[..., 0], [0, 0]
    return pixels, [1, 2]


def _loader(models: Any, name: str, estimate: bool, device: str) -> tuple[Any, Any]:
    """Return a key for a network and how it is loaded."""
    from cellkit.models.device import choose_device

    path = Path(name)
    third = hasattr(models, "SizeModel")
    known = [*models.MODEL_NAMES, *models.get_user_models()]
    if not path.is_file() and name not in known:
        hint = suggest(name, known) or f"those it knows: {', '.join(dict.fromkeys(known))}"
        raise UsageError(f"cellpose: no file and no model of this version is called {name!r}; {hint}")
    place = choose_device(device)

    def load() -> Any:
        options: dict[str, Any] = {"gpu": place.type != "cpu", "device": place}
        if third and "transformer" in path.name:
            options["backbone"] = "transformer"
        try:
            with _verified_connections():
                if estimate:
                    return models.Cellpose(model_type=name, **options)
                return models.CellposeModel(pretrained_model=name, **options)
        # Whatever torch and Cellpose may raise over a foreign or damaged file, or a network that is not there.
        except Exception as error:
            if path.is_file():
                raise UsageError(
                    f"cellpose: {name} cannot be loaded by Cellpose {_version()}: {reason(error)}"
                ) from error
            raise UsageError(
                f"cellpose: the weights of {name!r} cannot be had: {reason(error)}; download them elsewhere "
                f"(cellpose.readthedocs.io, Models) and put them into {models.MODEL_DIR}, or give the path of a file"
            ) from error

    return (stamp(path) if path.is_file() else name, estimate, str(place)), load


class _verified_connections:  # noqa: N801 - reads as a word in a `with`
    """Undo that a download by Cellpose switches off the checking of certificates for the whole process."""

    def __enter__(self) -> None:
        import ssl

        self.before = ssl._create_default_https_context

    def __exit__(self, *_: object) -> None:
        import ssl

        ssl._create_default_https_context = self.before


def _default(models: Any, third: bool) -> str:
    if third:
        return "cyto3"
    return str(inspect.signature(models.CellposeModel.__init__).parameters["pretrained_model"].default)


def _version() -> str:
    try:
        return version("cellpose")
    except PackageNotFoundError:  # on the path without having been installed
        return "(version unknown)"


def _defaults() -> tuple[str, ...]:
    """Return what the default model of the installed version may be called. Imports nothing."""
    return ("cyto3",) if _version().startswith(("2.", "3.")) else ("cpsam_v2", "cpsam")


def _folder() -> Path:
    """Return where Cellpose keeps its own weights. Imports nothing."""
    folder = os.environ.get("CELLPOSE_LOCAL_MODELS_PATH")
    return Path(folder) if folder else Path.home() / ".cellpose" / "models"


def _files(name: str) -> tuple[str, str]:
    """Return what the file of a model may be called."""
    return name, f"{name}torch_0"
