"""Dense networks of torch as ONNX files, checked against torch before they are written."""

from __future__ import annotations

import copy
import os
import secrets
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cellkit.core import FormatError, UsageError, WriteError
from cellkit.grid.windows import padded
from cellkit.models.card import Card
from cellkit.models.inference import Inference
from cellkit.models.onnx_file import OnnxBackend, require_onnx
from cellkit.models.onnx_header import GOLDEN_KEY
from cellkit.models.store import Located, load_network
from cellkit.models.tensorfile import CARD_KEY, CARD_SHA_KEY, text_sha
from cellkit.models.weights import read_golden

__all__ = ["export_onnx"]

TOLERANCE = 1e-4
"""The largest difference to torch, in probabilities, at which a file is written."""


def export_onnx(located: Located, path: str | Path, *, opset: int | None = None, fixed: int | None = None) -> str:
    """Write a dense model as an ONNX file from images (n, c, y, x) to probabilities; return what was compared.

    Normalisation and activation are part of the graph, and card and golden pair are in its metadata, so that the file
    is a model that `find_model` opens. Batch, height and width are free (sides: multiples of the card's divisor). With
    `fixed`, both sides are that many pixels, and cellkit moves the graph over larger images with the card's halo. The
    file is run by onnxruntime at three sizes, and written only where it is within `TOLERANCE` of torch at all.

    Raises `UsageError` where the model is no dense network or the optional packages are missing, `FormatError` where
    the network cannot be exported or gives other numbers, `WriteError` where the file cannot be written.
    """
    require_onnx("onnx", "onnxscript", "onnxruntime")
    path, card = Path(path), located.card
    if card.task != "dense":
        raise UsageError(
            f"model {located.name!r} finds {card.task}: only dense networks can be exported, as runtimes differ in "
            "what they make of a detector's suppression and cropping"
        )
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: wanted a file that ends in .onnx")
    if fixed is not None:
        card = _of_size(card, fixed)
    module = Inference(load_network(located), card).eval()
    metadata = {CARD_KEY: card.dump(), CARD_SHA_KEY: text_sha(card.dump())} | _golden(located)
    temporary = path.with_name(f".cellkit-{secrets.token_hex(8)}.onnx")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(module, card, temporary, metadata, (opset, fixed))
        said = _compare(module, Located(card.name, card, path, temporary), fixed)
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return said


def _of_size(card: Card, side: int) -> Card:
    """Return the card of a graph that takes `side` x `side` px."""
    if side < 16 or side % card.divisor:
        raise UsageError(f"fixed: wanted at least 16 px and a multiple of the divisor {card.divisor}, got {side}")
    # Context that is the whole image cannot be had: a margin of an eighth is the usual make-do.
    halo = card.halo if card.reach is not None else max(card.halo, side // 8)
    if side - 2 * padded(halo, card.divisor) < card.divisor:
        raise UsageError(f"fixed: {side} px leave nothing between two halos of {halo} px; choose a larger side")
    return replace(card, tile=side, halo=halo)


def _golden(located: Located) -> dict[str, str]:
    from safetensors.torch import save

    pair = read_golden(located)
    return {GOLDEN_KEY: b64encode(save(pair)).decode("ascii")} if pair else {}


def _write(
    module: nn.Module, card: Card, path: Path, metadata: dict[str, str], choices: tuple[int | None, int | None]
) -> None:
    opset, fixed = choices
    divisor = card.divisor
    sides = (fixed, fixed) if fixed is not None else _sides(card, None)[1]
    free: dict[int, Any] = {0: torch.export.Dim("n")}
    if fixed is None:
        free |= {2: divisor * torch.export.Dim("rows"), 3: divisor * torch.export.Dim("columns")}
    try:
        # In two steps: some networks take another path, for an older exporter, where they see that ONNX is wanted.
        example = (torch.zeros((2, card.channels, *sides)),)
        graph = torch.export.export(_exportable(module), example, dynamic_shapes=(free,))
        program = torch.onnx.export(
            graph,
            input_names=["image"],
            output_names=["probability"],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[-300:]
        fix = "" if fixed is not None else "; with a fixed size (--fixed 256) it may work"
        raise FormatError(f"model {card.name!r}: torch cannot export it: ...{text}{fix}") from error
    program.model.metadata_props.update(metadata)
    program.save(path)


def _sides(card: Card, fixed: int | None) -> list[tuple[int, int]]:
    """Return the sides at which the graph is compared: square, tall and wide."""
    if fixed is not None:
        return [(fixed, fixed)]
    divisor = card.divisor
    side = divisor * max(1, 64 // divisor)
    return [(side, side), (side + divisor, 2 * side), (2 * side, divisor * max(1, 32 // divisor))]


def _compare(module: nn.Module, located: Located, fixed: int | None) -> str:
    """Run the file and torch on the same images; return by how much they differ. Raises `FormatError` if too much."""
    card = located.card
    backend = OnnxBackend(located)
    random = torch.Generator().manual_seed(0)
    low, high = card.input_range
    worst, shapes = 0.0, []
    for count, sides in enumerate(_sides(card, fixed), 1):
        images = low + (high - low) * torch.rand((count, card.channels, *sides), generator=random)
        with torch.inference_mode():
            wanted = module(images).numpy()
        worst = max(worst, float(abs(backend(images.numpy()) - wanted).max()))
        shapes.append(" x ".join(map(str, sides)))
    backend.close()
    if not worst <= TOLERANCE:
        fix = "" if fixed is not None else "; a fixed size (--fixed 256) may do"
        raise FormatError(
            f"model {card.name!r}: the exported graph gives other numbers than torch, by up to {worst:.2g} (allowed: "
            f"{TOLERANCE:g}); nothing was written{fix}"
        )
    return f"onnxruntime and torch differ by at most {worst:.1e} at {', '.join(shapes)} px"


def _exportable(module: nn.Module) -> nn.Module:
    """Return a copy of `module` whose adaptive poolings are written so that their export fits every size."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, _Pooling(child.output_size))
    return module


class _Pooling(nn.Module):
    """Adaptive average pooling as two products of matrices; torch's own export is fixed to the size of its example."""

    def __init__(self, sides: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.sides = (sides, sides) if isinstance(sides, int) else tuple(sides)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis, count in zip((2, 3), self.sides, strict=True):
            if count == 1:
                x = x.mean(axis, keepdim=True)
            elif count is not None:
                weights = _bins(count, x.shape[axis]).to(x.dtype)
                x = weights @ x if axis == 2 else x @ weights.T
        return x


def _bins(count: int, length: int) -> torch.Tensor:
    """Return the weights (count, length) of torch's bins: bin i of k holds floor(i n / k) up to ceil((i + 1) n / k)."""
    bins = torch.arange(count)[:, None]
    at = torch.arange(length)[None]
    inside = (at >= bins * length // count) & (at < ((bins + 1) * length + count - 1) // count)
    return inside.float() / inside.sum(1, keepdim=True)
