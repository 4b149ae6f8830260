"""StarDist as a stage, where it is installed."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from cellkit.core.errors import Fault, StageError, UsageError, suggest
from cellkit.core.kinds import Image, Labels
from cellkit.core.stage import WHOLE, Span, stage
from cellkit.stages._foreign import Package, consecutive, reason, refuse_not_finite, stamp

__all__ = ["stardist"]

PACKAGE = Package(
    "StarDist",
    ("stardist", "tensorflow"),
    "pip install stardist tensorflow",
    noisy=("csbdeep", "keras", "tf_keras", "absl", "h5py"),
)

_TILE = 1024
"""Side in pixels up to which an image goes through the network in one piece."""


def _review(params: Mapping[str, Any], _: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Fault]:
    if params["normalize"] != "none" and params["low"] >= params["high"]:
        yield Fault("low", f"wanted less than high, {params['high']:g}, got {params['low']:g}")
    if PACKAGE.missing():
        yield from PACKAGE.review()
        return
    name = params["model"]
    if not Path(name).is_dir() and not any((_folder() / name).rglob("config.json")):
        yield Fault(
            "model",
            f"no weights of {name!r} on this machine; StarDist will try to download them",
            "or give the path of a folder with config.json and its weights",
            warning=True,
        )


@stage(reach=WHOLE, review=_review)
def stardist(  # noqa: PLR0913 - the words of StarDist's own users
    image: Image,
    /,
    *,
    model: str = "2D_versatile_fluo",
    prob_threshold: Annotated[float | None, Span(0, 1)] = None,
    nms_threshold: Annotated[float | None, Span(0, 1)] = None,
    scale: Annotated[float, Span(0.01, 100, log=True)] = 1.0,
    normalize: Literal["each", "joint", "none"] = "each",
    low: Annotated[float, Span(0, 100, "%")] = 1.0,
    high: Annotated[float, Span(0, 100, "%")] = 99.8,
    n_tiles: Annotated[tuple[int, int] | None, Span(1, 10_000)] = None,
) -> Labels:
    """Find nuclei and other star-convex objects with StarDist, where it and TensorFlow are installed.

    `image`: (y, x, c), of as many channels as the model was trained on. Returns int32 (y, x), numbered without gaps;
    zero everywhere where nothing is found.

    `model` is a name that StarDist knows (2D_versatile_fluo, 2D_versatile_he, 2D_paper_dsb2018, 2D_demo) or a folder
    with config.json, weights in an .h5 file and, where there is one, thresholds.json. `prob_threshold`, the least
    probability of an object, and `nms_threshold`, the overlap from which two count as one, are by default the model's
    own. `scale` enlarges the image for the network, to bring its objects to the size of those it was trained on.
    `normalize` takes the percentiles `low` and `high` to 0 and 1: of each channel, or of all jointly. `n_tiles` along
    (y, x) bounds memory; by default tiles are no larger than 1024 px.

    `pip install stardist tensorflow`. StarDist loads, and where it must downloads, its weights by its own means, in its
    own format. StarDist and CSBDeep are under the BSD 3-clause licence, TensorFlow under Apache 2.0. The network runs
    on the device that TensorFlow chooses.

    Raises `UsageError` where StarDist is not installed, does not know the model, or cannot load or download its
    weights; `StageError` where the channels are not the model's, a value is not finite, or nothing is left by `scale`
    or to be stretched by `normalize`.

    Source: Schmidt, Weigert, Broaddus & Myers 2018, "Cell Detection with Star-convex Polygons", MICCAI.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> labels = ck.stages.stardist(image, model="2D_versatile_fluo")  # doctest: +SKIP
    """
    if normalize != "none" and low >= high:
        raise StageError(f"stardist: low: wanted less than high, {high:g}, got {low:g}")
    refuse_not_finite("stardist", image)
    height, width, channels = image.shape
    if round(min(height, width) * scale) < 1:
        raise StageError(f"stardist: scale {scale:g} leaves no pixel of {height} x {width} px; take a larger one")
    models = _models()
    with PACKAGE.network(*_loader(models, model)) as network:
        wanted = network.config.n_channel_in
        if channels != wanted:
            fix = "put `grayscale` or `channel: {name: 0}` before it" if wanted == 1 else "take another model"
            raise StageError(f"stardist: {model} wants {wanted} channel(s), the image has {channels}; {fix}")
        pixels = image if normalize == "none" else _normalized(image, normalize == "joint", low, high)
        tiles = n_tiles or tuple(math.ceil(side * scale / _TILE) for side in (height, width))
        labels, _ = network.predict_instances(
            pixels,
            axes="YXC",
            prob_thresh=prob_threshold,
            nms_thresh=nms_threshold,
            scale=None if scale == 1 else scale,
            n_tiles=(*tiles, 1),
            show_tile_progress=False,
            predict_kwargs={"verbose": 0},
        )
    return consecutive(labels, (height, width))


def _models() -> Any:
    """Return the module with StarDist's networks."""
    # TensorFlow tells everybody of the processor it runs on, below the level of Python's logging.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not PACKAGE.missing() and importlib.util.find_spec("triton") is not None:
        # Comes with torch, and torchvision imports it. Both hold an LLVM: with TensorFlow's there first, triton's finds
        # its options taken and aborts the whole process (TensorFlow 2.21, triton 3.9); the other way round they agree.
        importlib.import_module("triton")
    tensorflow = PACKAGE.module("tensorflow")
    models = PACKAGE.module("stardist.models")
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        try:  # by default TensorFlow takes all of its memory, and other steps of a recipe have networks too
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # in use already, with what was said before
            break
    return models


