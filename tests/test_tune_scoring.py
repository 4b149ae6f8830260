"""Tuning: trials that cost only what changed, layers kept between them, and what fails."""

from __future__ import annotations

import numpy as np
import pytest

import cellkit as ck
from cellkit.core import Sample, UsageError
from cellkit.core.kinds import KINDS, Boxes
from cellkit.core.recipe import load
from cellkit.metrics import PROTOCOLS, Settings
from cellkit.tune import prefix
from cellkit.tune.layers import LayerStore
from cellkit.tune.scoring import Scorer, worst
from cellkit.tune.search import Draw, Trial, propose
from cellkit.tune.space import space
from touching_discs import SPLITTING, pairs_of_discs, scorer_of, write_discs, written


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_discs(tmp_path_factory.mktemp("discs"))


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
