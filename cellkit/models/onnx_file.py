"""ONNX files as predictors, through onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core import FormatError, StageError, UsageError
from cellkit.grid.cover import Window
from cellkit.grid.fill import cut
from cellkit.grid.windows import windows
from cellkit.models.card import Card
from cellkit.models.onnx_header import FLOATS, image_and_map, read_onnx_header, sidecar
from cellkit.models.store import Located

__all__ = ["OnnxBackend", "require_onnx"]


class OnnxBackend:
    """Calls an ONNX graph on float32 tiles (n, c, y, x); returns its float32 probabilities (n, k, y, x).

    `device` is ``cpu``, ``cuda`` or ``cuda:1``. On a CPU, a call takes `threads` threads. A graph of a fixed size is
    moved over larger tiles, with the card's halo, and smaller tiles are mirrored up to it. The normalisation and
    activation that a card beside a foreign file asks for are computed here; in files that cellkit writes they are part
    of the graph.

    Raises `UsageError` where onnxruntime is missing or cannot use the device, `FormatError` where it refuses the file.
    """

    def __init__(self, located: Located, device: str = "cpu", *, threads: int = 1) -> None:
        if located.weights is None:
            raise UsageError(f"model {located.name!r}: no ONNX file is there")
        self.card = located.card
        self.path = located.weights
        self.header = read_onnx_header(self.path)
        if self.card.task != "dense":
            raise UsageError(f"{self.path}: ONNX files of dense networks can be run, not of task {self.card.task!r}")
        self._given, _ = image_and_map(self.path, self.header)
        self._session: Any = _session(self.path, device, threads)
        _, _, y, x = self._given.shape or (None,) * 4
        self._fixed = (y, x) if y is not None or x is not None else None

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch.

        Raises `StageError` where the graph fails on tiles of that shape or gives no probabilities of their size.
        """
        if self._fixed is None:
            return self._run(tiles)
        return np.stack([self._moved_over(tile) for tile in tiles])

    def relieve(self) -> None:
        """Do nothing: onnxruntime keeps its memory to itself."""

    def close(self) -> None:
        """Give back what the device holds."""
        self._session = None

    def _moved_over(self, tile: np.ndarray) -> np.ndarray:
        """Run a graph of a fixed size on every part of `tile` (c, y, x)."""
        shape = tile.shape[1:]
        side = tuple(fixed or length for fixed, length in zip(self._fixed or shape, shape, strict=True))
        image = np.moveaxis(tile, 0, -1)
        out = np.empty((len(self.card.classes), *shape), np.float32)
        grid = self.card.divisor
        if side[0] % grid or side[1] % grid:
            raise StageError(f"{self.path}: takes {side[0]} x {side[1]} px, no multiple of the card's divisor {grid}")
        for part in windows(shape, (side[0], side[1]), self.card.halo, grid):
            window = part.window
            # What is smaller than the graph's input lies at its top left, mirrored beyond its end.
            whole = Window(window.top, window.left, window.top + side[0], window.left + side[1])
            pixels = np.ascontiguousarray(np.moveaxis(cut(image, whole, "reflect"), -1, 0)[None])
            found = self._run(pixels)[0]
            inside = part.core.within(whole).slices
            rows, columns = part.core.slices
            out[:, rows, columns] = found[:, inside[0], inside[1]]
        return out

    def _run(self, tiles: np.ndarray) -> np.ndarray:
        batch = self._given.shape[0] if self._given.shape else None
        if batch is not None and batch != len(tiles):
            return np.concatenate([self._run_exactly(part, batch) for part in _parts(tiles, batch)])[: len(tiles)]
        return self._run_exactly(tiles, len(tiles))

    def _run_exactly(self, tiles: np.ndarray, count: int) -> np.ndarray:
        if len(tiles) < count:
            tiles = np.concatenate([tiles, np.zeros((count - len(tiles), *tiles.shape[1:]), tiles.dtype)])
        given = tiles if self.header.has_card else self._normalised(tiles)
        try:
            (found,) = self._session.run(None, {self._given.name: given.astype(FLOATS[self._given.type], copy=False)})
        except Exception as error:  # onnxruntime has a class of its own for each reason
            if "allocat" in str(error) and "fail" in str(error).lower():
                raise MemoryError(str(error)) from error
            text = " ".join(str(error).split())[:300]
            raise StageError(
                f"{self.path}: onnxruntime failed on tiles {tiles.shape}: {text}; if the sides must be multiples of a "
                f"number, say so as divisor in a card {sidecar(self.path).name}"
            ) from error
        return self._checked(np.asarray(found, np.float32), tiles.shape)

    def _normalised(self, tiles: np.ndarray) -> np.ndarray:
        for numbers, apply in ((self.card.mean, np.subtract), (self.card.std, np.divide)):
            if numbers:
                tiles = apply(tiles, np.asarray(numbers, np.float32)[:, None, None])
        return tiles

    def _checked(self, found: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        wanted = (shape[0], len(self.card.classes), *shape[2:])
        if found.shape != wanted:
            raise StageError(
                f"{self.path}: gave {found.shape} for tiles {tuple(shape)}, wanted {wanted}: a map of the tile's "
                "size for each class of the card"
            )
        if not self.header.has_card and self.card.parameters.get("logits"):
            found = _activated(found, self.card)
        low, high = float(found.min(initial=0)), float(found.max(initial=0))
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN too
            raise StageError(
                f"{self.path}: gave values from {low:g} to {high:g}, which are no probabilities; if they are logits, "
                f"write a card {sidecar(self.path).name} with the head and parameters: {{logits: true}}, or export the "
                "network with its last activation"
            )
        return np.clip(found, 0, 1)


def require_onnx(*libraries: str) -> None:
    """Raise `UsageError`, saying how to install it, where one of the optional libraries is missing."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'ONNX files need {", ".join(missing)}: pip install "cellkit[onnx]"')


def _session(path: Path, device: str, threads: int) -> Any:
    require_onnx("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, too
    kind, _, index = device.partition(":")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UsageError(
                f"device {device}: this onnxruntime is a build without CUDA; install onnxruntime-gpu, or use device cpu"
            )
        # TF32 would round the factors of every product to 10 bits.
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(index or 0), "use_tf32": 0}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each reason
        text = " ".join(str(error).split())[:300]
        raise FormatError(f"{path}: onnxruntime cannot load it: {text}") from error
    if kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise UsageError(f"device {device}: onnxruntime could not start CUDA here (its libraries do not fit); use cpu")
    return session


def _parts(tiles: np.ndarray, size: int) -> list[np.ndarray]:
    return [tiles[i : i + size] for i in range(0, len(tiles), size)]


def _activated(logits: np.ndarray, card: Card) -> np.ndarray:
    """Return the probabilities that logits (n, k, y, x) stand for, as the card's head says."""
    if card.head in ("softmax", "border"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