def _loader(models: Any, name: str) -> tuple[Any, Any]:
    """Return a key for a network and how it is loaded."""
    folder = Path(name).resolve()
    registered = PACKAGE.module("csbdeep.models.pretrained")
    if folder.is_dir():
        _refuse_incomplete(folder)
    else:
        keys, aliases = registered.get_registered_models(models.StarDist2D)
        known = [*keys, *(alias for key in keys for alias in aliases[key])]
        if name not in known:
            hint = suggest(name, known) or f"models it knows: {', '.join(keys)}"
            raise UsageError(f"stardist: no folder and no model of StarDist is called {name!r}; {hint}")

    def load() -> Any:
        for module in ("csbdeep.models.base_model", "stardist.models.base"):
            PACKAGE.module(module).print = _say_nothing
        try:
            if folder.is_dir():
                return models.StarDist2D(None, name=folder.name, basedir=str(folder.parent))
            return registered.get_model_instance(models.StarDist2D, name)
        # Whatever Keras and h5py may raise over foreign or damaged files; a download that fails is a bare Exception.
        except Exception as error:
            if folder.is_dir():
                raise UsageError(f"stardist: {name} cannot be loaded: {reason(error)}") from error
            url = registered.get_model_details(models.StarDist2D, name)[2]["url"]
            raise UsageError(
                f"stardist: the weights of {name!r} cannot be had: {reason(error)}; download {url} elsewhere, unpack "
                "it, and give the path of its folder as `model`"
            ) from error

    return stamp(folder) if folder.is_dir() else name, load


def _refuse_incomplete(folder: Path) -> None:
    """Raise `UsageError` for a folder that is no model: StarDist would run one without weights on random ones."""
    for wanted, patterns in (("config.json", ("config.json",)), ("weights, *.h5", ("*.h5", "*.hdf5"))):
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise UsageError(f"stardist: {folder}: wanted a folder with config.json and weights, it has no {wanted}")


def _say_nothing(*_: object, **__: object) -> None:
    """Stand in for `print` in modules that tell on standard output which file they load."""


def _normalized(image: np.ndarray, jointly: bool, low: float, high: float) -> np.ndarray:
    """Return the image as StarDist's users normalise it. Raises `StageError` where there is nothing to stretch."""
    axes = (0, 1, 2) if jointly else (0, 1)
    bottom, top = np.percentile(image, (low, high), axis=axes)
    flat = (bottom == top) & (image.min(axes) < image.max(axes))
    if np.any(flat):
        raise StageError(
            f"stardist: the percentiles {low:g} and {high:g} coincide, so that nothing can be stretched between them; "
            "raise high, or normalize before it and say normalize: none"
        )
    return PACKAGE.module("csbdeep.utils").normalize(image, low, high, axis=axes)


def _folder() -> Path:
    """Return where Keras keeps what StarDist downloads. Imports nothing."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models" / "StarDist2D"
