"""A training in several processes, one a device: who there is, and what they must agree on.

Each process makes its share of every batch, and the slopes are averaged over all, so that a step is that of one process
with the whole batch, but for what the network itself takes over a batch (batch normalisation). Whatever is decided by a
clock, by a score or by a file is decided by the first process and told to the others: where they went separate ways,
each would wait for the others for ever.
"""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from cellkit.core import UsageError
from cellkit.train.config import LoopRules

__all__ = ["Ranks", "average", "choose_ranks", "end_others", "end_with", "everywhere", "level", "shared", "strategy_of"]

T = TypeVar("T")

_PATIENCE = timedelta(hours=6)
"""How long the others wait while the first process validates or scores."""
_GRACE = 10.0
_STARTED_BY = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where torchrun, SLURM and LSF write the number of a process among all."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training: `devices` on each of `nodes` machines, and Lightning's `strategy` for them."""

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    @property
    def world(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes

    @property
    def leads(self) -> bool:
        """Whether this process is the first, which alone writes and speaks."""
        if self.world == 1:
            return True
        if _together():
            return int(distributed.get_rank()) == 0
        for name in _STARTED_BY:
            if os.environ.get(name, "").isdecimal():
                return int(os.environ[name]) == 0
        # Lightning starts the others of a machine itself; of several machines the first is number 0.
        return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def choose_ranks(loop: LoopRules, device: torch.device) -> Ranks:
    """Return the processes that `loop` asks for on devices such as `device`.

    Raises `UsageError` where there are fewer GPUs, where the batch cannot be shared out evenly, or where nothing says
    which of several machines this one is.
    """
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    devices = there if loop.devices == "auto" else int(loop.devices)
    if device.type == "cuda" and devices > there:
        raise UsageError(f"loop.devices: {devices} GPUs are asked for, this machine has {there}; give at most {there}")
    if devices > 1 and device.index:
        raise UsageError(
            f"device cuda:{device.index}: is one GPU, loop.devices asks for {devices}; say `--device cuda`"
        )
    ranks = Ranks(devices, loop.nodes, loop.strategy)
    if loop.batch % ranks.world:
        near = max(1, round(loop.batch / ranks.world)) * ranks.world
        raise UsageError(
            f"loop.batch: {loop.batch} crops cannot be shared out evenly among {ranks.world} processes; e.g. {near}"
        )
    names = ("NODE_RANK", "GROUP_RANK", *_STARTED_BY)
    if loop.nodes > 1 and not any(name in os.environ for name in names):
        raise UsageError(
            f"loop.nodes: {loop.nodes} machines; start the same command on each by srun or torchrun, or with NODE_RANK "
            "(0, 1, ...), MASTER_ADDR and MASTER_PORT of the first set in its environment"
        )
    return ranks


def strategy_of(ranks: Ranks) -> Any:
    """Return the strategy as Lightning takes it; for several processes always one that averages slopes (DDP)."""
    if ranks.world == 1:
        return "auto"
    from lightning.pytorch.strategies import DDPStrategy

    return DDPStrategy(timeout=_PATIENCE, find_unused_parameters=ranks.strategy == "ddp_find_unused_parameters_true")


def _together() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)


def shared(value: T) -> T:
    """Return what the first process gives as `value`; every process must call it."""
    if not _together():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def everywhere(fine: torch.Tensor) -> torch.Tensor:
    """Return whether all is `fine`, a truth value, in every process; every process must call it, none waits for it."""
    if not _together():
        return fine
    told = fine.to(torch.int32)
    distributed.all_reduce(told, distributed.ReduceOp.MIN)
    return told


def average(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return the mean of each of `values` over the processes, which all have the same keys."""
    if not _together():
        return dict(values)
    sums = torch.tensor([values[key] for key in values], dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / distributed.get_world_size()).tolist(), strict=True))


@torch.no_grad()
def level(tensors: Iterable[torch.Tensor]) -> None:
    """Give `tensors` the values that they have in the first process, where each has counted its own (running means)."""
    if _together():
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


_started: list[subprocess.Popen[Any]] = []


def end_with(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """See to it that `processes`, which Lightning has started for the other devices, do not outlive this one."""
    if processes and not _started:
        atexit.register(end_others, _GRACE)
    _started.extend(process for process in processes if process not in _started)


def end_others(grace: float = 0.0) -> None:
    """End the processes that wait for this one, after so many seconds in which they may end by themselves."""
    for process in _started:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.terminate()
