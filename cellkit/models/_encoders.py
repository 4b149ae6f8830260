"""Encoders by name, with weights from a hub only where asked for; what all networks that have one share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cellkit.core import UsageError
from cellkit.core.errors import suggest
from cellkit.models._choices import EncoderWeights

__all__ = ["check_encoder", "drop_unused", "fetch", "hub_weights", "make_encoder", "refusing", "smp_weights"]


def check_encoder(name: str) -> None:
    """Raise `UsageError`, with a suggestion, where neither segmentation_models_pytorch nor timm has this encoder."""
    import segmentation_models_pytorch as smp
    import timm

    own = [known for known in smp.encoders.get_encoder_names() if not known.startswith("timm-")]
    base, _, tag = name.removeprefix("tu-").partition(".")
    if name in own or (name.startswith("tu-") and timm.is_model(base) and _has_tag(base, tag)):
        return
    if name.startswith("tu-") and timm.is_model(base):
        tags = ", ".join(known.partition(".")[2] for known in timm.list_pretrained(base)) or "none"
        raise UsageError(f"encoder {name!r}: timm's {base} has no weights tagged {tag!r} (it has {tags})")
    if timm.is_model(base):
        raise UsageError(f"no encoder is called {name!r}: an encoder of timm is written 'tu-{base}'")
    hint = suggest(name, [*own, *(f"tu-{known}" for known in timm.list_models())])
    where = "encoders are those of segmentation_models_pytorch, as 'resnet34', or of timm, as 'tu-resnet18'"
    raise UsageError(f"no encoder is called {name!r}; {hint or where}")


def _has_tag(base: str, tag: str) -> bool:
    import timm

    return not tag or f"{base}.{tag}" in timm.list_pretrained(base)


def make_encoder(name: str, channels: int, depth: int, encoder_weights: EncoderWeights, stride: int = 32) -> nn.Module:
    """Return an encoder that maps images to a list of features at strides 1, 2, 4 ... of `depth` halvings.

    Raises `UsageError` for an unknown encoder, one that cannot be built so, or weights that cannot be had.
    """
    import segmentation_models_pytorch as smp

    check_encoder(name)
    weights = hub_weights(name, encoder_weights)
    with refusing(name):
        return smp.encoders.get_encoder(name, in_channels=channels, depth=depth, weights=weights, output_stride=stride)


def hub_weights(name: str, encoder_weights: EncoderWeights) -> str | bool | None:
    """Return what segmentation_models_pytorch wants to hear, once the weights, if any are asked for, lie on this disk.

    Raises `UsageError` where there are none, or the hub cannot be reached.
    """
    import timm

    if encoder_weights == "none":
        return None
    if not name.startswith("tu-"):
        fetch(name, *smp_weights(name))
        return "imagenet"
    known = timm.models.get_pretrained_cfg(name.removeprefix("tu-"))
    if known is None or not known.hf_hub_id:
        raise UsageError(f"encoder {name!r} has no weights on Hugging Face's hub; {_SCRATCH}")
    fetch(name, known.hf_hub_id, None)
    return True


def smp_weights(name: str) -> tuple[str, str]:
    """Return repository and revision of the ImageNet weights of one of segmentation_models_pytorch's encoders.

    Raises `UsageError` where it has none.
    """
    import segmentation_models_pytorch as smp

    settings = smp.encoders.encoders[name]["pretrained_settings"].get("imagenet")
    if settings is None:
        raise UsageError(f"encoder {name!r} has no ImageNet weights; {_SCRATCH}")
    return settings["repo_id"], settings["revision"]


_SCRATCH = "to start from random weights, set `encoder_weights: none`"


def fetch(name: str, repository: str, revision: str | None) -> str:
    """Return the path of an encoder's weights, downloaded where they do not lie in the hub's cache yet.

    Only safetensors are fetched. Raises `UsageError` where the hub cannot be reached or has no such file.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return huggingface_hub.hf_hub_download(repository, "model.safetensors", revision=revision)
    except EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError):  # neither in the cache nor within reach
            raise UsageError(_unreachable(name, repository, error)) from error
        raise UsageError(f"encoder {name!r}: {repository} holds no safetensors; {_SCRATCH}") from error
    except _connection_errors() as error:
        raise UsageError(_unreachable(name, repository, error)) from error


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return what the hub's client raises without a connection, whichever HTTP library it was built on."""
    from huggingface_hub import errors

    return (OSError, getattr(errors, "HTTPError", OSError))


def _unreachable(name: str, repository: str, error: Exception) -> str:
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    return f"weights of encoder {name!r}: huggingface.co/{repository} cannot be reached ({reason}); {_SCRATCH}"


@contextmanager
def refusing(encoder: str) -> Iterator[None]:
    """Turn what the libraries raise for an encoder, or a file, that they cannot use in this way into a `UsageError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UsageError(
            f"weights of encoder {encoder!r} are damaged ({error}): delete them from the hub's cache"
        ) from error
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError, AttributeError, IndexError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        raise UsageError(f"encoder {encoder!r} cannot be used here: {reason}") from error


def drop_unused(network: nn.Module, probe: Callable[[], Any]) -> None:
    """Replace every part of `network` that `probe()`, which returns tensors of its making, does not hang on.

    Encoders are made whole, and those of fewer levels leave some of it idle: weights that would be stored, and handed
    to the optimiser, for nothing.
    """
    training = {module: module.training for module in network.modules()}
    network.eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.enable_grad():
        total = sum(tensor.sum() for tensor in probe())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    used = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    _prune(network, used)
    for module, mode in training.items():
        module.training = mode


def _prune(module: nn.Module, used: set[int]) -> None:
    for name, child in module.named_children():
        held = [id(p) for p in child.parameters()]
        if held and not used.intersection(held):
            setattr(module, name, nn.Identity())
        else:
            _prune(child, used)
