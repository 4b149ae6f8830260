"""Networks to and from files: safetensors with a card and a golden pair, never a pickle."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cellkit.core import FormatError, UsageError, WriteError
from cellkit.grid.windows import padded
from cellkit.models.architecture import build, find
from cellkit.models.card import Card
from cellkit.models.inference import Inference
from cellkit.models.store import CARD_FILE, WEIGHTS_FILE, Located
from cellkit.models.tensorfile import CARD_KEY, CARD_SHA_KEY, TensorFile, digest, read_header, text_sha

__all__ = ["Golden", "load_network", "predictions", "read_golden", "rebuild", "save_model"]

MODEL, GOLDEN = "model.", "golden."
GOLDEN_SHA_KEY = "cellkit_golden_sha256"
_FROM_HUB = ("encoder_weights", "backbone_weights", "weights")
_SHOWN = 3

_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Golden = dict[str, torch.Tensor]
"""A recorded run: ``input`` (1, c, y, x) and what came out, as `predictions` gives it."""


def save_model(
    path: str | Path,
    network: nn.Module,
    card: Card,
    *,
    golden: bool = True,
    dtype: Literal["float32", "float16"] | str = "float32",
) -> Card:
    """Write a network and its card; return the card as written.

    A `path` that ends in .safetensors becomes one file that holds everything; any other a folder with card.json and
    weights.safetensors. The card's parameters are completed, those that would fetch weights from a hub set to none;
    its divisor, activation and sha256 are filled in. With `dtype` float16 the tensors are stored as such, half the
    size; they are float32 again once loaded. With `golden`, a small input and what the network as stored makes of it
    on a CPU are written too, for `cellkit models verify`. `network` is left as it is, on its device and in its mode.

    Raises `UsageError` where `network` is not what the card's architecture and parameters build; `FormatError` for
    tensors that are not finite; `WriteError` where the file cannot be written.
    """
    path = Path(path)
    card = _completed(card)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype: wanted float32 or float16, got {dtype!r}")
    stored = {name: _stored(tensor, getattr(torch, dtype)) for name, tensor in network.state_dict().items()}
    again = rebuild(card)
    problem = _mismatch(stored, again)
    if problem:
        raise UsageError(
            f"{path}: the network is not what architecture {card.architecture!r} builds with the card's parameters, "
            f"{card.channels} channels and {len(card.classes)} classes: {problem}"
        )
    _check_finite(stored, str(path))
    again.load_state_dict(stored)
    card = replace(card, sha256=digest(_described(stored)), activation=_activation(card, again))
    tensors = {f"{MODEL}{name}": tensor for name, tensor in stored.items()}
    metadata = {CARD_KEY: card.dump(), CARD_SHA_KEY: text_sha(card.dump())}
    if golden:
        images = _golden_input(card)
        pair = {"input": images, **predictions(Inference(again, card).eval(), images)}
        metadata[GOLDEN_SHA_KEY] = digest(_described(pair))
        tensors |= {f"{GOLDEN}{name}": tensor for name, tensor in pair.items()}
    _write(path, card, tensors, metadata)
    return card


def rebuild(card: Card) -> nn.Module:
    """Return the network that the card describes, in evaluation mode, its tensors not yet those of the card.

    Nothing is fetched from a hub, and the state of torch's random numbers stays what it was.
    """
    # Of the CPU alone: with the default, each CUDA device would be started just to ask for its state.
    with torch.random.fork_rng(devices=[]), _WithoutInit():
        return build(card.architecture, card.channels, len(card.classes), _without_hub(card)).eval()


def load_network(located: Located) -> nn.Module:
    """Return the network of a model: float32, on the CPU, in evaluation mode.

    Raises `UsageError` where the weights or the architecture are missing, `FormatError` where the weights are not
    those of the card, or damaged.
    """
    card = located.card
    if located.weights is None:
        raise UsageError(f"model {located.name!r}: {located.path} has the card but not the weights: {located.remedy}")
    if located.is_onnx:
        raise UsageError(f"{located.path}: an ONNX file, which is run by onnxruntime and gives no torch network")
    where = str(located.weights)
    tensors = _read(read_header(located.weights), MODEL)
    if not tensors:
        raise FormatError(f"{where}: holds no tensor whose name begins with {MODEL!r}; write it with save_model")
    found = digest(_described(tensors))
    if card.sha256 and found != card.sha256:
        raise FormatError(
            f"{where}: not the weights of the card: sha256 {found[:12]}..., the card says {card.sha256[:12]}...; the "
            "file is damaged or of another version; fetch it again"
        )
    find(card.architecture)  # a plug-in that is missing is not the file's fault
    try:
        network = rebuild(card)
    except UsageError as error:
        raise FormatError(f"{where}: its card cannot be built: {error}") from error
    problem = _mismatch(tensors, network)
    if problem:
        raise FormatError(f"{where}: not the tensors of architecture {card.architecture!r}: {problem}")
    _check_finite(tensors, where)
    network.load_state_dict(tensors)
    return network.float().eval()


def read_golden(located: Located) -> Golden:
    """Return the golden pair of a model; empty where it has none. Raises `FormatError` where it is damaged."""
    if located.weights is None or located.is_onnx:
        return {}
    header = read_header(located.weights)
    pair = _read(header, GOLDEN)
    if pair and header.metadata.get(GOLDEN_SHA_KEY) != digest(_described(pair)):
        raise FormatError(f"{located.weights}: its golden pair is damaged (sha256 differs); fetch it again")
    return pair


def predictions(inference: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run an `Inference` on images (1, c, y, x); return its output as tensors on the CPU.

    Dense: ``output`` (1, k, y, x). Detectors: ``boxes`` (n, 4), ``labels`` (n,), ``scores`` (n,) and, with masks,
    ``masks`` (n, y, x), uint8, 1 where the mask is above one half.
    """
    with torch.inference_mode():
        out = inference(images)
    if isinstance(out, torch.Tensor):
        return {"output": out.float().cpu().clone()}
    found = {name: out[0][name].cpu().clone() for name in ("boxes", "labels", "scores")}
    if "masks" in out[0]:
        found["masks"] = (out[0]["masks"][:, 0] > 0.5).to(torch.uint8).cpu()
    return found


