"""Dense networks: from an image to a probability per pixel and class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cellkit.core import WHOLE, CellkitError, Fault, Image, Model, Prob, Span, stage
from cellkit.stages._model import card_of, class_names, refuse_channels, review_model

if TYPE_CHECKING:
    from cellkit.models.card import Card

__all__ = ["predict"]


def _card(params: Mapping[str, Any]) -> Card | None:
    """Return the card of the model a step names, or None where it cannot be had, of which `review_model` speaks."""
    try:
        return card_of(params["model"]) if params["model"] else None
    except CellkitError:
        return None


def _reach(params: Mapping[str, Any]) -> Any:
    card = _card(params)
    return WHOLE if card is None or card.reach is None else card.reach


def _grid(params: Mapping[str, Any]) -> int:
    card = _card(params)
    return 1 if card is None else card.divisor


def _review(params: Mapping[str, Any], before: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterable[Fault]:
    yield from review_model(params, before, "dense")
    card, halo = _card(params), params["halo"]
    if card is not None and halo is not None and halo < card.halo:
        yield Fault("halo", f"{card.name} needs at least {card.halo} px of context, got {halo}", f"halo: {card.halo}")


@stage(reach=_reach, names=class_names, grid=_grid, review=_review)
def predict(
    image: Image,
    /,
    *,
    model: Model = "",
    tta: Literal["none", "flips", "d4"] = "none",
    size: Annotated[int | None, Span(16, 100_000, "px")] = None,
    halo: Annotated[int | None, Span(0, 10_000, "px")] = None,
    blend: Literal["crop", "gaussian"] = "crop",
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> Prob:
    """Run a dense network and return a probability per pixel and class.

    `model` is a name that `cellkit models` lists, or a file or folder of weights with their card. An image of any size
    goes through in as few windows as memory allows; with the network's own reach as their halo, the result is the same
    however it is cut. `size` sets the windows' side and `halo` their context, by default that of the card. `blend`
    fades windows into one another, for networks whose context no halo covers. `tta` averages over the 4 flips or all 8
    flips and turns (d4). `precision`: `auto` takes the fastest number format that the device has in hardware and that
    the card vouches for.

    Raises `StageError` where the image's channels are not the network's, or the halo is smaller than its card's.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> prob = ck.stages.predict(ck.stages.to_rgb(image), model="nuclei")  # interior, border, distance
    >>> prob.shape
    (128, 128, 3)
    >>> bool(prob[..., 0][truth > 0].mean() > 0.5 > prob[..., 0][truth == 0].mean())
    True
    """
    from cellkit.models.dense import Tiling, predict_dense
    from cellkit.models.runtime import open_model

    network = open_model(model, precision=precision)
    refuse_channels("predict", image.shape[2], network.card)
    return predict_dense(network, image, tiling=Tiling(size, halo, blend), tta=tta)
