"""Tuning: what is varied, trials that cost only what changed, held-out gains, kills, the command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import Sample, Span, UsageError
from cellkit.core.kinds import KINDS, Boxes
from cellkit.core.recipe import dump, load
from cellkit.core.stage import Parameter
from cellkit.io import find, read_labels
from cellkit.metrics import PROTOCOLS, Settings
from cellkit.tune import prefix, scoring
from cellkit.tune.dimension import Dimension, around
from cellkit.tune.layers import LayerStore
from cellkit.tune.output import headline
from cellkit.tune.scoring import Case, Means, Scorer, worst
from cellkit.tune.search import STARTUP, Draw, Outcome, OutOfTime, Store, Trial, best, propose, search
from cellkit.tune.space import space
from cellkit.tune.tuning import ALL, Fold, Gain, Options, Tuning, folds, gain, tune

SPLITTING = """
steps:
  - threshold: {value: 0.35}
  - distance
  - maxima: {min_distance: 20}
  - watershed
outputs: [labels]
"""


def disc(image, centre, radius, value):
    cv2.circle(image, centre, radius, value, -1)


def pairs_of_discs(number, side=96):
    """Return an image of touching discs, each in a dim halo, and its truth: the discs apart, without their halo."""
    rng = np.random.default_rng(number)
    image, truth = np.full((side, side), 40, np.uint8), np.zeros((side, side), np.int32)
    for row in (24, 72):
        for column in (14, 62):
            y, x = row + int(rng.integers(-6, 7)), column + int(rng.integers(-2, 5))
            centres = [(x, y), (x + 15, y)]
            for centre in centres:
                disc(image, centre, 11, 115)
            for centre in centres:
                disc(image, centre, 8, 220)
            for centre in centres:
                disc(truth, centre, 8, int(truth.max()) + 1)
    return image, truth


def written(folder, images):
    """Write images and truths, {name: (image, truth)}, and return the two folders."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name, (image, truth) in images.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), truth.astype(np.uint16))
    return folder / "images", folder / "labels"


def cases_of(images, labels, groups=None):
    def reader(name):
        return lambda _: read_labels(labels / f"{name}.png")

    return [Case(s.name, s, reader(s.name), (groups or {}).get(s.name, "")) for s in find([images])]


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    return written(folder, {f"d{i}": pairs_of_discs(i) for i in range(6)})


def scorer_of(folders, recipe=SPLITTING, vary=(), protocol="dsb2018", **more):
    searched = space(load(recipe), protocol, vary)
    means = Means(workers=2, memory=more.pop("memory", None))
    return Scorer(searched, cases_of(*folders, more.pop("groups", None)), PROTOCOLS[protocol], means=means, **more)


# ---- what is varied


@pytest.mark.parametrize(
    ("span", "kind", "value", "ends"),
    [
        (Span(0.1, 10), float, 0.9, (0.45, 1.8)),
        (Span(0.1, 10), float, 8.0, (4, 10)),
        (Span(0, 100), float, 99.0, (98, 99.5)),
        (Span(0, 1), float, 0.9, (0.8, 0.95)),
        (Span(0, 1), float, 1.0, (0.9, 1)),
        (Span(0, 1), float, 0.0, (0, 0.1)),
        (Span(-1, 1), float, -0.5, (-1, -0.25)),
        (Span(-1, 1), float, 0.0, (-0.2, 0.2)),
        (Span(0, 1e6), float, 0.0, None),
        (Span(1, 500), int, 5, (2, 10)),
        (Span(1, 500), int, 1, (1, 2)),
        (Span(0, 1e9), int, 30, (15, 60)),
        (Span(0, 1e9), int | None, None, None),
        (Span(0, 5), tuple[float, ...], (1.0,), None),
    ],
)
def test_a_number_is_varied_around_its_value_within_its_span(span, kind, value, ends):
    assert around(Parameter("p", kind, value, span), value) == (ends if ends is None else pytest.approx(ends))


