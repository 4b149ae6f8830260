"""Loaded networks: lanes that work side by side, batches filled across images, smaller ones when memory runs out."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cellkit.core import StageError, UsageError
from cellkit.models.card import Card
from cellkit.models.device import Precision, choose_device, choose_precision, total_bytes

__all__ = ["Backend", "Network", "Options", "OutOfMemory", "forget_models", "open_model"]

_MOST_LOADED = 8
_IDLE_SECONDS = 5.0


class Backend(Protocol):
    """A network on a device."""

    def __call__(self, tiles: np.ndarray, /) -> Any:
        """Map float32 (n, c, y, x) to float32 (n, k, y, x), or to a list of n `Boxes` or `Instances`."""

    def relieve(self) -> None:
        """Give back memory that is kept for later calls."""

    def close(self) -> None:
        """Give back what the device holds."""


class OutOfMemory(StageError):
    """Not even one tile fits into the device's memory."""


@dataclass(frozen=True)
class Options:
    """How networks are run, with no say in what they predict but for rounding.

    `device`: see `choose_device`. `memory`: bytes that tiles in work may take altogether (None: a quarter of the
    device's). `lanes`: tiles worked on side by side (None: one a core of a CPU, each on one thread; two on a GPU, so
    that copies hide behind computing). `batch`: tiles in one call (None: 1 on a CPU, where more gain nothing; what
    memory allows up to 16 on a GPU). `alone`: one image is all there is, so that it is cut for all lanes.
    `compiled`: let torch compile networks.
    """

    device: str = "auto"
    memory: int | None = None
    lanes: int | None = None
    batch: int | None = None
    alone: bool = True
    compiled: bool = False


@dataclass
class _Job:
    tile: np.ndarray
    future: Future[Any] = field(default_factory=Future)


