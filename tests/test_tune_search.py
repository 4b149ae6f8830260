"""Tuning: the search for good values, stored, repeatable, taken up again after a kill."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.core import UsageError
from cellkit.tune.dimension import Dimension
from cellkit.tune.search import STARTUP, Draw, Outcome, OutOfTime, Store, Trial, best, propose, search
from cellkit.tune.tuning import ALL

DIMENSIONS = (
    Dimension("a.x", 1.0, 0.1, 10.0, log=True),
    Dimension("b.n", 5, 1, 20, whole=True),
    Dimension("c.kind", "one", choices=("one", "two", "three")),
)


def bowl(values, _=()):
    off = abs(np.log(values["a.x"] / 3)) + abs(values["b.n"] - 12) / 10 + (values["c.kind"] != "two")
    return Outcome(1 / (1 + off))


def test_the_search_begins_with_the_defaults_finds_the_optimum_and_repeats_itself():
    found = search(DIMENSIONS, bowl, trials=60, draw=Draw(3))
    assert found[0].values == {"a.x": 1.0, "b.n": 5, "c.kind": "one"}
    assert best(found).score > 0.8 > 3 * found[0].score
    again = search(DIMENSIONS, bowl, trials=60, draw=Draw(3))
    assert [one.values for one in again] == [one.values for one in found]
    other = search(DIMENSIONS, bowl, trials=60, draw=Draw(4))
    assert [one.values for one in other] != [one.values for one in found]
    for one in found:
        assert all(one.values[d.target] in d for d in DIMENSIONS)
        assert one.values["a.x"] == float(f"{one.values['a.x']:.4g}")
        assert type(one.values["b.n"]) is int


def test_random_trials_are_spread_evenly_over_every_range():
    found = search(DIMENSIONS, bowl, trials=300, draw=Draw(3, "random"))
    assert found[0].values == {"a.x": 1.0, "b.n": 5, "c.kind": "one"}
    values = [one.values for one in found[1:]]
    logs = np.log10([one["a.x"] for one in values])
    np.testing.assert_allclose(np.histogram(logs, 4, (-1, 1))[0] / len(logs), 0.25, atol=0.08)
    assert {one["b.n"] for one in values} == set(range(1, 21))
    kinds = [one["c.kind"] for one in values]
    assert all(60 < kinds.count(kind) < 140 for kind in DIMENSIONS[2].choices)
    again = search(DIMENSIONS, bowl, trials=20, draw=Draw(3, "random"))
    assert [one.values for one in again] == [one.values for one in found[:20]]


def test_an_objective_that_runs_out_of_time_ends_the_search_with_the_trials_before():
    def limited(values, done):
        if len(done) == 3:
            raise OutOfTime
        return bowl(values)

    assert [one.number for one in search(DIMENSIONS, limited, trials=9)] == [0, 1, 2]
    given_up = [Trial(0, {}, 0.1), Trial(1, {}, 0.9, pruned=2)]
    assert best(given_up).number == 0


@pytest.mark.parametrize("at", [0, 1, 5, STARTUP + 4])
def test_a_search_that_was_killed_ends_as_an_undisturbed_one(tmp_path, at):
    undisturbed = search(DIMENSIONS, bowl, trials=STARTUP + 8, draw=Draw(1))

    def dying(values, _):
        if len(calls) == at:
            raise KeyboardInterrupt
        calls.append(values)
        return bowl(values)

    calls: list = []
    with Store(tmp_path / "s.sqlite", {"seed": 1}) as store, pytest.raises(KeyboardInterrupt):
        search(DIMENSIONS, dying, trials=STARTUP + 8, draw=Draw(1), store=(store, "fold 1"))
    with Store(tmp_path / "s.sqlite", {"seed": 1}) as store:
        before = len(calls)
        found = search(DIMENSIONS, lambda v, _: (calls.append(v), bowl(v))[1], trials=STARTUP + 8, draw=Draw(1), store=(store, "fold 1"))  # fmt: skip # noqa: E501
        assert len(calls) == STARTUP + 8
        assert before == at
        assert search(DIMENSIONS, bowl, trials=3, draw=Draw(1), store=(store, "fold 2"))[0].number == 0
    plain = [(one.number, one.values, one.score) for one in undisturbed]
    assert [(one.number, one.values, one.score) for one in found] == plain


def test_a_default_outside_the_range_is_tried_first_and_kept_for_resuming(tmp_path):
    narrow = (Dimension("a.x", 1.0, 2.0, 4.0), Dimension("c.kind", "none", choices=("one", "two")))

    def score(values, _):
        return Outcome(values["a.x"], curve=((1, 0.5), (2, values["a.x"])), note="first")

    with Store(tmp_path / "s.sqlite", {}) as store:
        first = search(narrow, score, trials=STARTUP + 3, store=(store, ALL))
        assert store.trials(ALL) == first
    assert first[0].values == {"a.x": 1.0, "c.kind": "none"}
    assert all(2 <= one.values["a.x"] <= 4 and one.values["c.kind"] != "none" for one in first[1:])


def test_the_store_refuses_trials_of_another_tuning_and_files_that_hold_none(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path, {"--seed": 1, "--as": "pixel"}) as store:
        search(DIMENSIONS, bowl, trials=2, store=(store, ALL))
    with Store(path, {"--seed": 2, "--as": "pixel"}) as store, pytest.raises(UsageError, match="--seed differ"):
        store.trials(ALL)
    with Store(path, {"--seed": 2}, fresh=True) as store:
        assert store.trials(ALL) == []
    path.write_text("no database at all, but long enough to be taken for something else" * 20)
    with pytest.raises(UsageError, match="holds no trials"):
        Store(path, {})
    with pytest.raises(UsageError, match="no such folder"):
        Store(tmp_path / "no" / "s.sqlite", {})


def test_of_equal_trials_the_first_is_best_and_no_trials_are_refused():
    assert best([Trial(0, {}, 0.5), Trial(1, {}, 0.5), Trial(2, {}, 0.4)]).number == 0
    with pytest.raises(UsageError, match="at least 1"):
        search(DIMENSIONS, bowl, trials=0)
    assert propose(DIMENSIONS, []) == {one.target: one.default for one in DIMENSIONS}


def test_what_was_tried_is_not_proposed_again_while_there_is_something_else():
    choices = Dimension("b", "x", choices=("x", "y", "z"))
    few = (Dimension("a", 1, 1, 3, whole=True), choices, Dimension("c", 0.5, choices=(0.5, 0.7)))
    for sampler in ("tpe", "random"):
        done = search(few, lambda values, _: Outcome(values["a"]), trials=14, draw=Draw(5, sampler))
        tried = {tuple(one.values.values()) for one in done}
        assert len(tried) == 14
        done = search(few, lambda values, _: Outcome(values["a"]), trials=22, draw=Draw(5, sampler))
        assert len({tuple(one.values.values()) for one in done}) <= 18
