"""Running a recipe on one sample: binding, brackets, measurement over the whole image, errors that say where."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import (
    FromSample,
    Histogram,
    Image,
    Mask,
    Prob,
    RecipeError,
    Sample,
    Span,
    StageError,
    Table,
    plan,
    registry,
    stage,
)
from cellkit.core.recipe import load
from cellkit.core.stage import spec_of
from cellkit.engine.execute import execute, run
from strategies import images


@stage(reach=0)
def above_mean(image: Image | Prob, histogram: Histogram, /) -> Mask:
    """Mark what lies above the mean of the whole image."""
    values, counts = histogram.filled()
    return image[..., 0] > (values * counts).sum() / counts.sum()


@stage(reach=1)
def grow(mask: Mask, /) -> Mask:
    """Add the right neighbour."""
    out = mask.copy()
    out[:, 1:] |= mask[:, :-1]
    return out


@stage(reach=0)
def soft(image: Image, /) -> Prob:
    """Clip."""
    return np.clip(image, 0, 1)


@stage(reach=0)
def broken(image: Image, /, *, how: Annotated[int, Span(0, 9)] = 0) -> Image:
    """Fail."""
    if how == 0:
        raise ValueError("no luck")
    if how == 1:
        return image.astype(np.float64)
    if how == 2:
        return image[:-1]
    if how == 3:
        image[0, 0, 0] = 1
    return None


@stage()
def told(
    image: Image,
    /,
    *,
    pixel_size: Annotated[tuple[float, float] | None, FromSample("pixel_size")] = None,
    names: Annotated[tuple[str, ...], FromSample("names:image")] = (),
) -> Table:
    """Repeat what the engine filled in."""
    import pandas as pd

    return pd.DataFrame({"told": [str(pixel_size), str(names)]})


@pytest.fixture(autouse=True)
def more_stages(monkeypatch):
    registry.stages()
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    for function in (above_mean, grow, soft, broken, told):
        registry.add(spec_of(function))


SIDES = st.sampled_from([1, 2, 7, 13, 30])


@settings(deadline=None, max_examples=40)
@given(images(sides=SIDES), st.integers(1, 16), st.integers(1, 5))
def test_a_histogram_inside_tiles_is_that_of_the_whole(image, size, halo):
    inner = "[above_mean, grow]"
    flat = run(load(f"steps: {inner}"), Sample.of(image))["mask"]
    tiled = run(load(f"steps: [{{tile: {{size: {size}, halo: {halo}}}, steps: {inner}}}]"), Sample.of(image))["mask"]
    assert np.array_equal(flat, tiled)


@settings(deadline=None, max_examples=40)
@given(images(sides=SIDES), st.integers(4, 16), st.sampled_from(["zero", "reflect", "symmetric", "edge"]))
def test_padding_is_not_measured(image, multiple, mode):
    flat = run(load("steps: [above_mean]"), Sample.of(image))["mask"]
    text = f"steps: [{{pad: {{multiple: {multiple}, mode: {mode}}}, steps: [above_mean]}}]"
    assert np.array_equal(flat, run(load(text), Sample.of(image))["mask"])


@settings(deadline=None, max_examples=25)
@given(images(sides=SIDES), st.integers(3, 16))
def test_brackets_nest(image, size):
    text = f"""
steps:
- tile: {{size: {size}, halo: 2}}
  steps:
  - pad: {{multiple: 8, mode: reflect}}
    steps: [soft, above_mean]
- grow
"""
    result = run(load(text), Sample.of(image))
    flat = run(load("steps: [soft, above_mean, grow]"), Sample.of(image))
    assert np.array_equal(result["mask"], flat["mask"])
    np.testing.assert_allclose(result["prob"], flat["prob"], atol=1e-6)


def test_only_new_layers_leave_a_bracket():
    sample = Sample.of(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    result = run(load("steps: [{tile: {size: 4}, steps: [invert, soft]}]"), sample)
    assert np.array_equal(result["image"], sample["image"])
    np.testing.assert_allclose(result["prob"], 1 - sample["image"], atol=1e-6)


def test_raw_stays_what_was_read():
    sample = Sample.of(np.full((3, 3), 0.25, np.float32))
    result = run(load("steps: [invert]"), sample)
    assert np.all(result["image"] == 0.75)
    assert np.all(result["raw"] == 0.25)


def test_the_engine_fills_in_what_only_it_knows():
    sample = Sample.of(np.zeros((2, 2, 2)), pixel_size=0.5, channels=("dapi", "gfp"))
    assert run(load("steps: [told]"), sample)["table"]["told"].tolist() == ["(0.5, 0.5)", "('dapi', 'gfp')"]


def test_channel_names_follow_the_channels():
    sample = Sample.of(np.zeros((2, 2, 3)), channels=("r", "g", "b"))
    assert run(load("steps: [invert]"), sample).layer("image").names == ("r", "g", "b")
    assert run(load("steps: [grayscale]"), sample).layer("image").names == ()
    assert run(load("steps: [channel: {name: g}]"), sample).layer("image").names == ("g",)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (0, r"steps\[1\] broken: ValueError: no luck"),
        (1, r"steps\[1\] broken: wanted Image, float32 \(y, x, c\), got float64"),
        (2, r"steps\[1\] broken: made 3 x 4 px of 4 x 4"),
        (3, r"steps\[1\] broken: ValueError: assignment destination is read-only"),
        (4, r"steps\[1\] broken: wanted Image, a float32 array, got NoneType"),
    ],
)
def test_errors_say_where(how, said):
    with pytest.raises(StageError, match=said):
        run(load(f"steps: [invert, broken: {{how: {how}}}]"), Sample.of(np.zeros((4, 4))))


def test_a_wrong_recipe_does_not_run():
    with pytest.raises(RecipeError, match="did you mean 'invert'"):
        run(load("steps: [invrt]"), Sample.of(np.zeros((4, 4))))


def test_keep_makes_only_what_is_asked_for():
    bound = plan(load("steps: [soft, above_mean, grow, {broken: {how: 0}}]"))
    seen = []
    result = execute(bound, Sample.of(np.eye(4)), keep=["mask"], observe=lambda o: seen.append(o.step.spec.name))
    assert seen == ["soft", "above_mean", "grow"], "the broken step makes nothing that is needed"
    assert set(result) == {"raw", "mask"}


def test_observations_count_tiles():
    bound = plan(load("steps: [{tile: {size: 2}, steps: [soft]}]"))
    seen = []
    execute(bound, Sample.of(np.eye(4)), observe=seen.append)
    assert [(o.step.spec.name, o.depth, o.layer is None) for o in seen] == [("soft", 1, False), ("tile", 0, True)]