def test_by_default_all_that_has_a_range_is_varied_but_not_what_comes_after_the_score():
    found = space(ck.Recipe.read("nuclei-classical"), "dsb2018")
    targets = {one.target: one for one in found.dimensions}
    assert {"gamma.gamma", "edges.sigma", "otsu.scale", "maxima.min_distance", "watershed.flood"} <= set(targets)
    assert not any(target.startswith(("measure", "rle")) for target in targets)
    assert targets["gamma.gamma"].log
    assert not targets["otsu.scale"].log
    assert targets["maxima.min_distance"].whole
    assert targets["watershed.flood"].choices == ("peaks", "basins")
    assert found.defaults["edges.sigma"] == 2
    assert any("fill_holes.area" in note for note in found.notes)
    places = [one.at for one in found.dimensions]
    assert places == sorted(places)
    assert found.apply(found.defaults).set("edges.sigma", 2.0) == found.apply(found.defaults)


def test_tiles_and_models_are_left_out_unless_named(model):
    recipe = load(
        f"steps: [{{tile: {{size: 32, halo: 16}}, steps: [{{predict: {{model: '{model}'}}}}]}}, "
        "{channel: {name: nucleus}}, {threshold: {value: 0.5}}, components]"
    )
    targets = [one.target for one in space(recipe, "dsb2018").dimensions]
    assert targets == ["predict.tta", "threshold.value", "components.connectivity"]
    named = space(recipe, "dsb2018", ["tile.size=32,64", "predict.precision"])
    assert [one.target for one in named.dimensions] == ["tile.size", "predict.precision"]
    assert [one.at for one in named.dimensions] == [0, 0]


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        ("threshold.valu", "did you mean 'value'"),
        ("treshold.value", "did you mean 'threshold'"),
        ("distance", "no parameter of distance has a range"),
        ("maxima.threshold", "no range follows"),
        ("threshold.value=2..1", "low below high"),
        ("threshold.value=1..99", "outside -10 to 10"),
        ("threshold.value=0.5", "at least two different values"),
        ("threshold.value=0.5,0.5", "at least two different values"),
        ("threshold=0.1..0.2", "belongs to one parameter"),
        ("watershed.flood=peaks,basin", "did you mean 'basins'"),
        (".value", "wanted step.param"),
        ("threshold.value=", "wanted step.param"),
    ],
)
def test_what_cannot_be_varied_is_told_with_the_fix(vary, text):
    with pytest.raises(UsageError, match=text):
        space(load(SPLITTING), "dsb2018", [vary])


def test_steps_that_do_not_count_are_ambiguous_or_given_twice_are_told():
    twice = load("steps: [{gaussian: {sigma: 1}}, {gaussian: {sigma: 2}}, {threshold: {}}, components, measure]")
    with pytest.raises(UsageError, match="2 steps are called 'gaussian'"):
        space(twice, "dsb2018", ["gaussian.sigma"])
    assert any("several steps" in note for note in space(twice, "dsb2018").notes)
    with pytest.raises(UsageError, match="after all that makes 'labels'"):
        space(twice, "dsb2018", ["measure.properties"])
    with pytest.raises(UsageError, match="given twice"):
        space(twice, "dsb2018", ["threshold.value", "threshold"])
    with pytest.raises(UsageError, match="which the recipe does not make"):
        space(load("steps: [{threshold: {}}]"), "dsb2018")
    assert space(load("steps: [{threshold: {}}]"), "pixel").layer == "mask"


# ---- the search


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


# ---- layers kept between trials


def sample_of(seed, side=40):
    rng = np.random.default_rng(seed)
    sample = Sample.of(rng.random((side, side, 2), np.float32))
    sample = sample.with_layer("mask", KINDS["mask"], rng.random((side, side)) > 0.5)
    boxes = Boxes(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32))
    return sample.with_layer("boxes", KINDS["boxes"], boxes)


