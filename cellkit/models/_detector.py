"""A detector of torch on one device: from a batch of tiles to boxes or instances."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import MultiScaleRoIAlign

from cellkit.core import Boxes, Instances, StageError
from cellkit.models.card import Card
from cellkit.models.torch_backend import without_tf32

__all__ = ["DetectorBackend", "paste"]

_MASK = 0.5


class DetectorBackend:
    """Calls a detector on float32 tiles (n, c, y, x) and returns n `Boxes`, or `Instances` for the task masks.

    Boxes are cut to the tile, those without area dropped, classes count from 0 into the card's. Masks are where their
    probability is greater than 0.5, and come with it. `dtype` is the format of the convolutions.

    torchvision draws every mask into a picture of the tile's size, which for many objects takes more memory than the
    network. Here each small mask is enlarged inside its own box, to the same values.
    """

    def __init__(self, network: torch.nn.Module, card: Card, device: torch.device, dtype: torch.dtype) -> None:
        self.card = card
        self.device = device
        self.dtype = dtype
        self.network: Any = network.eval().to(device)
        # A network that does as every torchvision one can be stopped before it draws masks.
        self.plain = isinstance(network, GeneralizedRCNN) and type(network).forward is GeneralizedRCNN.forward
        if self.plain:
            _settle_scales(self.network, card.channels, device)

    def __call__(self, tiles: np.ndarray) -> list[Boxes] | list[Instances]:
        """Return what is found on each tile. May raise ``torch.OutOfMemoryError``."""
        half = self.dtype != torch.float32
        exact = nullcontext() if half else without_tf32()
        with exact, torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=half):
            images = list(torch.from_numpy(tiles).to(self.device))
            found = _undrawn(self.network, images) if self.plain else self.network(images)
            found = [{key: value.detach().cpu() for key, value in one.items()} for one in found]
        shape = tiles.shape[2:]
        if self.card.task == "boxes":
            return [_boxes(one, shape)[0] for one in found]
        if any("masks" not in one for one in found):
            raise StageError(f"{self.card.name}: its card says masks, but the network gives none")
        return [_instances(one, shape, drawn=not self.plain) for one in found]

    def relieve(self) -> None:
        """Give back memory that is kept for later calls."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give back what the device holds."""
        self.network = None
        self.relieve()


def _settle_scales(network: Any, channels: int, device: torch.device) -> None:
    """Tell the poolings of regions how coarse each level of the features is.

    Left to themselves they take it from the first picture they see, and are wrong for good where that is a small one.
    """
    side = 128
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]], device=device)
    with torch.inference_mode():
        features = network.backbone(torch.zeros(1, channels, side, side, device=device))
        features = {"0": features} if isinstance(features, torch.Tensor) else features
        for pool in network.roi_heads.modules():
            if isinstance(pool, MultiScaleRoIAlign):
                pool.scales = None
                pool(features, [box], [(side, side)])


def _undrawn(network: Any, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Do what the network's `forward` does, but leave masks as they are: small, over their box."""
    sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
    inputs, _ = network.transform(images, None)
    features = network.backbone(inputs.tensors)
    if isinstance(features, torch.Tensor):
        features = {"0": features}
    proposals, _ = network.rpn(inputs, features, None)
    found, _ = network.roi_heads(features, proposals, inputs.image_sizes, None)
    for one, inside, outside in zip(found, inputs.image_sizes, sizes, strict=True):
        one["boxes"] = resize_boxes(one["boxes"], inside, outside)
    return found


def _boxes(found: dict[str, torch.Tensor], shape: tuple[int, ...]) -> tuple[Boxes, np.ndarray]:
    """Return the boxes cut to the tile, without those that have no area left there; and which these were."""
    xyxy = found["boxes"].float().numpy().reshape(-1, 4)
    scores = found["scores"].float().numpy()
    cut = np.clip(xyxy, 0, np.array([shape[1], shape[0]] * 2, np.float32))
    real = np.isfinite(xyxy).all(axis=1) & np.isfinite(scores) & (cut[:, 2:] > cut[:, :2]).all(axis=1)
    kept = np.flatnonzero(real)
    classes = found["labels"].numpy()[kept].astype(np.int32) - 1  # torchvision's 0 is background
    return Boxes(cut[kept], scores[kept], classes), kept


def _instances(found: dict[str, torch.Tensor], shape: tuple[int, ...], *, drawn: bool) -> Instances:
    boxes, kept = _boxes(found, shape)
    uncut = found["boxes"].float().numpy().reshape(-1, 4)
    frames = np.concatenate([np.floor(boxes.xyxy[:, :2]), np.ceil(boxes.xyxy[:, 2:])], axis=1).astype(int).tolist()
    small = found["masks"]
    probs = []
    for index, frame in zip(kept.tolist(), frames, strict=True):
        mask = small[index, 0].float().numpy()
        if drawn:
            x0, y0, x1, y1 = frame
            prob = np.clip(mask[y0:y1, x0:x1], 0, 1)
        else:
            prob = paste(mask, uncut[index], (frame[0], frame[1], frame[2], frame[3]))
        probs.append(np.ascontiguousarray(prob, np.float32))
    return Instances(boxes, tuple(prob > _MASK for prob in probs), tuple(probs))


def paste(mask: np.ndarray, box: np.ndarray, frame: tuple[int, int, int, int]) -> np.ndarray:
    """Return the pixels `frame` (x0, y0, x1, y1) of a small mask stretched over its box: float32 in [0, 1].

    `mask` is float32 (m, m), `box` float32 x0, y0, x1, y1. Beyond the stretched mask there is 0.

    Source: ``paste_masks_in_image`` of torchvision, whose values these are: the mask with a rim of one zero is enlarged
    linearly over the box, as much larger and rounded towards zero.
    """
    side = mask.shape[0]
    scale = np.float32((side + 2) / side)
    half, centre = (box[2:] - box[:2]) * np.float32(0.5) * scale, (box[:2] + box[2:]) * np.float32(0.5)
    left, top = (math.trunc(v) for v in (centre - half).tolist())
    right, bottom = (math.trunc(v) + 1 for v in (centre + half).tolist())
    size = (max(right - left, 1), max(bottom - top, 1))
    large = cv2.resize(np.pad(mask, 1), size, interpolation=cv2.INTER_LINEAR)
    x0, y0, x1, y1 = frame
    out = np.zeros((y1 - y0, x1 - x0), np.float32)
    inside = large[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)]
    row, column = max(0, top - y0), max(0, left - x0)
    inside = inside[: out.shape[0] - row, : out.shape[1] - column]
    out[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return np.clip(out, 0, 1, out=out)