class _WithoutInit(TorchFunctionMode):
    """Leaves out torch.nn.init's random fillings, which take most of the time of building, as all is loaded over."""

    _skipped = (nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped:
            tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **kwargs)


def _completed(card: Card) -> Card:
    spec = find(card.architecture)
    if spec.task != card.task:
        raise UsageError(f"card {card.name!r}: task {card.task!r}, but architecture {spec.name!r} does {spec.task!r}")
    parameters = _without_hub(card)
    return replace(card, parameters=parameters, divisor=spec.divisor(parameters))


def _without_hub(card: Card) -> dict[str, Any]:
    """Return the parameters in full, without those that fetch weights from a hub: they are loaded over anyway."""
    spec = find(card.architecture)
    given = {name: value for name, value in card.parameters.items() if name not in _FROM_HUB}
    full = spec.complete(given)
    for name in _FROM_HUB:
        if name in full:
            full[name] = spec.parameters[name].coerce("none" if "none" in spec.parameters[name].choices else None)
    return full


def _activation(card: Card, network: nn.Module) -> float:
    """Return the bytes of activations a pixel, so that nobody who loads the network has to measure them again."""
    from cellkit.models.probe import activation_bytes

    if card.task != "dense":
        return 0.0
    side = card.divisor * max(1, 256 // card.divisor)
    return round(activation_bytes(network, card.channels, side) / side**2, 1)


def _stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a copy on the CPU, by itself in memory, its floats as `dtype`."""
    plain = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
    return plain.clone(memory_format=torch.contiguous_format)


def _described(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
    """Yield name, type, shape and bytes, as `digest` takes them."""
    for name, tensor in tensors.items():
        plain = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        yield name, _NAMES[tensor.dtype], tuple(tensor.shape), plain.data


def _mismatch(tensors: Mapping[str, torch.Tensor], network: nn.Module) -> str:
    """Return how tensors differ from those of `network` in name or shape, or an empty string."""
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in tensors]
    surplus = [name for name in tensors if name not in wanted]
    shaped = [
        f"{name} is {_sides(tensors[name])}, wanted {_sides(wanted[name])}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    parts = (("missing", missing), ("unknown", surplus), ("of another shape", shaped))
    return "; ".join(f"{_first(names)} {what}" for what, names in parts if names)


def _sides(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise FormatError(
            f"{where}: not finite: {_first(bad)}; the training went astray, or the numbers do not fit the type"
        )


def _read(header: TensorFile, prefix: str) -> dict[str, torch.Tensor]:
    """Read the tensors whose names begin with `prefix`, which is left off."""
    found = {}
    with header.path.open("rb") as file:
        for name, place in header.tensors.items():
            if not name.startswith(prefix):
                continue
            if place.dtype not in _DTYPES:
                raise FormatError(f"{header.path}: tensor {name!r}: type {place.dtype} is not used by any network here")
            dtype = _DTYPES[place.dtype]
            data = header.read(file, name)
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            found[name[len(prefix) :]] = flat.reshape(place.shape)
    return found


def _golden_input(card: Card) -> torch.Tensor:
    """Return a picture with smooth blobs and noise in the card's input range, the same on every machine."""
    least = 128 if card.task != "dense" else 64
    side = padded(least, card.divisor)
    random = torch.Generator().manual_seed(0)
    axis = torch.arange(side, dtype=torch.float32)
    picture = 0.1 * torch.rand((card.channels, side, side), generator=random)
    for y, x, radius in torch.rand((12, 3), generator=random).tolist():
        size = side * (0.03 + 0.07 * radius)
        blob = torch.exp(-(((axis - y * side) / size) ** 2))[:, None] * torch.exp(-(((axis - x * side) / size) ** 2))
        picture += 0.9 * blob
    low, high = card.input_range
    return (low + (high - low) * picture.clamp(0, 1))[None]


def _write(path: Path, card: Card, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    single = path.suffix.lower() == ".safetensors"
    if single and path.is_dir():
        raise WriteError(f"{path}: cannot be written: there is a folder of that name (choose another name)")
    try:
        (path.parent if single else path).mkdir(parents=True, exist_ok=True)
        with _whole(path if single else path / WEIGHTS_FILE) as temporary:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        if not single:
            with _whole(path / CARD_FILE) as temporary:
                temporary.write_text(card.dump() + "\n", encoding="utf-8", newline="")
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path`, or is removed where that fails."""
    temporary = path.with_name(f".cellkit-{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # as any new file has: safetensors writes one that its owner alone may read
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
