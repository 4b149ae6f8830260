"""Losses of training, against torch's own, segmentation_models_pytorch's and the formulas in numpy."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from cellkit.core import UsageError
from cellkit.train.losses import DEFAULT_LOSSES, LOSSES, build_loss, loss_faults, loss_terms
from cellkit.train.targets import DENSE_HEADS, target_maps

HEADS = {"sigmoid": ("a", "b", "c"), "softmax": ("none", "a", "b"), "border": (), "distance": ()}
EXCLUSIVE = ("softmax", "border")
FITS = [
    (name, head)
    for name, head in itertools.product(LOSSES, HEADS)
    if not (name == "bce" and head in EXCLUSIVE) and not (name == "cross_entropy" and head not in EXCLUSIVE)
]


pytestmark = pytest.mark.usefixtures("one_thread")


def case(head: str, seed: int = 0, dtype: torch.dtype = torch.float64, soft: bool = True):
    """Logits and a target of 2 pictures of 4 x 5, three channels; some pixels without weight."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 3, 4, 5, generator=draw, dtype=torch.float64)
    weight = torch.randint(0, 3, (2, 4, 5), generator=draw).float()
    if head in EXCLUSIVE:
        return logits.to(dtype), {"classes": torch.randint(0, 3, (2, 4, 5), generator=draw).byte(), "weight": weight}
    maps = torch.randint(0, 2, (2, 3, 4, 5), generator=draw).float()
    if head == "distance" and soft:
        maps[:, 2] *= torch.rand(2, 4, 5, generator=draw)
    return logits.to(dtype), {"maps": maps, "weight": weight}


def in_numpy(name: str, head: str, logits, target, **given) -> float:
    """The formula of a loss, pixel by pixel."""
    z = logits.double().numpy()
    w = target["weight"].double().numpy()[:, None]
    if head in EXCLUSIVE:
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        t = np.moveaxis(np.eye(z.shape[1])[target["classes"].numpy()], -1, 1)
    else:
        p = 1 / (1 + np.exp(-z))
        t = target["maps"].double().numpy()
    s = given.get("smooth", 1.0)
    if name in ("dice", "jaccard", "tversky", "focal_tversky"):
        m = w > 0
        both, found, true = ((np.minimum(p, t) * m), p * m, t * m)
        both, found, true = (v.sum((0, 2, 3)) for v in (both, found, true))
        if name == "dice":
            return float(np.mean(1 - (2 * both + s) / (found + true + s)))
        if name == "jaccard":
            return float(np.mean(1 - (both + s) / (found + true - both + s)))
        loss = 1 - (both + s) / (both + 0.3 * (found - both) + 0.7 * (true - both) + s)
        return float(np.mean(loss ** (0.75 if name == "focal_tversky" else 1)))
    if name in ("mse", "smooth_l1"):
        d = abs(p - t)
        each = d**2 if name == "mse" else np.where(d < 0.1, d**2 / 0.2, d - 0.05)
        return float((each * w).sum() / (w.sum() * 3))
    gamma = 2.0 if name == "focal" else 0.0
    if head in EXCLUSIVE:
        right = (p * t).sum(1, keepdims=True)
        return float((-((1 - right) ** gamma) * np.log(right) * w).sum() / w.sum())
    each = -t * (1 - p) ** gamma * np.log(p) - (1 - t) * p**gamma * np.log(1 - p)
    return float((each * w).sum() / (w.sum() * 3))


@pytest.mark.parametrize(("name", "head"), FITS)
def test_every_loss_follows_its_formula(name, head):
    for seed in range(3):
        logits, target = case(head, seed)
        got = build_loss(name, head, HEADS[head])(logits, target)
        assert got.shape == ()
        assert got.item() == pytest.approx(in_numpy(name, head, logits, target), rel=1e-6)


@pytest.mark.parametrize(("name", "head"), FITS)
def test_gradients(name, head):
    logits, target = case(head, 3, soft=name not in ("dice", "jaccard", "tversky", "focal_tversky"))
    loss = build_loss(name, head, HEADS[head])
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits.requires_grad_(), fast_mode=False)


@pytest.mark.parametrize(("name", "head"), FITS)
def test_pixels_without_weight_do_not_count(name, head):
    logits, target = case(head, 1)
    loss = build_loss(name, head, HEADS[head])
    before = loss(logits, target)
    out = (target["weight"] == 0)[:, None].expand_as(logits)
    assert out.any()
    changed = torch.where(out, -logits, logits).requires_grad_()
    after = loss(changed, target)
    assert after.item() == pytest.approx(before.item(), rel=1e-6)
    after.backward()
    assert (changed.grad[out] == 0).all()
    target["weight"][:] = 0
    nothing = loss(changed, target)
    nothing.backward()
    assert np.isfinite(nothing.item())
    assert torch.isfinite(changed.grad).all()


