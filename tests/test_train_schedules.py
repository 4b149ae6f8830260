"""Optimisers, schedules and running means of weights, against torch's own and worked points."""

from __future__ import annotations

import copy
import io
import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from cellkit.core import UsageError
from cellkit.train.ema import Ema
from cellkit.train.optimisers import OPTIMISERS, build_optimiser, parameter_groups
from cellkit.train.schedules import SCHEDULES, build_schedule, rate_factor

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))


def descent(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def by_torch(make, steps: int) -> list[float]:
    """The rates that a scheduler of torch gives at each step, from full rate 1."""
    optimiser = descent()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimiser)
        rates = []
        for _ in range(steps):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
    return rates


TORCH = [
    ("constant", {}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ("step", {"period": 7, "decay": 0.3}, lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
    ("milestones", {"at": [0.25, 0.5, 0.9], "decay": 0.2}, lambda o: lr_scheduler.MultiStepLR(o, [10, 20, 36], 0.2)),
    ("cosine", {"floor": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.1)),
    (
        "cosine",
        {"floor": 0.0, "warmup": 8},
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 1e-3, 1, 8), lr_scheduler.CosineAnnealingLR(o, 32)], [8]
        ),
    ),
    ("polynomial", {"power": 0.9}, lambda o: lr_scheduler.PolynomialLR(o, 40, 0.9)),
    ("restarts", {"period": 5, "growth": 2}, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2)),
    (
        "restarts",
        {"period": 6, "growth": 1, "floor": 0.2},
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 1, eta_min=0.2),
    ),
    (
        "cyclic",
        {"period": 10, "low": 0.1, "decay": 1.0},
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 5, cycle_momentum=False),
    ),
    (
        "cyclic",
        {"period": 10, "low": 0.2, "decay": 0.5, "rise": 0.3},
        lambda o: lr_scheduler.CyclicLR(o, 0.2, 1.0, 3, 7, mode="triangular2", cycle_momentum=False),
    ),
    (
        "one_cycle",
        {},
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=40, cycle_momentum=False),
    ),
    (
        "one_cycle",
        {"shape": "line", "rise": 0.4, "start": 0.1, "end": 0.01},
        lambda o: lr_scheduler.OneCycleLR(
            o, 1.0, total_steps=40, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=10,
            cycle_momentum=False,
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "make"), TORCH, ids=[f"{i}-{t[0]}" for i, t in enumerate(TORCH)])
def test_curves_are_those_of_torch(name, given, make):
    wanted = by_torch(make, 39)
    got = [rate_factor(name, step, 40, given) for step in range(39)]
    np.testing.assert_allclose(got, wanted, atol=1e-7)


def test_worked_points():
    assert rate_factor("cosine", 55, 100, {"warmup": 10, "floor": 0.0}) == pytest.approx(0.5)
    assert rate_factor("cosine", 100, 100, {"floor": 0.02}) == pytest.approx(0.02)
    assert rate_factor("cosine", 500, 100, {"floor": 0.02}) == pytest.approx(0.02)
    assert rate_factor("constant", 5, 100, {"warmup": 10}) == pytest.approx(0.5005)
    # The third cycle's peak, 0.5^2 of the way from 0.1 to 1.
    assert rate_factor("cyclic", 50, 100, {"period": 20, "low": 0.1}) == pytest.approx(0.1 + 0.9 * 0.25)
    assert rate_factor("cyclic", 60, 100, {"period": 20, "low": 0.1}) == pytest.approx(0.1)
    # Cycles of 10, 20 and 40 steps begin at 5, 15 and 35; each peak is 0.8 of the one before.
    given = {"period": 10, "growth": 2, "decay": 0.8, "warmup": 5}
    peaks = [rate_factor("restarts", step, 100, given) for step in (5, 15, 35, 75)]
    np.testing.assert_allclose(peaks, [1, 0.8, 0.64, 0.512])
    assert rate_factor("restarts", 25, 100, given) == pytest.approx(0.4)
    assert rate_factor("one_cycle", 39, 40) == pytest.approx(4e-6)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_curve_stays_between_nothing_and_full_rate(name):
    for total in (1, 2, 3, 50):
        for given in ({}, {"warmup": 5} if "warmup" in SCHEDULES.parameters(name) else {}):
            factors = [rate_factor(name, step, total, given) for step in range(2 * total + 3)]
            assert all(0 <= factor <= 1 + 1e-12 for factor in factors)


