"""What every stage promises, tested without naming one: pure, deterministic, of its kind, of honest reach."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KINDS, OBJECT, Boxes, Histogram, Instances, StageError, StageSpec, UsageError, registry
from cellkit.core.kinds import validate
from strategies import images

STAGES = {n: s for n, s in registry.stages().items() if not s.bracket and s.origin.startswith("cellkit.")}
SIDES = st.sampled_from([1, 2, 3, 7, 13, 24, 31])


def layer(kind: str, name: str, image: np.ndarray, rng: np.random.Generator) -> Any:
    """Make a layer of `kind` that fits `image`."""
    gray = image[..., 0]
    shape = gray.shape
    if kind in ("image", "prob"):
        return image
    if kind == "field":
        return np.ascontiguousarray(gray * 5)
    if kind == "mask":
        return gray > 0.3
    if kind == "classes":
        return (gray * 3).astype(np.uint8)
    if kind == "labels":
        return seeds(gray, rng) if name == "seeds" else blocks(shape, rng)
    if kind == "boxes":
        return boxes(shape, rng)
    if kind == "instances":
        found = boxes(shape, rng)
        sides = (found.xyxy[:, 2:] - found.xyxy[:, :2]).astype(int)
        probs = tuple(rng.random((h, w), np.float32) for w, h in sides)
        return Instances(found, tuple(p > 0.5 for p in probs), probs if rng.random() < 0.5 else None)
    assert kind == "table"
    import pandas as pd

    return pd.DataFrame({"label": np.arange(1, 4), "area": [1.0, 2.0, 3.0]})


def blocks(shape, rng) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for i in range(rng.integers(0, 8)):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = 2 * i + 1
    return labels


def seeds(gray, rng) -> np.ndarray:
    labels = np.zeros(gray.shape, np.int32)
    at = rng.random(gray.shape) < 0.05
    labels[at] = np.arange(1, np.count_nonzero(at) + 1)
    return labels


def boxes(shape, rng) -> Boxes:
    n = int(rng.integers(0, 5))
    y0, x0 = rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)
    y1, x1 = np.minimum(y0 + 5, shape[0]), np.minimum(x0 + 4, shape[1])
    xyxy = np.stack([x0, y0, x1, y1], 1).astype(np.float32).reshape(n, 4)
    return Boxes(xyxy, rng.random(n, np.float32), rng.integers(0, 3, n).astype(np.int32))


@st.composite
def calls(draw, spec: StageSpec):
    """Inputs, a histogram slot and parameters for one stage; layers share one shape."""
    image = draw(images(channels=st.sampled_from([1, 3]), sides=SIDES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values: list[Any] = []
    for argument in spec.arguments:
        kind = draw(st.sampled_from([k.name for k in argument.kinds]))
        if kind == "histogram":
            values.append(None)
        elif argument.variadic:
            values += [layer(kind, argument.name, image, rng) for _ in range(draw(st.integers(0, 2)))]
        elif argument.optional and draw(st.booleans()):
            values.append(None)
        else:
            values.append(layer(kind, argument.name, image, rng))
    return frozen(values), draw(parameters(spec))


@st.composite
def parameters(draw, spec: StageSpec):
    params = dict(spec.defaults)
    for name, parameter in spec.parameters.items():
        if not draw(st.booleans()):
            continue
        if parameter.choices:
            params[name] = draw(st.sampled_from(parameter.choices))
        elif parameter.type is bool:
            params[name] = draw(st.booleans())
        elif parameter.span is not None and parameter.type in (int, float):
            low, high = parameter.span.low, min(parameter.span.high, parameter.span.low + 12)
            number = draw(st.integers(int(np.ceil(low)), int(high)) if parameter.type is int else st.floats(low, high))
            params[name] = parameter.coerce(number)
    return params


def frozen(values: list[Any]) -> list[Any]:
    for value in values:
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return values


def call(spec: StageSpec, values: list[Any], params: dict[str, Any], histogram: Histogram | None = None) -> Any:
    at = next((i for i, a in enumerate(spec.arguments) if a.kinds[0] == KINDS["histogram"]), None)
    given_values = list(values)
    if at is not None:
        given_values[at] = histogram if histogram is not None else Histogram.of(values[0])
    return spec.function(*given_values, **params)


def attempt(spec: StageSpec, values: list[Any], params: dict[str, Any]) -> Any:
    """Call the stage; a refusal (too many channels, say, or no model named) is an answer too, and gives None."""
    try:
        return call(spec, values, params)
    except (StageError, UsageError):
        return None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Instances):
        pairs = zip((*a.masks, *(a.probs or ())), (*b.masks, *(b.probs or ())), strict=True)
        return same(a.boxes, b.boxes) and all(same(*pair) for pair in pairs)
    if isinstance(a, Boxes):
        return same(a.xyxy, b.xyxy) and same(a.scores, b.scores) and same(a.classes, b.classes)
    return a is b is None or a.equals(b)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal label images up to renumbering."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    one_to_one = len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
    return one_to_one and np.array_equal(a == 0, b == 0)


def skip_where_it_cannot_run(spec: StageSpec) -> None:
    """Skip a stage whose review warns of its own defaults: it needs what is not here, such as another package."""
    for fault in spec.review(spec.defaults, ()) if spec.review is not None else ():
        if fault.warning:
            pytest.skip(f"{spec.name}: {fault.message} ({fault.fix})")


@pytest.mark.parametrize("name", STAGES)
def test_documented(name):
    spec = STAGES[name]
    doc = spec.function.__doc__ or ""
    assert len(spec.summary) > 10
    assert spec.summary.endswith(".")
    assert len(doc.split()) > 5
    for parameter in spec.parameters.values():
        assert parameter.coerce(parameter.default) == parameter.default, "a default lies in its own range"


@pytest.mark.parametrize("name", STAGES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_pure_deterministic_and_of_its_kind(name, data):
    spec = STAGES[name]
    skip_where_it_cannot_run(spec)
    values, params = data.draw(calls(spec))
    before = copy.deepcopy(values)
    result = attempt(spec, values, params)
    assert all(same(a, b) for a, b in zip(values, before, strict=True)), "an argument was written into"
    if result is None:
        return
    again = call(spec, values, params)
    assert same(result, again)
    first = values[0]
    kinds = [k for k in spec.returns if not spec.same_kind or fits(k, first)]
    kind = kinds[0]
    validate(kind, np.ascontiguousarray(result) if kind.axes else result, name)
    if kind.axes:
        arrays = [v for v in values if isinstance(v, np.ndarray)]
        assert result.shape[:2] == arrays[0].shape[:2]
        assert not np.shares_memory(result, arrays[0]) or np.array_equal(result, arrays[0])
        assert np.isfinite(result).all()
    if kind.name == "prob":
        assert result.min() >= 0
        assert result.max() <= 1
    if kind.name == "labels":
        assert result.min() >= 0


def fits(kind, value) -> bool:
    try:
        validate(kind, value, "")
    except StageError:
        return False
    return True


@pytest.mark.parametrize("name", [n for n, s in STAGES.items() if not any(p.loaded for p in s.parameters.values())])
def test_some_input_is_accepted(name):
    spec = STAGES[name]
    skip_where_it_cannot_run(spec)
    rng = np.random.default_rng(0)
    accepted = False
    for channels in (1, 3):
        image = rng.random((17, 19, channels), np.float32)
        values = [
            None if a.kinds[0].name == "histogram" or a.optional else layer(a.kinds[0].name, a.name, image, rng)
            for a in spec.arguments
            if not a.variadic
        ]
        accepted |= attempt(spec, frozen(values), spec.defaults) is not None
    assert accepted


FINITE = [n for n, s in STAGES.items() if isinstance(s.reach(s.defaults), int)]
PIECE = [n for n, s in STAGES.items() if s.reach(s.defaults) is OBJECT]


def test_most_stages_have_a_reach():
    assert len(FINITE) >= 10
    assert len(PIECE) >= 3


@pytest.mark.parametrize("name", FINITE)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_tile_by_tile_equals_whole(name, data):
    spec = STAGES[name]
    values, params = data.draw(calls(spec))
    reach = spec.reach(params)
    whole = attempt(spec, values, params)
    if whole is None or not isinstance(reach, int):
        return
    assert reach >= 0
    histogram = Histogram.of(values[0]) if isinstance(values[0], np.ndarray) else None
    height, width = whole.shape[:2]
    size = data.draw(st.integers(4, 16))
    renumbered = np.issubdtype(whole.dtype, np.int32) and values[0].dtype != np.int32
    for top in range(0, height, size):
        for left in range(0, width, size):
            y0, x0 = max(0, top - reach), max(0, left - reach)
            window = np.s_[y0 : top + size + reach, x0 : left + size + reach]
            cut = [np.ascontiguousarray(v[window]) if isinstance(v, np.ndarray) else v for v in values]
            part = call(spec, frozen(cut), params, histogram)
            own = part[top - y0 : top - y0 + size, left - x0 : left - x0 + size]
            wanted = whole[top : top + size, left : left + size]
            if renumbered:
                assert np.array_equal(own > 0, wanted > 0)
            elif whole.dtype == np.float32:
                np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-5)
            else:
                assert np.array_equal(own, wanted)


@pytest.mark.parametrize("name", PIECE)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_piece_alone_equals_the_piece_in_the_whole(name, data):
    spec = STAGES[name]
    values, params = data.draw(calls(spec))
    others, _ = data.draw(calls(spec))
    if spec.reach(params) is not OBJECT:
        return
    both = [beside(a, b) for a, b in zip(values, others, strict=True)]
    if any(b is NotImplemented for b in both):
        return
    alone = [beside(a, None) for a in values]
    result, piece = attempt(spec, frozen(both), params), attempt(spec, frozen(alone), params)
    if result is None or piece is None:
        return
    width = values[0].shape[1]
    got, wanted = result[: piece.shape[0], :width], piece[:, :width]
    if (
        got.dtype == np.int32
        and values[0].dtype != np.int32
        and not any(getattr(v, "dtype", None) == np.int32 for v in values[1:])
    ):
        assert same_partition(got, wanted)
    elif got.dtype == np.float32:
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    else:
        assert np.array_equal(got, wanted)


def beside(a: Any, b: Any) -> Any:
    """Put `b` to the right of `a` behind two columns of background, ids of labels kept apart."""
    if not isinstance(a, np.ndarray):
        return a if a is None and (b is None or not isinstance(b, np.ndarray)) else NotImplemented
    if b is None:
        return np.concatenate([a, np.zeros((a.shape[0], 2, *a.shape[2:]), a.dtype)], 1)
    if not isinstance(b, np.ndarray) or a.dtype != b.dtype or a.shape[2:] != b.shape[2:]:
        return NotImplemented
    if a.dtype == np.int32:
        b = np.where(b > 0, b + a.max(initial=0), 0).astype(np.int32)
    height = a.shape[0]
    b = np.concatenate([b, np.zeros((max(0, height - b.shape[0]), *b.shape[1:]), b.dtype)])[:height]
    gap = np.zeros((height, 2, *a.shape[2:]), a.dtype)
    return np.ascontiguousarray(np.concatenate([a, gap, b], 1))