@pytest.mark.parametrize(("memory", "disk"), [(10**9, 0), (0, 10**9), (30_000, 10**9)])
def test_layers_come_back_as_they_were_from_memory_and_disk(tmp_path, memory, disk):
    with LayerStore(memory, disk, tmp_path) as store:
        for seed in range(4):
            store.put("key", str(seed), sample_of(seed), lasting=True)
        for seed in range(4):
            found, wanted = store.get("key", str(seed)), sample_of(seed)
            assert list(found) == list(wanted)
            for name in ("raw", "image", "mask"):
                assert found[name].tobytes() == wanted[name].tobytes()
                assert found[name].dtype == wanted[name].dtype
                assert not found[name].flags.writeable
            assert len(found["boxes"]) == 2
        assert store.get("key", "other") is None
        assert store.get("other", "0") is None
        assert store.used <= memory
        assert bool(list(tmp_path.rglob("*.npy"))) == (memory < 10**9)
    assert not list(tmp_path.iterdir())


def test_what_was_asked_for_longest_ago_is_given_up_but_never_what_lasts_or_is_new():
    size = 40 * 40 * 9 + 48  # raw and image are one array
    with LayerStore(3 * size + 100, 0) as store:

        def there(*keys):
            return [key for key in keys if store.get(key, "a") is not None]

        store.put("base", "a", sample_of(0), lasting=True)
        store.put("one", "a", sample_of(1))
        store.put("two", "a", sample_of(2))
        store.put("three", "a", sample_of(3))  # all the others are of this round
        assert there("base", "one", "two", "three") == ["base", "one", "two"]
        assert store.full
        store.begin()
        assert there("one") == ["one"]
        store.put("three", "a", sample_of(3))
        assert there("base", "one", "two", "three") == ["base", "one", "three"]
        with LayerStore(10, 0) as small:
            small.put("base", "a", sample_of(0), lasting=True)
            assert small.get("base", "a") is None
            assert small.full


def test_the_disk_takes_only_what_is_worth_it(tmp_path):
    with LayerStore(0, 10**9, tmp_path) as store:
        store.put("quick", "a", sample_of(0), seconds=1e-5)
        store.put("slow", "a", sample_of(1), seconds=0.1)
        assert [store.get(key, "a") is not None for key in ("quick", "slow")] == [False, True]


BRACKETED = """
steps:
  - gaussian: {sigma: 1.0}
  - resize: {factor: 0.5}
    steps:
      - otsu: {scale: 1.0}
      - distance
  - maxima: {min_distance: 4}
  - threshold: {value: 0.3}
  - watershed
  - drop_small: {area: 10}
  - measure
outputs: [labels, table]
"""


@pytest.mark.parametrize("memory", [10**9, 200_000, 0])
@pytest.mark.parametrize("recipe", [SPLITTING, BRACKETED])
def test_trials_that_go_on_from_kept_layers_are_those_of_a_whole_run(discs, recipe, memory):
    with scorer_of(discs, recipe, memory=memory) as scorer:
        scorer.prepare()
        rng = np.random.default_rng(0)
        done = [Trial(i, {}, 0.0) for i in range(5)]
        for number in range(1, 5):
            values = propose(scorer.space.dimensions, done[:number], Draw(int(rng.integers(100))))
            way = scorer._route(values)
            whole = scorer.space.apply(values)
            for name, case in scorer.cases.items():
                wanted = ck.run(whole, ck.read(case.source))["labels"]
                found = scorer._runner.run(way, name, lambda n=name: scorer._read(n))
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted)
        wanted = {
            name: PROTOCOLS["dsb2018"].count(case.truth((96, 96)), ck.run(whole, ck.read(case.source))["labels"])
            for name, case in scorer.cases.items()
        }
        assert scorer.count(values, scorer.names).counts == wanted
        assert scorer.score(values, scorer.names) == (PROTOCOLS["dsb2018"].report(wanted).value, 0)


