"""Whether this device gives the numbers that a model was written with: its golden pair, run again."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import torch

from cellkit.core import FormatError, UsageError
from cellkit.models.card import Card
from cellkit.models.device import choose_device
from cellkit.models.inference import Inference
from cellkit.models.onnx_header import GOLDEN_KEY, read_onnx_header
from cellkit.models.store import Located, load_network
from cellkit.models.torch_backend import without_tf32
from cellkit.models.weights import Golden, predictions, read_golden

__all__ = ["LOOSE", "TOLERANCE", "Comparison", "Verdict", "verify"]

TOLERANCE = 1e-4
"""The largest difference in a probability at float32."""
LOOSE = {"float32": TOLERANCE, "bfloat16": 0.1, "float16": 0.02}
"""The largest difference in a probability by number format: a few hundred roundings to 8 or 11 bits."""
BOX_PIXELS, BOX_SCORE, MASK_IOU = 0.5, 1e-3, 0.9
"""What boxes may differ by, in pixels and in score, and the least overlap of their masks, at float32."""

_LOOSE_SCORE = {"float32": BOX_SCORE, "bfloat16": 0.1, "float16": 0.02}
_LOOSE_PIXELS = {"float32": BOX_PIXELS, "bfloat16": 8.0, "float16": 2.0}
_SURE = 0.5  # at half precision, only boxes that a user would keep are looked for again


@dataclass(frozen=True)
class Comparison:
    """One run of the golden pair: number format, whether it `agrees`, and how large the difference was."""

    precision: str
    agrees: bool
    found: str


@dataclass(frozen=True)
class Verdict:
    """What came out on a device, one `Comparison` a number format that the card vouches for, float32 first."""

    name: str
    device: str
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        """True where this device gives the numbers of the card in every format."""
        return all(comparison.agrees for comparison in self.comparisons)


def verify(located: Located, device: str = "auto") -> Verdict:
    """Run the golden pair of a model on a device, in float32 and each other number format of its card.

    At float32 (no TF32), dense networks may differ by `TOLERANCE`; detectors must find as many boxes of the same
    classes, within `BOX_PIXELS` and `BOX_SCORE`, with masks of an IoU of at least `MASK_IOU`. At half precision see
    `LOOSE`, and of boxes only those with a score over one half count.

    Raises `UsageError` where the device is not there or the model has no golden pair, `FormatError` where its files are
    damaged.
    """
    chosen = choose_device(device)
    golden = _golden(located)
    if not golden:
        raise UsageError(f"model {located.name!r} has no golden pair to compare with; write it again with save_model")
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    if located.is_onnx:
        from cellkit.models.onnx_file import OnnxBackend

        backend = OnnxBackend(located, str(chosen))
        output = torch.from_numpy(backend(golden["input"].numpy()))
        backend.close()
        return Verdict(located.name, f"onnxruntime on {name}", (_compare(golden, {"output": output}, "float32"),))
    module = Inference(load_network(located), located.card).eval().to(chosen)
    return Verdict(
        located.name, name, tuple(_run(module, golden, chosen, p) for p in _precisions(located.card, chosen))
    )


def _precisions(card: Card, device: Any) -> list[str]:
    other = [p for p in card.precision if p != "float32" and not (p == "float16" and device.type == "cpu")]
    return ["float32", *other]


def _golden(located: Located) -> Golden:
    if located.weights is None or not located.is_onnx:
        if located.weights is None:
            load_network(located)  # says how to get the weights
        return read_golden(located)
    from safetensors import SafetensorError
    from safetensors.torch import load

    text = read_onnx_header(located.weights).metadata.get(GOLDEN_KEY, "")
    try:
        return load(b64decode(text, validate=True)) if text else {}
    except (ValueError, SafetensorError) as error:
        raise FormatError(f"{located.weights}: its golden pair is damaged: {error}") from error


def _run(module: Any, golden: Golden, device: Any, precision: str) -> Comparison:
    dtype = getattr(torch, precision)
    with without_tf32(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return _compare(golden, predictions(module, golden["input"].to(device)), precision)


def _compare(golden: Golden, found: Golden, precision: str) -> Comparison:
    if "output" in golden:
        if golden["output"].shape != found["output"].shape:
            return Comparison(precision, False, f"shape {tuple(found['output'].shape)}")
        worst = float((golden["output"] - found["output"]).abs().max())
        allowed = LOOSE[precision]
        # Written so that NaN does not agree.
        return Comparison(precision, worst <= allowed, f"largest difference {worst:.1e} (allowed: {allowed:g})")
    return _compare_boxes(golden, found, precision)


def _compare_boxes(golden: Golden, found: Golden, precision: str) -> Comparison:
    if precision != "float32":
        lost = _unmatched(_sure(golden), found, precision) + _unmatched(_sure(found), golden, precision)
        count = len(_sure(golden)["boxes"])
    elif len(golden["boxes"]) != len(found["boxes"]):
        return Comparison(precision, False, f"{len(found['boxes'])} boxes, wanted {len(golden['boxes'])}")
    else:
        lost = _unmatched(golden, found, precision) + _unmatched(found, golden, precision)
        count = len(golden["boxes"])
    return Comparison(precision, lost == 0, f"{count} boxes, {lost} without a partner")


def _sure(boxes: Golden) -> Golden:
    kept = boxes["scores"] > _SURE
    return {name: boxes[name][kept] for name in ("boxes", "labels", "scores", "masks") if name in boxes}


def _unmatched(wanted: Golden, found: Golden, precision: str) -> int:
    """Count the boxes of `wanted` that have no partner in `found`."""
    if not len(wanted["boxes"]):
        return 0
    if not len(found["boxes"]):
        return len(wanted["boxes"])
    apart = (wanted["boxes"][:, None] - found["boxes"][None]).abs().amax(2)
    score = (wanted["scores"][:, None] - found["scores"][None]).abs()
    same = (apart <= _LOOSE_PIXELS[precision]) & (score <= _LOOSE_SCORE[precision])
    same &= wanted["labels"][:, None] == found["labels"][None]
    if precision == "float32" and "masks" in wanted:
        mine, theirs = (boxes["masks"].flatten(1).float() for boxes in (wanted, found))
        both = mine @ theirs.T
        either = mine.sum(1)[:, None] + theirs.sum(1)[None] - both
        same &= (both >= MASK_IOU * either) | (either == 0)
    return int((~same.any(1)).sum())
