"""Recipes: to and from YAML without loss; every structural fault found; nothing hostile gets through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import Recipe, RecipeError, UsageError
from cellkit.core.recipe import ReadOptions, Step, dump, load, parse, shipped

NAMES = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda s: s not in ("in", "out", "name", "steps"))
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.none(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
INPUTS = (
    st.none()
    | st.lists(NAMES, min_size=1, max_size=3).map(tuple)
    | st.dictionaries(NAMES, NAMES | st.lists(NAMES, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2)
)


def steps(depth: int = 2):
    inner = st.just(()) if depth == 0 else st.just(()) | st.lists(steps(depth - 1), min_size=1, max_size=2).map(tuple)
    return st.builds(
        Step,
        stage=NAMES,
        params=st.dictionaries(NAMES, VALUES, max_size=3),
        inputs=INPUTS,
        out=st.just("") | NAMES,
        name=st.just("") | TEXT,
        steps=inner,
    )


READ = st.builds(
    ReadOptions,
    bits=st.none() | st.integers(1, 32),
    pixel_size=st.none() | st.tuples(st.floats(0.001, 10), st.floats(0.001, 10)),
    channels=st.lists(TEXT, max_size=3).map(tuple),
    crop=st.none() | st.just((0, 1, 20, 30)),
    projection=st.sampled_from(["none", "max", "mean"]),
    pattern=st.just("") | TEXT,
)
RECIPES = st.builds(
    Recipe,
    steps=st.lists(steps(), min_size=1, max_size=4),
    name=TEXT,
    description=st.just("") | st.just("two\nlines"),
    read_options=READ,
    outputs=st.lists(NAMES, max_size=3, unique=True),
)


@settings(deadline=None, max_examples=200)
@given(RECIPES)
def test_load_undoes_dump(recipe):
    assert load(dump(recipe)) == recipe


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_round_trip(name):
    recipe = Recipe.read(name)
    assert load(dump(recipe)) == recipe
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted a mapping"),
        ("- otsu", "wanted a mapping"),
        ("steps: []", "wanted a list of steps"),
        ("steps: otsu", "wanted a list of steps"),
        ("name: x", "steps: wanted a list of steps, got nothing"),
        ("steps: [otsu]\nstep: 1", "unknown key 'step' (did you mean 'steps'?)"),
        ("steps: [otsu]\n1: 1", "unknown key 1"),
        ("cellkit: 2\nsteps: [otsu]", "version 2 is not known"),
        ("steps:\n- otsu: {}\n  li: {}", "exactly one stage; found 'otsu', 'li'"),
        ("steps:\n- in: image", "exactly one stage; found none"),
        ("steps: [1]", "wanted a stage's name"),
        ("steps: [[otsu]]", "wanted a stage's name"),
        ("steps: [threshold: 0.5]", "write `threshold: {parameter: value}`"),
        ("steps: [{threshold: {1: 2}}]", "wanted parameters as a mapping"),
        ("steps:\n- otsu:\n  in: 3", "`in:` wants a layer"),
        ("steps:\n- otsu:\n  in: []", "`in:` wants a layer"),
        ("steps:\n- otsu:\n  in: {a: 1}", "`in:` wants a layer"),
        ("steps:\n- otsu:\n  out: [a]", "wanted text"),
        ("steps:\n- tile: {size: 8}\n  steps: []", "wanted a list of steps"),
        ("steps: [otsu]\noutputs: labels", "outputs: wanted a list of names"),
        ("steps: [otsu]\noutputs: [1]", "outputs: wanted a list of names"),
        ("steps: [otsu]\nread: 3", "read: wanted a mapping"),
        ("steps: [otsu]\nread: {bit: 3}", "did you mean 'bits'?"),
        ("steps: [otsu]\nread: {bits: 33}", "outside 1 to 32"),
        ("steps: [otsu]\nread: {crop: [5, 0, 5, 9]}", "y0 < y1"),
        ("steps: [otsu]\nread: {crop: [1, 2]}", "y0 < y1"),
        ("steps: [otsu]\nread: {pixel_size: [1, 2, 3]}", "one number or [y, x]"),
        ("steps: [otsu]\nread: {pixel_size: 0}", "outside"),
        ("steps: [otsu]\nread: {projection: maximum}", "wanted one of none, max"),
        ("name: [a]\nsteps: [otsu]", "name: wanted text"),
        ("a: &x [1]\nsteps: *x", "aliases"),
        ("steps: [otsu]\nsteps: [li]", "'steps' is given twice"),
        ("steps: [{otsu: {a: 1, a: 2}}]", "'a' is given twice"),
        ("? [1]\n: 2", "a key must be plain text"),
        ("steps: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("steps: [otsu", "line 1"),
        ("[" * 5000, "nested too deeply"),
        ("steps: [x: 2001-99-99]", "month"),
        ("#" * 1_000_001, "larger than 1 MB"),
        ("\x00", "unacceptable character"),
    ],
)
def test_structural_faults(text, said):
    _, faults = parse(text)
    assert said in "\n".join(map(str, faults))
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert caught.value.faults == tuple(faults)


def test_every_fault_at_once():
    _, faults = parse("steps: [1, {otsu: 3}]\noutput: [a]\nread: {bits: 99}\nname: 3")
    assert len(faults) == 5


def test_scalars_and_lists_are_taken_as_meant():
    recipe = load(
        "read: {pixel_size: 0.5}\nsteps:\n- a\n- b:\n- c:\n  in: [x, y]\n- d:\n  in: {p: x}\n- e: {v: [1, 2]}"
    )
    assert recipe.read_options.pixel_size == (0.5, 0.5)
    assert [s.inputs for s in recipe.steps] == [None, None, ("x", "y"), {"p": "x"}, None]
    assert recipe.steps[4].params == {"v": (1, 2)}


def test_set_changes_one_step():
    recipe = load("steps:\n- gaussian\n- tile: {}\n  steps:\n  - otsu\n  - gaussian: {sigma: 2}\n    name: inner")
    changed = recipe.set("inner.sigma", 5).set("gaussian.sigma", 1).set("otsu.scale", 0.9)
    assert changed.steps[0].params == {"sigma": 1}
    assert changed.steps[1].steps[1].params == {"sigma": 5}
    assert recipe.steps[0].params == {}
    twice = load("steps: [gaussian, gaussian]")
    for target, said in [
        ("gaussian.sigma", "2 steps are called 'gaussian'; give the one you mean a `name:`"),
        ("gausian.sigma", "did you mean 'gaussian'"),
        ("gaussian", "wanted step.param=value"),
        (".sigma", "wanted step.param=value"),
    ]:
        with pytest.raises(UsageError, match=said):
            twice.set(target, 1)


def test_read_by_path_or_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: [otsu]")
    assert Recipe.read(path).steps == (Step("otsu"),)
    with pytest.raises(UsageError, match="did you mean 'nuclei-classical'"):
        Recipe.read("nuclei-clasical")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match="cannot be read as a recipe"):
        Recipe.read(binary)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 1_000_001)
    with pytest.raises(UsageError, match="larger than 1 MB"):
        Recipe.read(large)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200) | st.text("[]{}:-, \n&*!?|>'\"#%@`abc01", max_size=80))
def test_any_text_gives_a_recipe_or_faults(text):
    recipe, faults = parse(text)
    assert isinstance(recipe, Recipe)
    if not faults:
        assert load(dump(recipe)) == recipe
