"""Which device a network runs on, in which number format, and how much memory it may take."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

from cellkit.core import UsageError
from cellkit.models.card import Card

__all__ = ["Precision", "choose_device", "choose_precision", "parse_memory", "process_bytes", "total_bytes"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_memory(text: str) -> int:
    """Return the bytes that a text such as ``2GB``, ``1.5GiB`` or ``800M`` stands for. Raises `UsageError`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    size = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0
    if not found or not 10**6 <= size <= 2**60:
        raise UsageError(f"memory: wanted a size of at least 1MB, such as 2GB or 800MiB, got {text!r}")
    return int(size)


def choose_device(name: str = "auto") -> Any:
    """Return the ``torch.device`` for `name`: ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda``, ``cuda:1``.

    Raises `UsageError` where the name is none of these or the device is not there.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise UsageError(f"device: wanted auto, cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"device {name}: {_why_no_gpu(torch)}; use cpu or auto")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UsageError(f"device {name}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0")
    return torch.device("cuda", index)


def _why_no_gpu(torch: Any) -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "no GPU that torch can use was found"


def choose_precision(wanted: Precision, device: Any, card: Card) -> Any:
    """Return the ``torch.dtype`` in which a network computes.

    ``auto`` takes the fastest format that the device has in hardware and in which the figures of the card hold.
    Raises `UsageError` for float16 on a CPU.
    """
    import torch

    if wanted == "float16" and device.type == "cpu":
        raise UsageError("precision float16: needs a GPU; on a CPU use bfloat16 or float32")
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        fast = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        fast = "bfloat16" if native is not None and native() else "float32"
    return getattr(torch, fast if fast in card.precision else "float32")


def total_bytes(device: Any) -> int:
    """Return the memory of a device in bytes."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    limit = int(psutil.virtual_memory().total)
    try:  # a container may be allowed less than the machine has
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            text = file.read().strip()
        return min(limit, int(text)) if text.isdigit() else limit
    except OSError:
        return limit


def process_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)