def test_plateau_is_that_of_torch():
    values = [0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.30001, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    for better, sign in (("higher", 1), ("lower", -1)):
        ours, theirs = descent(), descent()
        given = {"better": better, "decay": 0.5, "patience": 1, "cooldown": 1, "floor": 0.1, "threshold": 1e-2}
        schedule = build_schedule("plateau", ours, 100, given)
        mode = "max" if better == "higher" else "min"
        reference = lr_scheduler.ReduceLROnPlateau(theirs, mode, 0.5, 1, 0.01, cooldown=1, min_lr=0.1)
        for value in values:
            shifted = sign * value + (2 if sign < 0 else 0)
            before = ours.param_groups[0]["lr"]
            dropped = schedule.observe(shifted)
            reference.step(shifted)
            assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
            assert dropped == (ours.param_groups[0]["lr"] < before)
        assert ours.param_groups[0]["lr"] == 0.1


def test_plateau_takes_no_number_as_no_better():
    schedule = build_schedule("plateau", descent(), 10, {"patience": 1})
    assert [schedule.observe(v) for v in (math.nan, 0.5, math.nan, math.inf, 0.6)] == [False, False, False, True, False]
    assert not build_schedule("cosine", descent(), 10).observe(0.1)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("stop", [0, 4, 11])
def test_a_restored_run_goes_on_as_if_undisturbed(name, stop):
    def run(first: int, last: int, state=None):
        torch.manual_seed(1)
        model = nn.Linear(3, 1)
        optimiser = build_optimiser("sgd", model, {"rate": 0.1})
        given = {"patience": 1} if name == "plateau" else {}
        schedule = build_schedule(name, optimiser, 20, given)
        if state:
            state = torch.load(state, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])
        rates = []
        for step in range(first, last):
            rates.append([group["lr"] for group in optimiser.param_groups])
            optimiser.zero_grad()
            model(torch.full((2, 3), 0.1 * step)).square().mean().backward()
            optimiser.step()
            schedule.step()
            if step % 2:
                schedule.observe(0.5)
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        return rates, model.weight.detach().clone(), state

    rates, weights, _ = run(0, 20)
    before, _, state = run(0, stop)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    after, end, _ = run(stop, 20, file)
    assert before + after == rates
    assert torch.equal(end, weights)
    json.dumps(state["schedule"])


def test_groups_keep_their_ratio_and_the_length_may_change():
    optimiser = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}]
    )
    schedule = build_schedule("cosine", optimiser, 10, {"floor": 0.0})
    for _ in range(5):
        optimiser.step()
        schedule.step()
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.5, 0.05])
    assert schedule.rate(10) == pytest.approx(0)
    schedule.total = 20
    assert schedule.rate(10) == pytest.approx(0.5)
    assert schedule.get_last_lr() == pytest.approx([0.5, 0.05])


def test_the_state_of_another_schedule_is_refused():
    schedule = build_schedule("cosine", descent(), 10)
    with pytest.raises(UsageError, match="'step', this is 'cosine'"):
        schedule.load_state_dict(build_schedule("step", descent(), 10).state_dict())
    state = schedule.state_dict()
    state["rates"] = [1.0, 2.0]
    with pytest.raises(UsageError, match="2 groups"):
        schedule.load_state_dict(state)


def test_what_is_wrong_with_a_choice_is_said():
    with pytest.raises(UsageError, match=r"no schedule is called 'cosin'.*did you mean 'cosine'"):
        build_schedule("cosin", descent(), 10)
    with pytest.raises(UsageError, match="did you mean 'warmup'"):
        build_schedule("cosine", descent(), 10, {"warm_up": 3})
    with pytest.raises(UsageError, match=r"floor: 2.0 is outside 0 to 1"):
        rate_factor("cosine", 0, 10, {"floor": 2})
    with pytest.raises(UsageError, match="at least 1 step"):
        build_schedule("cosine", descent(), 0)
    with pytest.raises(UsageError, match="did you mean 'adam'"):
        build_optimiser("adem", network())
    found = OPTIMISERS.faults("sgd", {"rate": 0, "momentun": 0.9}, "optimiser")
    assert [fault.where for fault in found] == ["optimiser.rate", "optimiser"]
    with pytest.raises(UsageError, match=r"rate.*; .*momentun"):
        OPTIMISERS.complete("sgd", {"rate": 0, "momentun": 0.9})
    frozen = network().requires_grad_(False)
    with pytest.raises(UsageError, match="no weights to train"):
        build_optimiser("sgd", frozen)


