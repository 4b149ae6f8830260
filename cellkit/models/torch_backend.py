"""A dense network of torch on one device: from a batch of tiles to probabilities."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from cellkit.core import UsageError
from cellkit.models.card import Card
from cellkit.models.inference import Inference

__all__ = ["TorchBackend", "without_tf32"]

_lock = threading.Lock()
_users = 0
_before = (False, False)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let GPUs compute in float32 proper as long as any thread is inside; torch lets convolutions use 10 bits of it."""
    global _users, _before
    with _lock:
        if not _users:
            _before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = _before


class TorchBackend:
    """Calls a network on float32 tiles (n, c, y, x) and returns float32 probabilities (n, k, y, x).

    `dtype` is the format of its convolutions; probabilities are always computed in float32. Weights and activations lie
    channels last, as both kinds of device like them best. `compiled`: let torch compile the network first.
    """

    def __init__(
        self, network: torch.nn.Module, card: Card, device: torch.device, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        self.device = device
        self.dtype = dtype
        module = Inference(network, card).eval().to(device=device, memory_format=torch.channels_last)
        self.module: Any = torch.compile(module) if compiled else module
        self.compiled = compiled
        self._lane = threading.local()

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch. May raise ``torch.OutOfMemoryError``."""
        # A copy in any case, since torch takes no read-only arrays; made so that it lies channels last.
        batch = torch.from_numpy(np.array(np.moveaxis(tiles, 1, -1), order="C")).permute(0, 3, 1, 2)
        if self.device.type == "cuda":
            return self._on_gpu(batch)
        with torch.inference_mode(), torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return self._forward(batch).numpy()

    def _on_gpu(self, batch: torch.Tensor) -> np.ndarray:
        exact = without_tf32() if self.dtype == torch.float32 else nullcontext()
        with exact, torch.cuda.device(self.device), torch.cuda.stream(self._stream()), torch.inference_mode():
            moved = batch.pin_memory().to(self.device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast("cuda", self.dtype, enabled=self.dtype != torch.float32):
                probs = self._forward(moved)
            here = torch.empty(probs.shape, dtype=probs.dtype, pin_memory=True)
            here.copy_(probs, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            return here.numpy()

    def _stream(self) -> Any:
        # A stream a lane: what one lane copies goes on while another computes.
        if not hasattr(self._lane, "stream"):
            self._lane.stream = torch.cuda.Stream(self.device)
        return self._lane.stream

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        if not self.compiled:
            return self.module(batch)
        try:
            return self.module(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            text = str(error).strip().splitlines()[0][:300]
            raise UsageError(f"--compile: torch cannot compile this network here: {text}; run without it") from error

    def relieve(self) -> None:
        """Give back memory that is kept for later calls: each lane's stream keeps its own."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give back what the device holds."""
        self.module = None
        self.relieve()
