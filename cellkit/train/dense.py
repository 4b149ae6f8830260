"""A dense network in training: its loss on a batch of crops with their target maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellkit.train.config import TrainConfig
from cellkit.train.losses import build_loss
from cellkit.train.task import BATCH_FILE, STATE, Diverged, TrainingTask, build_network

__all__ = ["BATCH_FILE", "STATE", "DenseTask", "Diverged", "build_network", "collate", "collate_half"]


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples: `image` (n, c, y, x), and what `target_maps` gave, as tensors; `name` as a list."""
    stacked = {
        key: torch.stack([sample[key] for sample in samples])
        for key, value in samples[0].items()
        if isinstance(value, Tensor) and key != "labels"
    }
    return {**stacked, "name": [str(sample["name"]) for sample in samples]}


def collate_half(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples as `collate` does, fractions in float16, for a network that computes in no higher precision.

    Half the bytes to copy to a GPU. Weights above 65,504 would not fit; no rule of targets makes them.
    """
    return {
        key: value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in collate(samples).items()
    }


class DenseTask(TrainingTask):
    """Trains a dense network by the loss of `config`, or the usual one of its head."""

    collate = staticmethod(collate)
    collate_half = staticmethod(collate_half)

    def __init__(self, config: TrainConfig, network: nn.Module, folder: Path) -> None:
        super().__init__(config, network, folder)
        self.criterion = build_loss(config.loss, config.model.head, config.model.outputs)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Return the loss of a batch. Raises `Diverged`, the batch written out, where it is not finite."""
        image = batch["image"].contiguous(memory_format=self.layout)
        logits = self.network(image)
        loss = self.criterion(logits, {key: value for key, value in batch.items() if key not in ("image", "name")})
        return self.account(batch, loss, self.criterion.parts)

    def arrays(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the tensors of a batch as arrays to be written out, `image` (n, c, y, x) among them."""
        return {key: value.detach().float().cpu().numpy() for key, value in batch.items() if key != "name"}
