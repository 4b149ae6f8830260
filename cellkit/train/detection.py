"""A detector in training: torchvision's own losses on a batch of crops with their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellkit.train.crops import collate_objects
from cellkit.train.task import TrainingTask

__all__ = ["DetectionTask", "collate_detection"]

_PARTS: Mapping[str, str] = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposal",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}
"""What the log calls torchvision's losses: whether an anchor holds an object and where, then class, box and mask."""


def collate_detection(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a batch: `image`, `target` and `name`, each a list with one entry a sample."""
    return {key: values for key, values in collate_objects(samples).items() if key != "applied"}


class DetectionTask(TrainingTask):
    """Trains a detector that, as torchvision's do, maps images and targets to its losses, whose sum is made small.

    Crops without an object teach where there is none. Which anchors and regions a loss sees is drawn for each batch.
    """

    collate = collate_half = staticmethod(collate_detection)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Return the loss of a batch. Raises `Diverged`, the batch written out, where it is not finite."""
        losses = self.network(batch["image"], batch["target"])
        parts = {_PARTS.get(name, name): value.detach() for name, value in losses.items()}
        return self.account(batch, torch.stack(list(losses.values())).sum(), parts)

    def arrays(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return a batch as arrays to be written out.

        `image` (n, c, y, x), and of all its objects together `boxes` (k, 4), `labels` (k,), `masks` (k, y, x) where
        there are any, and `crop` (k,): the place in the batch.
        """
        targets = batch["target"]
        found = {"image": torch.stack(list(batch["image"]))}
        for key in ("boxes", "labels", "masks"):
            if key in targets[0]:
                found[key] = torch.cat([target[key] for target in targets])
        arrays = {
            key: (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
            for key, value in found.items()
        }
        arrays["crop"] = np.repeat(np.arange(len(targets)), [len(target["boxes"]) for target in targets])
        return arrays
