"""Detectors by name. Torch is imported when one is built, not here."""

from __future__ import annotations

from typing import Annotated, Any

from cellkit.core import Span
from cellkit.models._choices import EncoderWeights as Weights
from cellkit.models._choices import Width
from cellkit.models.architecture import architecture

__all__ = ["faster_rcnn", "mask_rcnn"]

# Every parameter is one of a published network; a record of them would only hide their names from a recipe.
# ruff: noqa: PLR0913

Fraction = Annotated[float, Span(0, 1)]


@architecture(name="faster-rcnn", task="boxes", source="Ren et al., NeurIPS 2015, arXiv:1506.01497", context="WHOLE")
def faster_rcnn(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet50",
    encoder_weights: Weights = "none",
    frozen_norm: bool = False,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    anchor_sizes: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 128.0),
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    min_size: Annotated[int | None, Span(16, 4096, "px")] = None,
    max_size: Annotated[int, Span(16, 8192, "px")] = 2048,
    proposals: Annotated[int, Span(1, 10_000)] = 2000,
    boxes_per_image: Annotated[int, Span(1, 10_000)] = 500,
    score_threshold: Fraction = 0.05,
    nms_threshold: Fraction = 0.5,
    pyramid_channels: Width = 256,
    head_channels: Annotated[int, Span(1, 8192)] = 1024,
) -> Any:
    """Faster R-CNN on a feature pyramid over any encoder (see unet-smp), set for many small objects.

    `frozen_norm`: the encoder's batch normalisation is fixed, for training a pretrained one on few images at a time.
    `mean`, `std`: of the input, one a channel; ImageNet's where empty. `anchor_sizes`: sides in pixels, one a level at
    strides 4, 8, 16 ...; `aspect_ratios`: heights to widths, at every level. `min_size`: the shorter side that images
    are resized to unless the longer would pass `max_size`; none leaves them as they are. `proposals`: regions that
    reach the second stage, out of twice as many a level. At most `boxes_per_image` come back, of a score of at least
    `score_threshold`, overlapping by at most `nms_threshold`. Classes count from 1; 0 is the background.
    """
    from cellkit.models._rcnn import Detection, detector

    given = locals()
    return detector(channels, outputs, False, Detection(**{name: given[name] for name in Detection.__match_args__}))


@architecture(name="mask-rcnn", task="masks", source="He et al., ICCV 2017, arXiv:1703.06870", context="WHOLE")
def mask_rcnn(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet50",
    encoder_weights: Weights = "none",
    frozen_norm: bool = False,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    anchor_sizes: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 128.0),
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    min_size: Annotated[int | None, Span(16, 4096, "px")] = None,
    max_size: Annotated[int, Span(16, 8192, "px")] = 2048,
    proposals: Annotated[int, Span(1, 10_000)] = 2000,
    boxes_per_image: Annotated[int, Span(1, 10_000)] = 500,
    score_threshold: Fraction = 0.05,
    nms_threshold: Fraction = 0.5,
    pyramid_channels: Width = 256,
    head_channels: Annotated[int, Span(1, 8192)] = 1024,
) -> Any:
    """Mask R-CNN: Faster R-CNN and a mask of 28 x 28 pixels for each box. Parameters: see faster-rcnn."""
    from cellkit.models._rcnn import Detection, detector

    given = locals()
    return detector(channels, outputs, True, Detection(**{name: given[name] for name in Detection.__match_args__}))