class Network:
    """A network, ready to predict. Safe to call from many threads at once.

    `card` says what it is; `notes` what a user should know of how it ran (such as batches made smaller).
    `device`: where it runs, in words. `bytes_per_pixel`: of activations, for one pixel of a tile; 0 where unknown.
    `digest`: the sha256 of its weights. `memory`: bytes that its tiles may take, for as long as a run bounds it;
    `own_memory`: else. `on_lane` is called in every new lane.
    """

    def __init__(self, card: Card, backend: Backend, options: Options | None = None) -> None:
        options = options or Options()
        self.card = card
        self.lanes = options.lanes or 1
        self.batch = options.batch or 1
        self.memory = self.own_memory = options.memory
        self.digest = card.sha256
        self.alone = options.alone
        self.device = "cpu"
        self.bytes_per_pixel = 0.0
        self.compiled = False
        self.on_lane: Callable[[], None] | None = None
        self.notes: list[str] = []
        self._backend = backend
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def __call__(self, tiles: np.ndarray) -> Any:
        """Return the predictions for float32 `tiles` (n, c, y, x): an array (n, k, y, x), or a list of n objects.

        Raises `StageError` where they do not fit the network, `OutOfMemory` where not even one fits the device.
        """
        found = [future.result() for future in self.submit(tiles)]
        return np.stack(found) if self.card.task == "dense" else found

    def submit(self, tiles: np.ndarray) -> list[Future[Any]]:
        """Put float32 tiles (n, c, y, x) in line; return what will hold the prediction of each."""
        if tiles.ndim != 4 or tiles.dtype != np.float32 or tiles.shape[1] != self.card.channels:
            wanted = f"float32 (n, {self.card.channels}, y, x)"
            raise StageError(f"{self.card.name}: wanted tiles {wanted}, got {tiles.dtype} {tiles.shape}")
        jobs = [_Job(tile) for tile in tiles]
        with self._wake:
            if self._closed:
                raise UsageError(f"{self.card.name}: the network is closed")
            while len(self._threads) < self.lanes:
                thread = threading.Thread(target=self._lane, name=f"{self.card.name}-lane", daemon=True)
                self._threads.add(thread)
                thread.start()
            self._queue.extend(jobs)
            self._wake.notify(len(jobs))
        return [job.future for job in jobs]

    def close(self) -> None:
        """Let the lanes end and give back the device's memory. What is in line is cancelled."""
        with self._wake:
            self._closed = True
            for job in self._queue:
                job.future.cancel()
            self._queue.clear()
            self._wake.notify_all()
        for thread in list(self._threads):
            thread.join()
        self._backend.close()

    def _lane(self) -> None:
        if self.on_lane is not None:
            self.on_lane()
        while True:
            with self._wake:
                while not self._queue and not self._closed:
                    if not self._wake.wait(_IDLE_SECONDS) and not self._queue:
                        # A lane at rest ends, so that a network that nobody holds any more can go.
                        self._threads.discard(threading.current_thread())
                        return
                if self._closed:
                    return
                jobs = self._take()
            # Those whose image has failed meanwhile have been cancelled.
            self._run([job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _take(self) -> list[_Job]:
        """Take the oldest tile in line and others of its shape, up to a batch."""
        first = self._queue.popleft()
        jobs = [first]
        others: list[_Job] = []
        while self._queue and len(jobs) < self.batch:
            job = self._queue.popleft()
            (jobs if job.tile.shape == first.tile.shape else others).append(job)
        self._queue.extendleft(reversed(others))
        return jobs

    def _run(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            found = self._predict([job.tile for job in jobs])
        except BaseException as error:  # whatever it is, it belongs to those who wait
            if len(jobs) == 1 or not isinstance(error, Exception):
                for job in jobs:
                    job.future.set_exception(error)
                return
            for job in jobs:  # one tile of the batch may be at fault, and the others those of other images
                self._run([job])
            return
        for job, value in zip(jobs, found, strict=True):
            job.future.set_result(value)

    def _predict(self, tiles: list[np.ndarray]) -> Sequence[Any]:
        size = self.batch
        if len(tiles) > size:  # it has become smaller since they were taken
            return [value for i in range(0, len(tiles), size) for value in self._predict(tiles[i : i + size])]
        # Always a full batch: how a sum is rounded may hang on the size of a batch, and must not hang on who waits.
        full = tiles + [np.zeros_like(tiles[0])] * (size - len(tiles))
        found: Any = None
        short = False
        try:
            found = self._backend(np.stack(full) if len(full) > 1 else full[0][None])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if size == 1:
                text = " x ".join(map(str, tiles[0].shape[1:]))
                raise OutOfMemory(f"{self.card.name}: out of memory on a tile of {text} px") from error
            short = True
        if short:  # out here, where the error no longer holds what did not fit
            self._shrink(size)
            self._backend.relieve()
            return self._predict(tiles)
        if len(found) != len(full):
            raise StageError(f"{self.card.name}: gave {len(found)} predictions for {len(full)} tiles")
        return found[: len(tiles)]

    def _shrink(self, failed: int) -> None:
        with self._wake:
            if self.batch == failed:  # else another lane was first
                self.batch = failed // 2
                self.notes.append(
                    f"{self.card.name}: out of memory at {failed} tiles a batch, went on with {self.batch}"
                )


def _is_out_of_memory(error: Exception) -> bool:
    # A GPU raises its own class, the CPU's allocator a plain RuntimeError.
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # of this lane: as many lanes as cores are quicker than one on all of them


_loaded: OrderedDict[Any, Network] = OrderedDict()
_lock = threading.RLock()


def open_model(model: str | Network, options: Options | None = None, precision: Precision = "auto") -> Network:
    """Return the network called `model`, loaded once and kept; a `Network` is returned as it is.

    Raises `UsageError` where there is none of that name, where its weights are missing (saying how to get or train
    them) or where the device is not there, and `FormatError` where its files are damaged.
    """
    from cellkit.models.store import find_model

    if isinstance(model, Network):
        return model
    options = options or Options()
    located = find_model(model)
    key = (located.path, _stamp(located), options, precision)
    with _lock:
        network = _loaded.get(key)
        if network is None or network._closed:
            network = _load(located, options, precision)
            _loaded[key] = network
            while len(_loaded) > _MOST_LOADED:
                _loaded.popitem(last=False)  # it goes when its last user does
        _loaded.move_to_end(key)
    return network


def forget_models() -> None:
    """Close every network that `open_model` keeps."""
    with _lock:
        while _loaded:
            _loaded.popitem()[1].close()


def _stamp(located: Any) -> tuple[str, int, int]:
    """Return what tells a model from the one that lay in its place before."""
    weights = located.weights
    if weights is None or not weights.exists():
        return located.card.dump(), 0, 0
    now = weights.stat()
    return located.card.dump(), now.st_mtime_ns, now.st_size


def _digest(located: Any) -> str:
    """Return the sha256 of the weights; for ONNX, whose card digests what it was exported from, that of the file."""
    if located.card.sha256 and not located.is_onnx:
        return str(located.card.sha256)
    with located.weights.open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _describe(device: Any) -> str:
    if device.type != "cuda":
        return "cpu"
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _load(located: Any, options: Options, precision: Precision) -> Network:
    from cellkit.models.store import load_network

    card = located.card
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    lanes = options.lanes or (2 if on_gpu else os.cpu_count() or 1)
    if options.lanes is None and options.alone and card.reach is None and not on_gpu:
        lanes = 1  # one picture, which must not be cut: all cores work on it together
    memory = options.memory if options.memory is not None else total_bytes(device) // 4
    backend: Any
    if located.is_onnx:
        from cellkit.models.onnx_file import OnnxBackend

        if precision not in ("auto", "float32"):
            raise UsageError(f"{card.name}: precision {precision}: an ONNX file has its own; use auto or float32")
        backend = OnnxBackend(located, str(device))
    else:
        module = load_network(located)
        dtype = choose_precision(precision, device, card)
        if card.task == "dense":
            from cellkit.models.inference import fold_norms
            from cellkit.models.torch_backend import TorchBackend

            backend = TorchBackend(fold_norms(module), card, device, dtype, options.compiled)
        else:
            from cellkit.models._detector import DetectorBackend

            backend = DetectorBackend(module, card, device, dtype)
    batch = options.batch or (16 if on_gpu else 1)
    network = Network(card, backend, replace(options, lanes=lanes, batch=batch, memory=memory))
    network.device = _describe(device)
    network.bytes_per_pixel = card.activation
    network.digest = _digest(located)
    network.compiled = options.compiled and card.task == "dense" and not located.is_onnx
    if not on_gpu and lanes > 1 and not located.is_onnx:
        network.on_lane = _one_thread
    return network
