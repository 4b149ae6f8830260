"""Networks that detect: from an image to boxes, or to instances with a mask each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from cellkit.core.errors import Fault, StageError
from cellkit.core.kinds import Boxes, Image, Instances
from cellkit.core.stage import WHOLE, Model, Span, stage
from cellkit.stages._model import class_names, refuse_channels, review_model

if TYPE_CHECKING:
    from cellkit.models.runtime import Network

__all__ = ["detect", "detect_masks"]

_SIZE = 1024
"""Side of a window where neither the step nor the card says."""

Before = Sequence[tuple[str, Mapping[str, Any]]]


def _review_boxes(params: Mapping[str, Any], before: Before) -> Iterable[Fault]:
    yield from review_model(params, before, "boxes")
    yield from _review_windows(params)


def _review_masks(params: Mapping[str, Any], before: Before) -> Iterable[Fault]:
    yield from review_model(params, before, "masks")
    yield from _review_windows(params)


def _review_windows(params: Mapping[str, Any]) -> Iterable[Fault]:
    size, halo = params["size"], params["halo"]
    if size is not None and halo is not None and size <= 2 * halo:
        yield Fault(
            "halo", f"windows of {size} px have no room for a halo of {halo} px on either side", "a larger size"
        )


@stage(reach=WHOLE, names=class_names, review=_review_boxes)
def detect(
    image: Image,
    /,
    *,
    model: Model = "",
    size: Annotated[int | None, Span(1, 100_000, "px")] = None,
    halo: Annotated[int | None, Span(0, 10_000, "px")] = None,
    score: Annotated[float, Span(0, 1)] = 0.5,
    iou: Annotated[float, Span(0, 1)] = 0.5,
    method: Literal["nms", "soft-nms", "wbf"] = "nms",
) -> Boxes:
    """Find objects as boxes with a class and a score, by a network such as Faster R-CNN.

    `model` is a name that `cellkit models` lists, or a file or folder of weights with their card. An image of up to
    `size` px a side (by default that of the card, else 1024) goes through as one picture, a larger one in windows that
    overlap by twice the `halo` (by default a quarter of `size`): no smaller than the radius of an object, it keeps
    objects at the seams whole, and each is kept once. Then boxes that score less than `score` are dropped, and
    duplicates by `method` and `iou`, class by class, as `suppress` does. A network has a lowest score and a largest
    number of boxes of its own. For average precision, set `score` to 0.

    Raises `StageError` where no model is named, the image's channels are not the network's, or windows have no room.

    >>> # in the folder of the repository, where this network of Faster R-CNN lies
    >>> import cellkit as ck
    >>> picture, cells = ck.io.blood_smear(320)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> boxes = ck.stages.detect(image[::2, ::2], model="examples/systems/4-blood-smears/blood-cells.safetensors")
    >>> len(boxes)
    11
    """
    found = _found("detect", "boxes", image, model, (size, halo))
    return _suppressed(found, method, iou, score)


@stage(reach=WHOLE, names=class_names, review=_review_masks)
def detect_masks(
    image: Image,
    /,
    *,
    model: Model = "",
    size: Annotated[int | None, Span(1, 100_000, "px")] = None,
    halo: Annotated[int | None, Span(0, 10_000, "px")] = None,
    score: Annotated[float, Span(0, 1)] = 0.5,
    iou: Annotated[float, Span(0, 1)] = 0.5,
    method: Literal["nms", "soft-nms"] = "nms",
) -> Instances:
    """Find objects as boxes with a class, a score and a mask, by a network such as Mask R-CNN.

    As `detect`; each object also has its mask, where the network's probability is greater than 0.5, and those
    probabilities. `to_labels`, `paint` and `merge_masks` make pixels of them.

    Raises `StageError` where no model is named, the image's channels are not the network's, or windows have no room.

    >>> # in the folder of the repository, where this network of Mask R-CNN lies
    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> instances = ck.stages.detect_masks(image, model="examples/made-nuclei/made-nuclei.safetensors")
    >>> len(instances) == int(truth.max())
    True
    """
    found = _found("detect_masks", "masks", image, model, (size, halo))
    return _suppressed(found, method, iou, score)


def _found(
    name: str, task: str, image: np.ndarray, model: str | Network, window: tuple[int | None, int | None]
) -> Boxes | Instances:
    if not model:
        raise StageError(f"{name}: names no model; `cellkit models` lists them: say `model: NAME`")
    from cellkit.models.objects import predict_objects
    from cellkit.models.runtime import open_model

    network = open_model(model)
    card = network.card
    if card.task != task:
        raise StageError(f"{name}: wanted a model for {task}, {card.name} is one for {card.task}")
    refuse_channels(name, image.shape[2], card)
    size = window[0] or card.tile or _SIZE
    halo = window[1] if window[1] is not None else size // 4
    return predict_objects(network, image, size=size, halo=halo)


def _suppressed(found: Any, method: Any, iou: float, score: float) -> Any:
    from cellkit.stages.suppress import suppress

    return suppress(found, method=method, iou=iou, score=score)