def test_a_trial_costs_only_what_changed(discs, monkeypatch):
    ran: list[str] = []
    real = prefix.execute
    monkeypatch.setattr(prefix, "execute", lambda plan, *a, **k: (ran.extend(s.spec.name for s in plan.steps), real(plan, *a, **k))[1])  # fmt: skip # noqa: E501
    reads: list[str] = []
    monkeypatch.setattr(
        Scorer, "_read", lambda self, name, real=Scorer._read: (reads.append(name), real(self, name))[1]
    )
    vary = ["median.radius=1,2", "threshold.value=0.2..0.5", "maxima.min_distance=2..30"]
    recipe = SPLITTING.replace("steps:", "steps:\n  - gaussian: {sigma: 1}\n  - median: {radius: 1}", 1)
    with scorer_of(discs, recipe, vary) as scorer:
        scorer.prepare()
        one = scorer.names[:1]
        assert ran.count("gaussian") == len(scorer.names) == len(reads)

        def steps(**values):
            ran.clear()
            scorer.count({key.replace("__", "."): value for key, value in values.items()}, one)
            return ran.copy()

        late = ["distance", "maxima", "watershed"]
        assert steps() == ["median", "threshold", *late]
        assert steps() == []  # the same values again
        assert steps(maxima__min_distance=7) == ["maxima", "watershed"]
        assert steps(threshold__value=0.4) == ["threshold", *late]  # after median as it was
        assert steps(threshold__value=0.4, maxima__min_distance=7) == ["threshold", *late]  # kept from now on
        assert steps(threshold__value=0.4, maxima__min_distance=8) == ["maxima", "watershed"]
        assert steps(median__radius=2) == ["median", "threshold", *late]
        assert steps(median__radius=2, threshold__value=0.45) == ["threshold", *late]
        assert len(reads) == len(scorer.names)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from cellkit.models import Card, measure_context, save_model
    from tiny_models import TINY, tiny

    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        card = Card("tiny", "unet-compact", "dense", 1, ("nucleus", "border"), "sigmoid", TINY["unet-compact"])
        network = tiny("unet-compact", 1, 2, seed)
        save_model(folder / f"m{seed}.safetensors", network, measure_context(network, card))
    return folder / "m0.safetensors"


def test_networks_run_once_for_each_model_that_is_tried(discs, model, monkeypatch):
    from cellkit.models import runtime

    calls: list[int] = []
    monkeypatch.setattr(runtime.Network, "submit", lambda self, tiles, real=runtime.Network.submit: (calls.append(len(tiles)), real(self, tiles))[1])  # fmt: skip # noqa: E501
    other = model.with_name("m1.safetensors")
    recipe = "steps: [predict, {channel: {name: nucleus}}, {threshold: {value: 0.5}}, components]"
    with scorer_of(discs, recipe, [f"predict.model={model},{other}", "threshold.value=0.1..0.9"]) as scorer:
        assert scorer.space.defaults["predict.model"] == str(model)
        scorer.prepare()
        found = search(scorer.space.dimensions, lambda v, _: Outcome(*scorer.score(v, scorer.names)), trials=14)
        assert {trial.values["predict.model"] for trial in found} == {str(model), str(other)}
        assert len(calls) == 2 * len(scorer.names)
    runtime.forget_models()


# ---- scores


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_image_that_failed_scores_nothing_under_every_protocol(protocol):
    _, truth = pairs_of_discs(0)
    for one in (truth, np.zeros((5, 5), np.int32), np.ones((5, 5), np.int32), np.zeros((1, 1), np.int32)):
        counts = PROTOCOLS[protocol].count(one, worst(one))
        for pooling in PROTOCOLS[protocol].poolings:
            assert PROTOCOLS[protocol].report({"a": counts}, Settings(pooling=pooling)).value == 0