@pytest.mark.parametrize(("name", "head"), FITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_the_ends_of_the_numbers_and_for_empty_truth(name, head, dtype):
    spec = {"name": name, "gamma": 0.5} if name == "focal" else name
    loss = build_loss(spec, head, HEADS[head])
    for full in (0, 1):
        for size in (0.0, 60.0, 6e4):
            logits = torch.full((1, 3, 4, 4), size, dtype=dtype)
            logits[:, 1:] *= -1
            logits[..., 1] *= -1
            logits.requires_grad_()
            if head in EXCLUSIVE:
                target = {"classes": torch.full((1, 4, 4), 2 * full, dtype=torch.uint8)}
            else:
                target = {"maps": torch.full((1, 3, 4, 4), float(full))}
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(logits, target)
            assert value.dtype == torch.float32
            assert torch.isfinite(value)
            value.backward()
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "head"), FITS)
def test_going_downhill_finds_the_truth(name, head):
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 1:8] = 1
    labels[2:7, 5:8] = 2
    target = target_maps(labels, head, **({"count": 2, "classes": {1: 1, 2: 2}} if head == "softmax" else {}))
    target = {key: torch.from_numpy(values)[None] for key, values in target.items()}
    classes = ("a",) if head == "sigmoid" else HEADS[head]
    loss = build_loss(name, head, classes)
    logits = torch.zeros(1, len(classes) or 3, 9, 9, requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.3)
    first = None
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(logits, target)
        first = first if first is not None else value.item()
        value.backward()
        optimiser.step()
    assert value.item() < first
    with torch.no_grad():
        if head in EXCLUSIVE:
            assert (logits.argmax(1) == target["classes"]).float().mean() > 0.95
        else:
            far = 0.35 if name == "focal" else 0.25
            assert (logits.sigmoid() - target["maps"]).abs().mean() < far


@pytest.mark.parametrize("weights", [(), (1.0, 0.5, 3.0)])
def test_against_torch(weights):
    logits, target = case("softmax", 5)
    target = {"classes": target["classes"]}
    shares = torch.tensor(weights, dtype=torch.float64) if weights else None
    for smoothing in (0.0, 0.1):
        spec = {"name": "cross_entropy", "class_weights": weights, "smoothing": smoothing}
        got = build_loss(spec, "softmax", HEADS["softmax"])(logits, target)
        wanted = F.cross_entropy(logits, target["classes"].long(), weight=shares, label_smoothing=smoothing)
        assert got.item() == pytest.approx(wanted.item(), rel=1e-9)
    logits, target = case("sigmoid", 5)
    maps = target["maps"].double()
    got = build_loss({"name": "bce", "positive": 3.0}, "sigmoid")(logits, {"maps": maps})
    wanted = F.binary_cross_entropy_with_logits(logits, maps, pos_weight=torch.tensor(3.0))
    assert got.item() == pytest.approx(wanted.item(), rel=1e-9)
    if weights:
        got = build_loss({"name": "bce", "class_weights": weights}, "sigmoid")(logits, {"maps": maps})
        each = F.binary_cross_entropy_with_logits(logits, maps, reduction="none").mean((0, 2, 3))
        assert got.item() == pytest.approx((each @ shares / shares.sum()).item(), rel=1e-9)


def test_against_segmentation_models_pytorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from segmentation_models_pytorch import losses as smp

    for seed in range(3):
        logits, target = case("sigmoid", seed)
        maps = target["maps"].double()
        target = {"maps": maps}
        pairs = [
            # Its smooth is added to both sums of Dice, of which one is doubled here.
            ({"name": "dice", "smooth": 2.0}, smp.DiceLoss("multilabel", smooth=1.0)),
            ({"name": "dice", "smooth": 0.0}, smp.DiceLoss("multilabel")),
            ({"name": "jaccard", "smooth": 3.0}, smp.JaccardLoss("multilabel", smooth=3.0)),
            ({"name": "jaccard", "log": True}, smp.JaccardLoss("multilabel", smooth=1.0, log_loss=True)),
            ({"name": "tversky", "smooth": 0.5}, smp.TverskyLoss("multilabel", smooth=0.5, alpha=0.3, beta=0.7)),
            ({"name": "focal", "gamma": 1.5}, smp.FocalLoss("multilabel", gamma=1.5)),
            ({"name": "focal", "alpha": 0.25}, smp.FocalLoss("multilabel", alpha=0.25)),
        ]
        for spec, reference in pairs:
            got = build_loss(spec, "sigmoid")(logits, target)
            assert got.item() == pytest.approx(reference(logits, maps).item(), rel=1e-6), spec
        logits, target = case("softmax", seed)
        index = target.pop("weight") * 0 + target["classes"]
        for spec, reference in [
            ({"name": "dice", "smooth": 2.0}, smp.DiceLoss("multiclass", smooth=1.0)),
            ({"name": "jaccard", "smooth": 1.0}, smp.JaccardLoss("multiclass", smooth=1.0)),
        ]:
            got = build_loss(spec, "softmax", HEADS["softmax"])(logits, target)
            assert got.item() == pytest.approx(reference(logits, index.long()).item(), rel=1e-6), spec