REFERENCES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.99, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_optimisers_take_the_steps_of_torch(name):
    ours, theirs = network(), network()
    optimiser = build_optimiser(name, ours, {"rate": 0.02, "weight_decay": 0.1}, decay_all=True)
    reference = REFERENCES[name](theirs.parameters())
    image = torch.randn(2, 1, 6, 6)
    for _ in range(3):
        for model, stepper in ((ours, optimiser), (theirs, reference)):
            stepper.zero_grad()
            model(image).square().mean().backward()
            stepper.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_plain_descent_without_momentum():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimiser = build_optimiser("sgd", model, {"rate": 0.25, "momentum": 0.0, "weight_decay": 0.0})
    model(torch.ones(1, 1)).square().sum().backward()
    optimiser.step()
    assert model.weight.item() == pytest.approx(0.5)


def test_weight_decay_leaves_norms_and_biases_out():
    model = network()
    model.append(nn.LayerNorm([4, 4]))
    model[3].weight.requires_grad_(False)
    decayed, free = parameter_groups(model)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert {id(p) for p in free["params"]} == {
        id(p) for p in (model[0].bias, *model[1].parameters(), model[3].bias, *model[4].parameters())
    }
    assert free["weight_decay"] == 0
    optimiser = build_optimiser("adamw", model, {"rate": 0.1, "weight_decay": 0.5})
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(model[0].weight, before["0.weight"] * 0.95)
    for name, value in model.state_dict().items():
        if name != "0.weight":
            assert torch.equal(value, before[name])
    assert len(parameter_groups(model, decay_all=True)) == 1


def test_ema_is_that_of_torch_and_its_warm_up_is_short():
    model = network()
    ema = Ema(model, 0.9, warmup=False)
    reference = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    reference.update_parameters(model)  # the first only copies
    warm = Ema(model, 0.9)
    start, weights = model[0].bias.detach().clone(), []
    optimiser = build_optimiser("sgd", model, {"rate": 0.1})
    for _ in range(4):
        model(torch.randn(2, 1, 6, 6)).square().mean().backward()
        optimiser.step()
        ema.update(model)
        warm.update(model)
        reference.update_parameters(model)
        weights.append(model[0].bias.detach().clone())
    for name, value in reference.module.named_parameters():
        torch.testing.assert_close(ema.mean[name], value)
    wanted = start
    for step, value in enumerate(weights):
        decay = (1 + step) / (10 + step)
        wanted = decay * wanted + (1 - decay) * value
    torch.testing.assert_close(warm.mean["0.bias"], wanted)
    # Counts are copied, running means of the norms averaged.
    assert ema.mean["1.num_batches_tracked"] == 4
    assert (ema.mean["1.running_mean"] - model[1].running_mean).abs().max() > 0


def test_ema_is_lent_and_taken_back_and_restored():
    model = network()
    ema = Ema(model, 0.5)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    ema.update(model)
    own = copy.deepcopy(model.state_dict())

    def fail(lent: nn.Module) -> None:
        with ema.applied(lent):
            assert torch.equal(lent[0].weight, ema.mean["0.weight"])
            assert not torch.equal(lent[0].weight, own["0.weight"])
            raise KeyError("in the midst of a validation")

    with pytest.raises(KeyError, match="validation"):
        fail(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name])
    other = Ema(network(1), 0.5)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    assert other.updates == 1
    ema.update(model)
    other.update(model)
    for name, value in ema.mean.items():
        assert torch.equal(value, other.mean[name])
    ema.copy_to(model)
    assert torch.equal(model[3].weight, ema.mean["3.weight"])


def test_ema_keeps_small_numbers_of_half_precision():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1)
        ema = Ema(model, 0.999, warmup=False)
        model.weight.fill_(1.0078125)
    for _ in range(100):
        ema.update(model)
    assert ema.mean["weight"].dtype == torch.float32
    assert ema.mean["weight"][0, 0].item() == pytest.approx(1 + 0.0078125 * (1 - 0.999**100), rel=1e-5)


def test_ema_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="below 1"):
        Ema(network(), 1.0)
    ema = Ema(network())
    with pytest.raises(UsageError, match="another network"):
        ema.update(nn.Linear(2, 2))
    wide = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    with pytest.raises(UsageError, match="wanted"):
        ema.copy_to(wide)