def test_a_stage_that_fails_on_an_image_counts_it_as_nothing_and_goes_on(tmp_path):
    grey, truth = pairs_of_discs(0)
    folders = written(tmp_path, {"a": (grey, truth), "b": (grey, truth), "c": (np.dstack([grey] * 3), truth)})
    with scorer_of(folders, vary=["threshold.value=0.5..0.7", "maxima.min_distance=2..12"]) as scorer:
        scorer.prepare()
        good = {"threshold.value": 0.6, "maxima.min_distance": 6}
        scored = scorer.count(good, scorer.names)
        assert list(scored.failed) == ["c"]
        assert "one channel" in scored.failed["c"]
        value, failed = scorer.score(good, scorer.names)
        assert failed == 1
        assert value == pytest.approx(2 / 3, abs=0.05)
        assert scorer.score(good, ["a"]) == (pytest.approx(1, abs=0.1), 0)


def test_values_that_no_recipe_can_have_fail_on_all_images(discs):
    with scorer_of(discs) as scorer:
        assert scorer.score({"threshold.value": 99.0}, scorer.names) == (0, 6)


def test_images_that_cannot_be_scored_are_named_before_the_first_trial(tmp_path):
    grey, truth = pairs_of_discs(0)
    images, labels = written(tmp_path, {"a": (grey, truth), "b": (grey, truth[:50]), "c": (grey, truth)})
    (images / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with scorer_of((images, labels)) as scorer, pytest.raises(UsageError) as error:
        scorer.prepare()
    assert "2 of 3 images" in str(error.value)
    assert "b: its truth is 50 x 96 px, the image 96 x 96" in str(error.value)
    assert "c.png" in str(error.value)
    with pytest.raises(UsageError, match="no images"):
        Scorer(space(load(SPLITTING), "dsb2018"), [], PROTOCOLS["dsb2018"])


# ---- folds and gains


@given(st.lists(st.sampled_from(["", "", "p", "q", "r", "s", "t"]), min_size=4, max_size=40), st.integers(0, 5))
def test_folds_cut_no_group_and_hold_every_image_once(groups, seed):
    names = [f"i{i}" for i in range(len(groups))]
    units = groups.count("") + len(set(groups) - {""})
    for count in (2, 3, 4):
        if units < count:
            with pytest.raises(UsageError, match="give fewer --folds"):
                folds(names, groups, count, seed)
            continue
        parts = folds(names, groups, count, seed)
        assert sorted(name for part in parts for name in part) == sorted(names)
        assert all(parts)
        where = {name: i for i, part in enumerate(parts) for name in part}
        for group in set(groups) - {""}:
            assert len({where[n] for n, g in zip(names, groups, strict=True) if g == group}) == 1
        largest = max([groups.count(group) for group in set(groups) - {""}], default=1)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= largest
        assert parts == folds(names, groups, count, seed)


def test_tuning_finds_a_known_optimum_and_reports_the_gain_of_images_it_has_not_seen(discs):
    vary = ["threshold.value=0.2..0.8", "maxima.min_distance=2..30"]
    told: list[str] = []
    with scorer_of(discs, vary=vary) as scorer:
        scorer.prepare()
        found = tune(scorer, Options(trials=25, folds=2, seed=1), on_trial=lambda name, _: told.append(name))
        values = found.best.values
        wanted = scorer.space.apply(values)
    # The halo has 115 / 255 = 0.451, the discs 0.863; their centres lie 15 px apart.
    assert 0.451 <= values["threshold.value"] < 0.863
    assert values["maxima.min_distance"] < 15
    assert found.tuned
    assert found.recipe == wanted == load(dump(found.recipe))
    assert found.gain.low > 0.3
    assert found.gain.value == pytest.approx(found.gain.tuned - found.gain.default)
    assert found.gain.tuned > 0.9
    assert found.failed == {}
    assert told == ["fold 1"] * 25 + ["fold 2"] * 25 + [ALL] * 25
    assert "gain on held-out images +" in headline(found)


def pure_noise(number):
    """Return an image of noise, and a truth that has nothing to do with it."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (48, 48), np.uint8), rng.integers(0, 2, (48, 48)).astype(np.int32)


def test_where_nothing_can_be_gained_the_tuning_says_so(tmp_path):
    folders = written(tmp_path, {f"n{i}": pure_noise(i) for i in range(12)})
    recipe = "steps: [{gaussian: {sigma: 2}}, otsu]\noutputs: [mask]"
    settings = Settings(pooling="images")
    vary = ["gaussian.sigma=0.5..8"]
    with scorer_of(folders, recipe, vary, "pixel", settings=settings) as scorer:
        found = tune(scorer, Options(trials=12, folds=3))
        # On the images that were tuned on it seems to gain; on those held out it does not.
        assert max(best(trials).score - trials[0].score for trials in found.searches.values()) > 0.002
        assert -0.02 < found.gain.value <= 0
        assert found.gain.low <= 0 <= found.gain.high
        assert not found.tuned
        assert ALL not in found.searches
        assert found.recipe == scorer.space.recipe
        assert headline(found).startswith("tuning does not help; the recipe is written unchanged")
        forced = tune(scorer, Options(trials=12, folds=3, force=True))
        assert forced.tuned
        assert forced.gain == found.gain
        assert "only because it was asked for" in headline(forced)


def test_a_gain_below_nothing_is_told_whatever_is_written():
    trial = Trial(0, {}, 0.5)
    lost = Gain(0.5, 0.4, -0.2, 0.1, "bootstrap")
    one = Tuning(load(SPLITTING), False, lost, (Fold(3, 5, trial, 0.5, 0.4),), {}, {}, 1.0)
    assert headline(one).startswith(
        "tuning does not help; the recipe is written unchanged: gain on held-out images -0.1"
    )
    assert "only because it was asked for" in headline(replace(one, tuned=True))
    chance = replace(one, tuned=True, gain=Gain(0.4, 0.5, -0.1, 0.2, "bootstrap"))
    assert "may be chance" in headline(chance)


def test_intervals_are_drawn_over_groups_or_over_folds_where_counts_are_pooled(discs):
    groups = {f"d{i}": f"g{i // 2}" for i in range(6)}
    values = {"threshold.value": 0.6, "maxima.min_distance": 8}
    vary = ["threshold.value=0.2..0.8", "maxima.min_distance=2..30"]
    done = [Fold(2, 1, Trial(0, {}, 0), 0.5, 0.7), Fold(2, 1, Trial(0, {}, 0), 0.5, 0.9)]
    with scorer_of(discs, vary=vary, groups=groups) as scorer:
        sides = scorer.count({}, scorer.names).counts, scorer.count(values, scorer.names).counts
        found = gain(scorer, *sides, done)
        assert "3 groups of 6 images" in found.method
        scores = [[row["value"] for row in scorer.report(side).per_image] for side in sides]
        differences = np.diff(scores, axis=0)[0]
        assert found.value == pytest.approx(differences.mean())
        means = differences.reshape(3, 2).mean(axis=1)
        assert means.min() <= found.low <= found.value <= found.high <= means.max()
    with scorer_of(discs, vary=vary, protocol="pixel", groups=groups) as scorer:
        sides = scorer.count({}, scorer.names).counts, scorer.count(values, scorer.names).counts
        found = gain(scorer, *sides, done)
        half = 12.706 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)
        assert "2 folds" in found.method


def test_time_that_is_up_ends_searches_with_the_trials_they_have(discs):
    with scorer_of(discs) as scorer:
        found = tune(scorer, Options(trials=30, folds=2, seconds=0.0))
    assert [len(trials) for trials in found.searches.values()] == [1, 1]
    assert not found.tuned


def test_no_bound_on_memory_is_guessed_beyond_what_is_free():
    assert 0 < scoring._free_memory() < 2**50


# ---- the command


def invoke(*arguments, code=0):
    from cellkit_cli.main import cli

    done = CliRunner().invoke(cli, ["tune", *map(str, arguments)])
    assert done.exit_code == code, done.output + str(done.exception or "")
    return done.output


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "splitting.yaml"
    path.write_text(SPLITTING)
    return path


VARY = ("--vary", "threshold.value=0.2..0.8", "--vary", "maxima.min_distance=2..30")


def test_the_command_writes_an_ordinary_recipe_and_its_trials(discs, recipe_file, tmp_path, cellkit):
    out = tmp_path / "tuned.yaml"
    done = cellkit(
        "tune", recipe_file, *discs, "--as", "dsb2018", *VARY, "--trials", 15, "--folds", 2, "-o", out, "--json"
    )
    found = json.loads(done.stdout)
    assert found["tuned"]
    assert found["held_out"]["gain"] > 0.3
    assert (found["image_count"], found["seed"], found["trials"]) == (6, 0, 15)
    text = out.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    for word in (
        "gain on held-out images",
        str(discs[0]),
        "--as dsb2018",
        "15 trials",
        "2 folds",
        "seed 0",
        "0.35 -> ",
    ):
        assert any(word.lower() in line.lower() for line in head), word
    recipe = ck.Recipe.read(out)
    assert load(dump(recipe)) == recipe
    changed = {target: both["to"] for target, both in found["changed"].items()}
    assert recipe == space(load(SPLITTING), "dsb2018").apply({**changed})
    rows = rows_of(out.with_suffix(".csv"))
    assert [row["trial"] for row in rows] == [str(i) for i in range(15)] * 3
    assert {row["search"] for row in rows} == {"fold 1", "fold 2", ALL}
    assert rows[0]["threshold.value"] == "0.35"
    assert float(rows[0]["score"]) == pytest.approx(0, abs=0.2)
    # The recipe runs as any other, and scores what is told of it.
    cellkit("run", out, discs[0], "-o", tmp_path / "run")
    cellkit("eval", discs[1], tmp_path / "run", "--as", "dsb2018", "--json", tmp_path / "score.json")
    assert json.loads((tmp_path / "score.json").read_text())["value"] == pytest.approx(found["all_images"]["tuned"])


def test_a_killed_tuning_goes_on_and_ends_as_an_undisturbed_one(discs, recipe_file, tmp_path, cellkit, monkeypatch):
    # Other tests may have loaded plug-ins into this process; the one to be killed has none.
    monkeypatch.setattr("cellkit.core.registry._digests", {})

    def arguments(out):
        return [
            recipe_file, *discs, "--as", "dsb2018", *VARY, "--trials", 14, "--folds", 2, "--seed", 5, "-o", out
        ]  # fmt: skip

    whole, killed = tmp_path / "whole.yaml", tmp_path / "killed.yaml"
    invoke(*arguments(whole))
    command = [str(cellkit.script), "tune", *map(str, arguments(killed))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        state = killed.with_suffix(".sqlite")
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end and trials_in(state) < 3:
            time.sleep(0.02)
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert not killed.exists()
    there = trials_in(state)
    assert there >= 3
    assert "--resume goes on" in invoke(*arguments(killed), code=2)
    invoke(*arguments(killed), "--resume")
    plain = [line for line in whole.read_text().splitlines() if "Tuned by" not in line]
    assert [line for line in killed.read_text().splitlines() if "Tuned by" not in line] == plain
    rows = [rows_of(path.with_suffix(".csv")) for path in (whole, killed)]
    timeless = [[{**row, "seconds": ""} for row in found] for found in rows]
    assert timeless[0] == timeless[1]
    other = [a if a != 5 else 6 for a in arguments(killed)]
    assert "--seed differ" in invoke(*other, "--resume", code=2)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trials_in(path):
    import sqlite3

    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        return connection.execute("select count(*) from trials").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def test_parts_and_groups_of_a_table_or_of_the_data_set(discs, recipe_file, tmp_path):
    table = tmp_path / "split.csv"
    rows = [f"d{i},{'train' if i < 4 else 'val'},g{i // 2}" for i in range(6)]
    table.write_text("\n".join(["id,part,group", *rows]))
    more = ("--as", "dsb2018", *VARY, "--trials", 2, "--folds", 2, "--json")
    out = tmp_path / "t.yaml"
    text = invoke(recipe_file, *discs, *more, "--split", table, "--part", "train", "-o", out)
    found = json.loads(text[text.index("{") :])
    assert found["image_count"] == 4
    assert "2 groups of 4 images" in found["held_out"]["method"]
    assert "part train" in out.read_text()
    folder = discs[0].parent
    (folder / "split.csv").write_text(table.read_text())
    try:
        text = invoke(recipe_file, folder, folder, *more, "--part", "val", "-o", out, "--fresh", "--folds", 2, code=2)
        assert "2 folds need at least 2 groups" in text
        text = invoke(recipe_file, folder, folder, *more, "--part", "train", "-o", out, "--fresh")
        assert json.loads(text[text.index("{") :])["image_count"] == 4
    finally:
        (folder / "split.csv").unlink()
    table.write_text("id,part,group\nd0,train,g")
    text = invoke(recipe_file, *discs, *more, "--split", table, "-o", out, "--fresh", code=2)
    assert "has no row for 5 (d1, d2, d3, d4, d5)" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--vary", "threshold.val"], "did you mean 'value'"),
        (["--trials", "0"], "0 is not in the range"),
        (["--folds", "1"], "1 is not in the range"),
        (["--folds", "7"], "7 folds need at least 7 images"),
        (["--part", "train"], "no parts are known; give --split"),
        (["--group-column", "field"], "needs --split"),
        (["--resume"], "no trials to go on from"),
        (["--resume", "--fresh"], "contradict"),
        (["--time-limit", "soon"], "wanted a time such as 9m"),
        (["--time-limit", "0s"], "more than no time"),
        (["--pooling", "set"], "leave the pooling out"),
        (["-o", "tuned.txt"], "ends in .yaml"),
        (["--set", "otsu.scale=1"], "no step is called 'otsu'"),
        (["--memory", "much"], "wanted a size"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_written(discs, recipe_file, tmp_path, change, text):
    out = ["-o", tmp_path / "new.yaml"] if "-o" not in change else []
    before = set(tmp_path.iterdir())
    assert text in invoke(recipe_file, *discs, "--as", "dsb2018", "--trials", 3, *out, *change, code=2)
    assert {path.suffix for path in set(tmp_path.iterdir()) - before} <= {".sqlite"}


def test_images_without_truth_are_named_or_left_out(tmp_path, recipe_file):
    images, labels = written(tmp_path, {f"d{i}": pairs_of_discs(i, 96) for i in range(3)})
    more = (recipe_file, images, labels, "--as", "dsb2018", "--trials", 1, "--folds", 2, "-o", tmp_path / "t.yaml")
    (labels / "d1.png").unlink()
    assert "(--allow-missing leaves them out): 1 (d1)" in invoke(*more, code=2)
    text = invoke(*more, "--allow-missing", "--json")
    assert json.loads(text[text.index("{") :])["image_count"] == 2
    for path in labels.iterdir():
        path.rename(path.with_name(f"other-{path.name}"))
    assert "no image of" in invoke(*more, "--allow-missing", "--fresh", code=2)


def test_on_real_nuclei(data_folder, tmp_path):
    folder = data_folder / "dsb2018"
    with (folder / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "train" and row["modality"] == "fluor_small"]
    images = tmp_path / "images"
    images.mkdir()
    for row in rows[:12]:
        (images / f"{row['id']}.png").write_bytes((folder / "images" / f"{row['id']}.png").read_bytes())
    out = tmp_path / "tuned.yaml"
    text = invoke(
        "nuclei-classical", images, folder / "labels", "--as", "dsb2018", "--split", folder / "split.csv",
        "--trials", 5, "--folds", 2, "-o", out, "--json",
    )  # fmt: skip
    found = json.loads(text[text.index("{") :])
    assert found["image_count"] == 12
    assert found["failed"] == []
    assert found["held_out"]["default"] > 0.4
    assert ck.Recipe.read(out).outputs == ck.Recipe.read("nuclei-classical").outputs
    assert Path(out).with_suffix(".csv").read_text().count("\n") in (11, 16)
