"""Check: every fault at once with a suggestion, binding by the rules, and no recipe that crashes it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import Boxes, Image, Prob, Recipe, check, registry, stage
from cellkit.core.check import bind
from cellkit.core.errors import Fault, suggest
from cellkit.core.recipe import load, parse, shipped
from cellkit.core.stage import spec_of


@stage(reach=0)
def net(image: Image, /) -> Prob:
    """Stand in for a network."""
    return np.clip(image, 0, 1)


@stage()
def several(first: Prob, /, *rest: Prob) -> Prob:
    """Take several."""
    return first


@stage()
def find(image: Image, /) -> Boxes:
    """Make boxes."""
    n = np.zeros(0, np.float32)
    return Boxes(n.reshape(0, 4), n, n.astype(np.int32))


@pytest.fixture(autouse=True)
def more_stages(monkeypatch):
    registry.stages()
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    for function in (net, several, find):
        registry.add(spec_of(function))


def bindings(text: str) -> list[str]:
    plan = bind(load(text))
    assert [str(f) for f in plan.faults if not f.warning] == []
    return [step.describe() for _, step in plan.walk()]


def faults(text: str) -> str:
    recipe, structural = parse(text)
    return "\n".join(map(str, [*structural, *bind(recipe).faults]))


def test_the_example_of_the_design_binds():
    assert bindings("""
steps:
- grayscale
- dark_background
- tile: {size: 128, halo: 64, pad: reflect}
  steps:
  - net
- otsu
- fill_holes
- drop_small: {area: 10}
- distance
- maxima: {min_distance: 5}
- watershed
- measure
- rle
outputs: [labels, rle, table, overlay]
""") == [
        "image -> image",
        "image, histogram of image -> image",
        "frame -> prob",
        "image -> prob",
        "prob, histogram of prob -> mask",
        "mask -> mask",
        "mask -> mask",
        "mask -> field",
        "field -> seeds",
        "field, seeds, mask -> labels",
        "labels, raw -> table",
        "labels -> rle",
    ]


def test_otsu_takes_the_image_in_a_classical_recipe_and_the_prob_after_a_network():
    assert bindings("steps: [grayscale, otsu]")[1] == "image, histogram of image -> mask"
    assert bindings("steps: [grayscale, net, sharpen, otsu]")[3] == "prob, histogram of prob -> mask"


def test_a_union_takes_the_newest_layer_of_its_kinds():
    assert bindings("steps: [grayscale, otsu, distance, gaussian]")[3] == "field -> field"
    assert bindings("steps: [grayscale, otsu, components, drop_small]")[3] == "labels -> labels"


def test_in_and_out():
    text = "steps:\n- grayscale\n- otsu:\n  out: cells\n- components:\n  in: cells\n  out: objects_1\n"
    text += "- measure:\n  out: big"
    assert bindings(text)[1:] == ["image, histogram of image -> cells", "cells -> objects_1", "objects_1, raw -> big"]
    text = "steps:\n- gaussian:\n  in: raw\n  out: soft\n- threshold:\n  in: {image: soft}"
    assert bindings(text) == ["raw -> soft", "soft -> mask"]
    assert bindings("steps:\n- gaussian:\n  in: raw")[0] == "raw -> image", "raw itself is never written"


def test_variadic_takes_the_rest():
    text = "steps:\n- net\n- net:\n  out: second\n- several:\n  in: [prob, second]"
    assert bindings(text)[2] == "prob, second -> prob"


def test_prob_serves_as_field():
    assert bindings("steps: [net, maxima]")[1] == "prob -> seeds"


TWO = "steps:\n- grayscale\n- otsu\n- components:\n  out: cells\n- components:\n  out: nuclei\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [otzu]", "steps[0] otzu: no stage is called 'otzu' (did you mean 'otsu'?)"),
        ("steps: [gaussian: {sigm: 1}]", "no parameter 'sigm' (did you mean 'sigma'?)"),
        ("steps: [gaussian: {sigma: -1}]", "steps[0] gaussian.sigma: -1.0 is outside"),
        ("steps: [gaussian: {sigma: wide}]", "wanted number, got 'wide'"),
        ("steps: [watershed]", "'seeds' wants Labels"),
        ("steps: [grayscale, otsu, distance, watershed]", "'seeds' wants Labels"),
        ("steps: [grayscale, otsu, distance, watershed]", "made by: maxima"),
        ("steps: [measure: {pixel_size: [1, 1]}, otsu]", "is filled in from the image"),
        ("steps:\n- otsu:\n  steps: [grayscale]", "takes no inner `steps:`"),
        ("steps: [tile]", "a bracket needs inner `steps:`"),
        ("steps:\n- tile:\n  in: image\n  steps: [net]", "a bracket takes no `in:`"),
        (
            "steps:\n- grayscale\n- otsu\n- components\n- pad: {multiple: 8}\n  steps: [measure]",
            "makes the table 'table' inside the bracket",
        ),
        ("steps:\n- gaussian:\n  in: imag", "there is no layer 'imag' yet (did you mean 'image'?)"),
        ("steps:\n- grayscale\n- otsu\n- gaussian:\n  in: mask", "layer 'mask' is Mask"),
        ("steps:\n- gaussian:\n  in: {img: image}", "no layer argument 'img' (did you mean 'image'?)"),
        ("steps:\n- gaussian:\n  in: [image, raw]", "takes 1 layers (image), got 2"),
        ("steps:\n- gaussian:\n  in: {image: [image, raw]}", "takes one layer"),
        ("steps:\n- gaussian:\n  out: raw", "'raw' is the image as it was read"),
        ("steps:\n- grayscale\n- otsu:\n  out: image", "layer 'image' is Image; this step makes Mask"),
        ("steps:\n- gaussian:\n  out: a/b", "is no layer name"),
        ("steps:\n- gaussian:\n  out: overlay", "a run's own output"),
        (TWO + "- subtract", "take the same kind of layer (say which: `in: {"),
        ("steps: [grayscale, otsu]\noutputs: [labels]", "outputs labels: no step makes 'labels'"),
        ("steps: [grayscale, otsu]\noutputs: [mas]", "did you mean 'mask'"),
        ("steps: [grayscale]\noutputs: [overlay]", "needs a layer of kind labels or mask"),
    ],
)
def test_faults(text, said):
    assert said in faults(text)


def test_every_fault_in_one_pass_and_none_that_follows_from_another():
    found = faults(
        "steps:\n- grayscal\n- gaussian: {sigma: 0, foo: 1}\n- otsu\n- distanc\n- maxima\n- watershed\noutputs: [labls]"
    )
    assert found.count("\n") == 3, found
    for word in ("grayscal", "sigma", "foo", "distanc"):
        assert word in found


def test_warnings_do_not_stop_a_run():
    plan = bind(load("steps:\n- grayscale\n- tile: {size: 64, halo: 1}\n  steps: [{gaussian: {sigma: 3}}]"))
    assert all(fault.warning for fault in plan.faults)
    text = "\n".join(map(str, plan.faults))
    assert "the halo is 1 px" in text
    assert "halo: 12" in text
    assert "no new layer leaves this bracket" in text


def test_outputs_default_to_what_a_user_wants():
    assert bind(load("steps: [grayscale, otsu, distance, maxima, watershed, measure]")).outputs == ("labels", "table")
    assert bind(load("steps: [grayscale, otsu]")).outputs == ("mask",)
    assert bind(load("steps: [grayscale]")).outputs == ("image",)


def test_resolved_names_every_default():
    plan = bind(load("steps: [grayscale, {tile: {size: 64}, steps: [gaussian, net]}, otsu]"))
    resolved = plan.resolved()
    assert set(resolved.steps[1].steps[0].params) == set(registry.get("gaussian").parameters)
    again = bind(resolved)
    assert again.faults == plan.faults
    assert again.resolved() == resolved
    assert load(resolved.dump()) == resolved


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_check(name):
    assert check(name) == []


def test_check_takes_a_recipe_or_its_source(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("steps: [otzu]\nfoo: 1")
    assert len(check(str(path))) == 2
    assert len(check(Recipe.load("steps: [otzu]"))) == 1
    assert len(check(Recipe())) == 1


WORDS = ["otsu", "image", "raw", "labels", "", None, 0, -1, 1e400, True, [], {}, [["a"]], {"in": "image"}, "a" * 300]


@st.composite
def mutated(draw):
    """A shipped recipe's data with parts replaced, removed, doubled or swapped at random places."""
    data = copy.deepcopy(yaml.safe_load(load_text(draw(st.sampled_from(sorted(shipped()))))))
    for _ in range(draw(st.integers(1, 6))):
        place = data
        for _ in range(draw(st.integers(0, 5))):
            if isinstance(place, dict) and place:
                key = draw(st.sampled_from(sorted(place, key=str)))
            elif isinstance(place, list) and place:
                key = draw(st.integers(0, len(place) - 1))
            else:
                break
            if not isinstance(place[key], (dict, list)):
                break
            place = place[key]
        change(draw, place)
    return yaml.safe_dump(data)


