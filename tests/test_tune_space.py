"""Tuning: what of a recipe is varied, and in which range."""

from __future__ import annotations

import pytest

import cellkit as ck
from cellkit.core import Span, UsageError
from cellkit.core.recipe import load
from cellkit.core.stage import Parameter
from cellkit.tune.dimension import around
from cellkit.tune.space import space
from touching_discs import SPLITTING


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
