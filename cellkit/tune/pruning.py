"""When to give up a training whose scores so far leave it no hope among the trials before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cellkit.tune.search import Curve, Trial, quiet

if TYPE_CHECKING:
    import optuna

__all__ = ["Prune", "hopeless"]

Prune = Literal["median", "halving", "none"]

_FIRST = 4
"""Whole trainings before any is given up by the median."""
_WARM_UP = 1 / 4
"""Share of the epochs in which none is: networks that learn slowly at first are no worse in the end."""


def hopeless(done: Sequence[Trial], curve: Curve, rule: Prune, epochs: int) -> bool:
    """Tell whether to give up a training of `epochs` with the scores `curve` so far, after the trials `done`.

    ``median``: where its best score is below the median of the others' best up to the same epoch; not before four are
    through, nor in the first quarter. ``halving``: where it is not among the better half of those that came as far,
    asked after the first validation, then at twice, four times, ... as many epochs. What is decided hangs on the
    arguments alone.

    Source: Golovin et al., KDD 2017 (median stopping); Li et al., MLSys 2020, arXiv:1810.05934 (ASHA); as in Optuna.
    """
    if rule == "none" or not curve:
        return False
    import optuna

    states = optuna.trial.TrialState
    with quiet():
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=_pruner(rule, curve[0][0], epochs))
        for trial in done:
            one = study.ask()
            _replay(one, trial.curve, ask=rule == "halving")  # which notes down what it has let pass
            if trial.pruned:
                study.tell(one, state=states.PRUNED)
            elif trial.failed:
                study.tell(one, state=states.FAIL)
            else:
                study.tell(one, trial.score)
        return _replay(study.ask(), curve)


def _pruner(rule: Prune, first: int, epochs: int) -> optuna.pruners.BasePruner:
    import optuna

    if rule == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=int(_WARM_UP * epochs))
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)


def _replay(trial: optuna.Trial, curve: Curve, *, ask: bool = True) -> bool:
    """Report the best score so far, which is what a trial counts by, at every validation; return the last verdict."""
    verdict, highest = False, 0.0
    for epoch, score in curve:
        highest = max(highest, score) if math.isfinite(score) else highest
        trial.report(highest, epoch)
        verdict = ask and bool(trial.should_prune())
    return verdict
