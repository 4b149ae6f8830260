"""Faster R-CNN and Mask R-CNN of torchvision, on any encoder and any number of channels."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.ops.poolers import initLevelMapper

from cellkit.core import UsageError
from cellkit.models._choices import EncoderWeights
from cellkit.models._encoders import drop_unused, make_encoder, refusing

__all__ = ["Detection", "detector"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Detection:
    """The parameters of a detector; see `cellkit.models.architectures.faster_rcnn`."""

    encoder: str
    encoder_weights: EncoderWeights
    frozen_norm: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]
    min_size: int | None
    max_size: int
    proposals: int
    boxes_per_image: int
    score_threshold: float
    nms_threshold: float
    pyramid_channels: int
    head_channels: int


def detector(channels: int, outputs: int, masks: bool, p: Detection) -> nn.Module:
    """Return a detector of `outputs` classes beside the background. Raises `UsageError` for parameters that clash."""
    mean, std = _normalisation(channels, p)
    _check(p)
    backbone = _Pyramid(channels, p)
    anchors = AnchorGenerator(
        sizes=tuple((size,) for size in p.anchor_sizes), aspect_ratios=(p.aspect_ratios,) * len(p.anchor_sizes)
    )
    settings = {
        "rpn_anchor_generator": anchors,
        "rpn_pre_nms_top_n_train": 2 * p.proposals,
        "rpn_pre_nms_top_n_test": 2 * p.proposals,
        "rpn_post_nms_top_n_train": p.proposals,
        "rpn_post_nms_top_n_test": p.proposals,
        "box_roi_pool": _regions(p, 7),
        "box_head": TwoMLPHead(p.pyramid_channels * 7 * 7, p.head_channels),
        "box_predictor": FastRCNNPredictor(p.head_channels, outputs + 1),
        "box_score_thresh": p.score_threshold,
        "box_nms_thresh": p.nms_threshold,
        "box_detections_per_img": p.boxes_per_image,
    }
    network: nn.Module
    if masks:
        width = p.pyramid_channels
        network = MaskRCNN(
            backbone,
            mask_roi_pool=_regions(p, 14),
            mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(width, width, outputs + 1),
            **settings,
        )
    else:
        network = FasterRCNN(backbone, **settings)
    network.rpn.box_coder = _WideCoder(network.rpn.box_coder.weights)
    network.roi_heads.box_coder = _WideCoder(network.roi_heads.box_coder.weights)
    transform = _SameScale if p.min_size is None else GeneralizedRCNNTransform
    network.transform = transform(p.min_size or 0, p.max_size, mean, std)
    return network


class _WideCoder(BoxCoder):
    """Reckons boxes in float32 whatever the network computes in.

    torchvision reckons them in the type of the offsets. As bfloat16, proposals beyond 256 px would lie on every second
    pixel only, and a box 1 px wide, put among the proposals of a training, could lose its width and with it the loss.
    """

    def decode_single(self, rel_codes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return the boxes that `boxes` become by the offsets `rel_codes`."""
        return super().decode_single(_wide(rel_codes), boxes)


def _regions(p: Detection, size: int) -> MultiScaleRoIAlign:
    """Return the pooling of regions to `size` x `size`, told the strides that it would guess from its first images."""
    levels = len(p.anchor_sizes) - 1
    pooling = MultiScaleRoIAlign([str(level) for level in range(levels)], output_size=size, sampling_ratio=2)
    pooling.scales = [1 / 2**level for level in range(2, levels + 2)]
    pooling.map_levels = initLevelMapper(2, levels + 1, canonical_scale=224, canonical_level=4)
    return pooling


class _Pyramid(nn.Module):
    """A feature pyramid over the strides 4, 8 ... of an encoder, and one level more by subsampling.

    Source: Lin et al., Feature Pyramid Networks, CVPR 2017, arXiv:1612.03144.
    """

    def __init__(self, channels: int, p: Detection) -> None:
        super().__init__()
        self.encoder = make_encoder(p.encoder, channels, len(p.anchor_sizes), p.encoder_weights)
        self.out_channels = p.pyramid_channels
        self.fpn = FeaturePyramidNetwork(
            list(self.encoder.out_channels[2:]), p.pyramid_channels, extra_blocks=LastLevelMaxPool()
        )
        with refusing(p.encoder):
            drop_unused(self.encoder, lambda: self.encoder(torch.zeros(1, channels, 64, 64))[2:])
        if p.frozen_norm:
            _freeze(self.encoder)

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Map (n, channels, y, x) to features by level: "0" at stride 4, "1" at stride 8 ... and "pool".

        They are float32 at least, as anchors take the type of the features: as bfloat16, those beyond 256 px would lie
        on every second pixel only.
        """
        levels = self.fpn(OrderedDict((str(k), level) for k, level in enumerate(self.encoder(images)[2:])))
        return OrderedDict((name, _wide(level)) for name, level in levels.items())


def _wide(level: torch.Tensor) -> torch.Tensor:
    return level.float() if level.dtype in (torch.float16, torch.bfloat16) else level


def _check(p: Detection) -> None:
    if not 2 <= len(p.anchor_sizes) <= 5 or min(p.anchor_sizes) <= 0:
        wanted = "2 to 5 positive numbers, one a level of the pyramid"
        raise UsageError(f"anchor_sizes: wanted {wanted}, got {list(p.anchor_sizes)}")
    if min(p.aspect_ratios, default=0) <= 0:
        raise UsageError(f"aspect_ratios: wanted at least one positive number, got {list(p.aspect_ratios)}")
    if p.min_size is not None and p.min_size > p.max_size:
        raise UsageError(f"min_size: wanted no more than max_size, which is {p.max_size}, got {p.min_size}")


def _freeze(module: nn.Module) -> None:
    """Replace batch normalisation by the fixed map that its running statistics stand for."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            if type(child) is not nn.BatchNorm2d:
                raise UsageError(f"frozen_norm: this encoder's {type(child).__name__} cannot be frozen")
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze(child)


def _normalisation(channels: int, p: Detection) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation by channel: as given, else ImageNet's (their average but for 3 channels)."""
    found = []
    for name, given, known in (("mean", p.mean, _IMAGENET[0]), ("std", p.std, _IMAGENET[1])):
        values = given or (known if channels == 3 else (sum(known) / 3,) * channels)
        if len(values) != channels or (name == "std" and min(values) <= 0):
            wanted = "one positive number" if name == "std" else "one number"
            raise UsageError(f"{name}: wanted {wanted} for each of {channels} channels, got {list(given)}")
        found.append(list(values))
    return found[0], found[1]


class _SameScale(GeneralizedRCNNTransform):
    """Normalises and batches images but leaves their size as it is."""

    def resize(
        self, image: torch.Tensor, target: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        return image, target