def test_worked_cases():
    # p = 0.5 everywhere, 2 of 4 pixels true: sum(p t) = 1, sum(p) = 2, sum(t) = 2.
    logits = torch.zeros(1, 1, 2, 2)
    target = {"maps": torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])}
    wanted = {
        "dice": 1 - 3 / 5,
        "jaccard": 1 - 2 / 4,
        "tversky": 1 - 2 / 3,
        "focal_tversky": (1 / 3) ** 0.75,
        "bce": np.log(2),
        "focal": np.log(2) / 4,
        "mse": 0.25,
        "smooth_l1": 0.45,
    }
    for name, value in wanted.items():
        assert build_loss(name, "sigmoid")(logits, target).item() == pytest.approx(value, rel=1e-5), name
    # Weight 3 on the true pixels: (3 log 2 x 2 + log 2 x 2) / 8 for cross-entropy, whatever the scale.
    logits = torch.tensor([[[[2.0, 2.0], [2.0, 2.0]]]])
    weight = torch.tensor([[[3.0, 3.0], [1.0, 1.0]]])
    got = build_loss("bce", "sigmoid")(logits, {**target, "weight": weight}).item()
    right, wrong = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    assert got == pytest.approx((6 * right + 2 * wrong) / 8, rel=1e-5)
    assert build_loss("bce", "sigmoid")(logits, {**target, "weight": weight * 7}).item() == pytest.approx(got, rel=1e-5)


def test_a_class_that_is_absent_is_not_free_to_be_found():
    logits = torch.full((1, 1, 4, 4), 3.0)
    target = {"maps": torch.zeros(1, 1, 4, 4)}
    for name in ("dice", "jaccard", "tversky", "focal_tversky"):
        found = build_loss(name, "sigmoid")(logits, target).item()
        assert found > 0.7
        assert build_loss(name, "sigmoid")(-logits, target).item() < found


def test_sums_over_images_and_classes():
    logits, target = case("sigmoid", 2)
    target.pop("weight")
    each = [build_loss("dice", "sigmoid")(logits[i : i + 1], {"maps": target["maps"][i : i + 1]}) for i in range(2)]
    got = build_loss({"name": "dice", "over": "image"}, "sigmoid")(logits, target)
    assert got.item() == pytest.approx(sum(v.item() for v in each) / 2)
    flat = build_loss("dice", "sigmoid")(logits.reshape(2, 1, 12, 5), {"maps": target["maps"].reshape(2, 1, 12, 5)})
    got = build_loss({"name": "dice", "per": "pooled"}, "sigmoid")(logits, target)
    assert got.item() == pytest.approx(flat.item())
    single = [build_loss({"name": "jaccard", "channels": [c]}, "sigmoid", "abc")(logits, target).item() for c in "abc"]
    got = build_loss({"name": "jaccard", "class_weights": [1, 0, 3]}, "sigmoid", "abc")(logits, target)
    assert got.item() == pytest.approx((single[0] + 3 * single[2]) / 4)


def test_a_weighted_sum_over_channels_with_its_parts():
    logits, target = case("distance", 4)
    spec = [
        {"name": "bce", "channels": ["interior", "border"]},
        {"name": "mse", "channels": ["distance"], "weight": 5},
        {"name": "dice", "channels": ["interior"], "weight": 0.5, "smooth": 0.1},
        {"name": "dice", "channels": ["interior"], "weight": 0.5},
    ]
    loss = build_loss(spec, "distance")
    total = loss(logits, target)
    assert list(loss.parts) == ["bce_interior_border", "mse_distance", "dice_interior", "dice_interior_2"]
    parts = [part.item() for part in loss.parts.values()]
    assert total.item() == pytest.approx(np.dot([1, 5, 0.5, 0.5], parts))
    assert not any(part.requires_grad for part in loss.parts.values())
    only = {"maps": target["maps"][:, 2:], "weight": target["weight"]}
    assert parts[1] == pytest.approx(build_loss("mse", "sigmoid")(logits[:, 2:], only).item())
    assert "5 mse_distance" in repr(loss)
    border, wanted = case("border", 4)
    some = build_loss({"name": "dice", "channels": ["border"]}, "border")(border, wanted).item()
    p, t = torch.softmax(border, 1)[:, 2], (wanted["classes"] == 2) * (wanted["weight"] > 0)
    p = p * (wanted["weight"] > 0)
    assert some == pytest.approx((1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)).item())