def load_text(name: str) -> str:
    return shipped()[name].read_text(encoding="utf-8")


def change(draw, place):
    word = draw(st.sampled_from([*WORDS, *registry.stages()]))
    if isinstance(place, list):
        action = draw(st.sampled_from(["drop", "set", "insert", "swap"]))
        at = draw(st.integers(0, max(0, len(place) - 1)))
        if action == "insert" or not place:
            place.insert(at, copy.deepcopy(word))
        elif action == "drop":
            del place[at]
        elif action == "set":
            place[at] = copy.deepcopy(word)
        else:
            place[at], place[-1] = place[-1], place[at]
    elif isinstance(place, dict):
        keys = [*sorted(place, key=str), "in", "out", "name", "steps", "sigma", "area"]
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()) and key in place:
            del place[key]
        else:
            place[key] = copy.deepcopy(word)


@settings(deadline=None, max_examples=300)
@given(mutated())
def test_mutated_recipes_get_faults_never_a_crash(text):
    recipe, structural = parse(text)
    plan = bind(recipe)
    for fault in (*structural, *plan.faults):
        assert isinstance(fault, Fault)
        assert str(fault)
    for _, step in plan.walk():
        assert step.describe()


@given(st.sampled_from(sorted(registry.stages())), st.data())
def test_a_misspelt_stage_gets_its_name_back(name, data):
    if len(name) < 5:
        return
    at = data.draw(st.integers(0, len(name) - 1))
    assert suggest(name[:at] + name[at + 1 :], registry.stages())
