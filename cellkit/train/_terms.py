"""The losses, one function each: of what a network gave and should have given, a number to be made small.

All are worked out in float32 at least, whatever autocast says, and finite for any finite logits, empty truth and
pixels without weight. Written here because segmentation_models_pytorch's take no weights of pixels, and its Dice,
Jaccard and Tversky count a class that is absent from a batch as right, whatever was predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from cellkit.core import Span, UsageError

__all__ = ["TERMS", "Batch"]

ClassWeights = Annotated[tuple[float, ...], Span(0, 1e6)]
Smooth = Annotated[float, Span(0, 1e6)]
Gamma = Annotated[float, Span(0, 10)]
Per = Literal["class", "pooled"]
Over = Literal["batch", "image"]


@dataclass(frozen=True)
class Batch:
    """What a loss sees: n pictures, the k channels it is about.

    `logits` and `truth` (in [0, 1]): (n, k, y, x). `weight`: (n, 1, y, x), at least 0; 0 leaves a pixel out.
    `index`: int64 (n, y, x), the class of each pixel where the channels exclude one another, else None; `logits` are
    then those of all classes. `channels`: those of the network's channels that the loss is about, in their order.
    """

    logits: Tensor
    truth: Tensor
    weight: Tensor
    index: Tensor | None = None
    channels: tuple[int, ...] = ()

    @property
    def probability(self) -> Tensor:
        """What the logits stand for, (n, k, y, x), for the channels of the loss."""
        if self.index is None:
            return torch.sigmoid(self.logits)
        return torch.softmax(self.logits, 1)[:, list(self.channels)]


def _mean(values: Tensor, weight: Tensor, shares: ClassWeights) -> Tensor:
    """Return the mean of `values` (n, k, y, x), weighted by pixel and by channel; 0 where no pixel has weight."""
    total = weight.sum() * (sum(shares) if shares else values.shape[1])
    if shares:
        values = values * values.new_tensor(shares)[:, None, None]
    return (values * weight).sum() / _positive(total)


def _positive(total: Tensor) -> Tensor:
    """Return a divisor for a sum that is 0 itself where `total` is."""
    return torch.where(total > 0, total, torch.ones_like(total))


def bce(
    batch: Batch, /, *, class_weights: ClassWeights = (), positive: Annotated[float, Span(1e-3, 1e3, log=True)] = 1.0
) -> Tensor:
    """Binary cross-entropy of each channel by itself, the mean weighted by pixel.

    `positive`: how many times as much true pixels weigh as others. The truth may lie between 0 and 1.
    """
    losses = F.binary_cross_entropy_with_logits(
        batch.logits, batch.truth, reduction="none", pos_weight=batch.logits.new_tensor(positive)
    )
    return _mean(losses, batch.weight, class_weights)


def cross_entropy(
    batch: Batch, /, *, class_weights: ClassWeights = (), smoothing: Annotated[float, Span(0, 0.5)] = 0.0
) -> Tensor:
    """Cross-entropy over classes that exclude one another, the mean weighted by pixel and by its true class.

    With weights from `TargetRules.separation` and `balance`, the energy of the U-Net (Ronneberger et al., MICCAI 2015,
    equation 1), divided by the sum of the weights. `smoothing` of the truth: Szegedy et al., CVPR 2016.
    """
    if batch.index is None:
        raise UsageError("cross_entropy is for classes that exclude one another; these channels do not: use bce")
    shares = batch.logits.new_tensor(class_weights) if class_weights else None
    losses = F.cross_entropy(batch.logits, batch.index, weight=shares, reduction="none", label_smoothing=smoothing)
    weight = batch.weight[:, 0]
    total = weight.sum() if shares is None else (weight * shares[batch.index]).sum()
    return (losses * weight).sum() / _positive(total)


def focal(
    batch: Batch,
    /,
    *,
    gamma: Gamma = 2.0,
    alpha: Annotated[float | None, Span(0, 1)] = None,
    class_weights: ClassWeights = (),
) -> Tensor:
    """Cross-entropy in which pixels already right count less, by (1 - p) to the power `gamma`.

    `alpha` weighs true pixels, 1 - `alpha` the others, each channel by itself; none where classes exclude one another.
    The mean is weighted by pixel (and by true class, where those exclude one another). Source: Lin et al., ICCV 2017,
    arXiv:1708.02002, equations 4 and 5.
    """
    if batch.index is None:
        # log p and log (1 - p) as such: their powers stay finite, as those of p would not where it is 0.
        right, wrong = F.logsigmoid(batch.logits), F.logsigmoid(-batch.logits)
        true = -torch.exp(gamma * wrong) * right * batch.truth
        false = -torch.exp(gamma * right) * wrong * (1 - batch.truth)
        losses = true + false if alpha is None else alpha * true + (1 - alpha) * false
        return _mean(losses, batch.weight, class_weights)
    logs = F.log_softmax(batch.logits, 1)
    index = batch.index[:, None]
    others = logs.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
    losses = -torch.exp(gamma * others) * logs.gather(1, index)
    weight = batch.weight
    if class_weights:
        weight = weight * batch.logits.new_tensor(class_weights)[index]
    return (losses * weight).sum() / _positive(weight.sum())


def dice(
    batch: Batch,
    /,
    *,
    smooth: Smooth = 1.0,
    per: Per = "class",
    over: Over = "batch",
    log: bool = False,
    class_weights: ClassWeights = (),
) -> Tensor:
    """1 - soft Dice: ``(2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``.

    `per`: a Dice of each class and their mean, or one of all classes `pooled`. `over`: sums over the batch, or over
    each image, and their mean. `log`: minus the logarithm instead. `class_weights`: of the mean. Pixels of weight 0
    are left out; others count alike. Source: Milletari et al., 3DV 2016, arXiv:1606.04797, with plain sums in place of
    sums of squares (Drozdzal et al. 2016, arXiv:1608.04117).
    """
    both, only, missed = _overlap(batch, per, over)
    score = _ratio(2 * both + smooth, 2 * both + only + missed + smooth)
    return _average(_loss(score, log), class_weights)


def jaccard(
    batch: Batch,
    /,
    *,
    smooth: Smooth = 1.0,
    per: Per = "class",
    over: Over = "batch",
    log: bool = False,
    class_weights: ClassWeights = (),
) -> Tensor:
    """1 - soft Jaccard: ``(sum(p t) + smooth) / (sum(p) + sum(t) - sum(p t) + smooth)``.

    The parameters are those of `dice`; `log` with `bce` is the loss of Iglovikov & Shvets 2018, arXiv:1801.05746.
    Source: Rahman & Wang, ISVC 2016; for truth between 0 and 1: Wang et al., NeurIPS 2023, arXiv:2302.05666.
    """
    both, only, missed = _overlap(batch, per, over)
    return _average(_loss(_ratio(both + smooth, both + only + missed + smooth), log), class_weights)


def tversky(
    batch: Batch,
    /,
    *,
    alpha: Annotated[float, Span(0, 1)] = 0.3,
    beta: Annotated[float, Span(0, 1)] = 0.7,
    smooth: Smooth = 1.0,
    per: Per = "class",
    over: Over = "batch",
    class_weights: ClassWeights = (),
) -> Tensor:
    """1 - Tversky index: ``(tp + smooth) / (tp + alpha fp + beta fn + smooth)``.

    `alpha` weighs what was wrongly found, `beta` what was missed; 0.5 and 0.5 are Dice (its `smooth` doubled), 1 and
    1 Jaccard. Other parameters: see `dice`. Source: Salehi et al., MLMI 2017, arXiv:1706.05721.
    """
    both, only, missed = _overlap(batch, per, over)
    return _average(1 - _ratio(both + smooth, both + alpha * only + beta * missed + smooth), class_weights)


def focal_tversky(
    batch: Batch,
    /,
    *,
    alpha: Annotated[float, Span(0, 1)] = 0.3,
    beta: Annotated[float, Span(0, 1)] = 0.7,
    gamma: Annotated[float, Span(1, 3)] = 4 / 3,
    smooth: Smooth = 1.0,
    per: Per = "class",
    over: Over = "batch",
) -> Tensor:
    """Tversky loss of each class to the power 1 / `gamma`, so that classes far from right count more.

    Source: Abraham & Khan, ISBI 2019, arXiv:1810.07842, equation 4; `alpha` and `beta` as in `tversky`.
    """
    both, only, missed = _overlap(batch, per, over)
    loss = 1 - _ratio(both + smooth, both + alpha * only + beta * missed + smooth)
    # The slope of the root is infinite at 0; there the loss is as good as it gets.
    return (loss.clamp_min(1e-6) ** (1 / gamma)).mean()


def mse(batch: Batch, /, *, class_weights: ClassWeights = ()) -> Tensor:
    """Squared difference of probability and truth, the mean weighted by pixel."""
    return _mean((batch.probability - batch.truth).square(), batch.weight, class_weights)


def smooth_l1(
    batch: Batch, /, *, beta: Annotated[float, Span(1e-4, 1, log=True)] = 0.1, class_weights: ClassWeights = ()
) -> Tensor:
    """Difference of probability and truth, squared below `beta`, the mean weighted by pixel.

    ``d^2 / (2 beta)`` where d is below `beta`, ``d - beta / 2`` beyond. Source: Girshick, ICCV 2015, arXiv:1504.08083.
    """
    losses = F.smooth_l1_loss(batch.probability, batch.truth, reduction="none", beta=beta)
    return _mean(losses, batch.weight, class_weights)


def _overlap(batch: Batch, per: Per, over: Over) -> tuple[Tensor, Tensor, Tensor]:
    """Return soft counts of pixels found, wrongly found and missed: (1 or n, k), or (1 or n, 1) where pooled.

    For truth between 0 and 1, what is found is the smaller of probability and truth, so that the best prediction is
    the truth itself (Wang et al. 2023); for truth of 0 and 1, that is their product.
    """
    counted = batch.weight > 0
    found = batch.probability
    zero = torch.zeros((), dtype=found.dtype, device=found.device)
    both = torch.where(counted, torch.minimum(found, batch.truth), zero)
    only = torch.where(counted, F.relu(found - batch.truth), zero)
    missed = torch.where(counted, F.relu(batch.truth - found), zero)
    axes = [2, 3] + ([0] if over == "batch" else []) + ([1] if per == "pooled" else [])
    sums = [values.sum(axes, keepdim=True)[:, :, 0, 0] for values in (both, only, missed)]
    return sums[0], sums[1], sums[2]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 1 where there is nothing to find and nothing found."""
    nothing = whole <= 0
    return torch.where(nothing, torch.ones_like(part), part / torch.where(nothing, torch.ones_like(whole), whole))


def _loss(score: Tensor, log: bool) -> Tensor:
    return -score.clamp_min(1e-7).log() if log else 1 - score


def _average(losses: Tensor, class_weights: ClassWeights) -> Tensor:
    """Return the mean of losses (n, k), weighted by class."""
    if not class_weights or losses.shape[1] == 1:
        return losses.mean()
    shares = losses.new_tensor(class_weights)
    return (losses * shares).sum(1).mean() / _positive(shares.sum())


TERMS: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "mse": mse,
    "smooth_l1": smooth_l1,
}