@pytest.mark.parametrize("head", DENSE_HEADS)
def test_defaults_take_what_target_maps_makes(head):
    labels = np.zeros((8, 8), np.int32)
    labels[2:6, 2:6] = 3
    maps = [target_maps(labels, head), target_maps(labels * 0, head)]
    batch = {key: torch.from_numpy(np.stack([m[key] for m in maps])) for key in maps[0]}
    classes = {"sigmoid": ("nuclei",), "softmax": ("background", "nuclei")}.get(head, ())
    loss = build_loss(DEFAULT_LOSSES[head], head, classes)
    logits = torch.zeros(2, len(classes) or 3, 8, 8, requires_grad=True)
    loss(logits, batch).backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "head", "wanted"),
    [
        ("dise", "sigmoid", "did you mean 'dice'"),
        ({"name": "dice", "smoth": 1}, "sigmoid", "did you mean 'smooth'"),
        ({"name": "dice", "smooth": -1}, "sigmoid", "outside 0 to 1e"),
        ({"name": "dice", "weight": "much"}, "sigmoid", "weight: wanted number"),
        ({"weight": 1}, "sigmoid", "wanted the name of a loss"),
        (7, "sigmoid", "wanted the name of a loss"),
        ([], "sigmoid", "no loss is given"),
        ([{"name": "dice", "weight": 0}], "sigmoid", "weight 0"),
        ("bce", "border", "cross_entropy"),
        ("cross_entropy", "distance", "bce"),
        ({"name": "focal", "alpha": 0.25}, "border", "exclude one another"),
        ({"name": "cross_entropy", "channels": ["border"]}, "border", "all classes at once"),
        ({"name": "mse", "channels": ["distanse"]}, "distance", "did you mean 'distance'"),
        ({"name": "mse", "channels": ["distance", "distance"]}, "distance", "named twice"),
        ({"name": "dice", "channels": ["a"]}, "sigmoid", "without names"),
        ({"name": "dice", "class_weights": [1, 2]}, "border", "wanted 3, one a channel"),
        ({"name": "dice", "class_weights": [1, 1, 1], "per": "pooled"}, "border", "pooled"),
        ({"name": "dice", "class_weights": [0, 0, 0]}, "border", "all are 0"),
        ("dice", "boxes", "loss of its own"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(spec, head, wanted):
    found = loss_faults(spec, head)
    assert len(found) == 1
    assert wanted in str(found[0])
    with pytest.raises(UsageError, match="loss"):
        build_loss(spec, head)


def test_every_fault_is_said_at_once_and_where():
    found = loss_faults([{"name": "dice", "smoth": 1, "weight": -1}, "bce", "focl"], "sigmoid")
    assert [fault.where for fault in found] == ["loss[0].weight", "loss[0]", "loss[2]"]
    assert loss_faults(["bce", "dice"], "sigmoid") == []
    assert loss_terms("tversky", "sigmoid")[0].parameters["beta"] == 0.7


def test_targets_that_do_not_fit_are_said():
    loss = build_loss("bce", "sigmoid", ("a", "b"))
    logits = torch.zeros(1, 2, 4, 4)
    for target, wanted in [
        ({"weight": torch.ones(1, 4, 4)}, "lacks 'maps'"),
        ({"maps": torch.zeros(1, 1, 4, 4)}, "maps: wanted"),
        ({"maps": torch.zeros(1, 2, 4, 4), "weight": torch.ones(1, 1, 4, 4)}, "weight: wanted"),
    ]:
        with pytest.raises(UsageError, match=wanted):
            loss(logits, target)
    with pytest.raises(UsageError, match=r"\(n, 2, y, x\)"):
        loss(torch.zeros(1, 3, 4, 4), {"maps": torch.zeros(1, 3, 4, 4)})
    with pytest.raises(UsageError, match="classes below 3, got 0 to 3"):
        build_loss("cross_entropy", "border")(
            torch.zeros(1, 3, 2, 2), {"classes": torch.tensor([[[0, 3], [1, 1]]], dtype=torch.uint8)}
        )
    with pytest.raises(UsageError, match="2 class_weights for 3"):
        build_loss({"name": "bce", "class_weights": [1, 2]}, "sigmoid")(
            torch.zeros(1, 3, 2, 2), {"maps": torch.zeros(1, 3, 2, 2)}
        )
