"""The signature says everything: arguments, parameters, ranges, kinds, reach."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.core import (
    OBJECT,
    WHOLE,
    FromSample,
    Histogram,
    Image,
    Labels,
    Mask,
    Prob,
    Span,
    UsageError,
    registry,
    stage,
)
from cellkit.core.stage import spec_of


@stage(reach=lambda p: int(4 * p["sigma"]), out="soft")
def example(
    image: Image | Prob,
    histogram: Histogram,
    mask: Mask | None = None,
    /,
    *rest: Prob,
    sigma: Annotated[float, Span(0.1, 50, "px")] = 1.0,
    times: Annotated[int, Span(1, 9)] = 2,
    mode: Literal["reflect", "edge"] = "reflect",
    names: tuple[str, ...] = (),
    size: Annotated[int | None, Span(1, 10)] = None,
    pixel_size: Annotated[tuple[float, float] | None, FromSample("pixel_size")] = None,
) -> Image | Prob:
    """Do nothing.

    More words.
    """
    return image


SPEC = spec_of(example)


def test_signature_becomes_spec():
    assert example(1, None) == 1, "the function itself is returned unchanged"
    assert [a.name for a in SPEC.arguments] == ["image", "histogram", "mask", "rest"]
    assert [[k.name for k in a.kinds] for a in SPEC.arguments] == [["image", "prob"], ["histogram"], ["mask"], ["prob"]]
    assert [a.optional for a in SPEC.arguments] == [False, False, True, False]
    assert [a.variadic for a in SPEC.arguments] == [False, False, False, True]
    assert SPEC.defaults == {"sigma": 1.0, "times": 2, "mode": "reflect", "names": (), "size": None}
    assert SPEC.supplied == {"pixel_size": FromSample("pixel_size")}
    assert (SPEC.out, SPEC.summary, SPEC.same_kind) == ("soft", "Do nothing.", True)
    assert SPEC.reach({"sigma": 2.5}) == 10
    assert SPEC.parameters["mode"].choices == ("reflect", "edge")


@pytest.mark.parametrize(
    ("name", "given", "result"),
    [
        ("sigma", 3, 3.0),
        ("sigma", "1e-0", 1.0),
        ("times", 4.0, 4),
        ("mode", "edge", "edge"),
        ("names", ["a", "b"], ("a", "b")),
        ("size", None, None),
        ("size", 3, 3),
    ],
)
def test_values_are_coerced(name, given, result):
    value = SPEC.parameters[name].coerce(given)
    assert value == result
    assert type(value) is type(result)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sigma", 0, "outside 0.1 to 50 px"),
        ("sigma", float("nan"), "wanted number"),
        ("sigma", float("inf"), "wanted number"),
        ("sigma", True, "wanted number"),
        ("sigma", "wide", "wanted number, got 'wide'"),
        ("sigma", [1], "wanted number"),
        ("times", 2.5, "wanted whole number"),
        ("times", True, "wanted whole number"),
        ("mode", "reflekt", "did you mean 'reflect'?"),
        ("mode", None, "wanted one of"),
        ("names", "a", "wanted list of text"),
        ("names", [1], "wanted text"),
        ("size", 11, "outside 1 to 10"),
    ],
)
def test_wrong_values_are_refused(name, given, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        SPEC.parameters[name].coerce(given)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_coerce_gives_the_type_or_value_error(value: Any):
    for name, parameter in SPEC.parameters.items():
        try:
            result = parameter.coerce(value)
        except ValueError:
            continue
        if name == "sigma":
            assert isinstance(result, float)
            assert 0.1 <= result <= 50


def test_signatures_that_are_no_stage():
    def no_layer(*, sigma: Annotated[float, Span(0, 1)] = 0.5) -> Image: ...

    def no_kind(image: int, /) -> Image: ...

    def no_default(image: Image, /, *, sigma: Annotated[float, Span(0, 1)]) -> Image: ...

    def no_span(image: Image, /, *, sigma: float = 1.0) -> Image: ...

    def in_between(image: Image, /, sigma: Annotated[float, Span(0, 1)] = 1.0) -> Image: ...

    def no_return(image: Image, /): ...

    for function, said in [
        (no_layer, "needs a layer"),
        (no_kind, "annotation is no kind"),
        (no_default, "needs a default"),
        (no_span, "needs a Span"),
        (in_between, "must stand before"),
        (no_return, "needs a layer"),
    ]:
        function.__annotations__ = {k: eval(v) for k, v in function.__annotations__.items()}
        with pytest.raises(TypeError, match=said):
            stage()(function)


def test_reach_defaults_to_whole():
    @stage()
    def whole(labels: Labels, /) -> Labels:
        return labels

    @stage(reach=OBJECT)
    def piece(labels: Labels, /) -> Labels:
        return labels

    assert spec_of(whole).reach({}) is WHOLE
    assert spec_of(piece).reach({}) is OBJECT


def test_registry_suggests():
    with pytest.raises(UsageError, match="did you mean 'watershed'"):
        registry.get("watersched")


def test_every_stage_is_an_attribute_even_where_a_file_has_its_name():
    import cellkit as ck
    import cellkit.stages.threshold

    for name, spec in registry.stages().items():
        if not spec.bracket and spec.origin.startswith("cellkit."):
            assert getattr(ck.stages, name) is spec.function


def test_load_file_registers(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import cellkit as ck\n\n@ck.stage(reach=0)\ndef half_of_it(image: ck.Image, /) -> ck.Image:\n"
        '    """Halve."""\n    return image * 0.5\n'
    )
    assert registry.load_file(path) == ["half_of_it"]
    assert registry.load_file(path) == ["half_of_it"], "loading twice is no fault"
    assert np.all(registry.get("half_of_it").function(np.ones((1, 1, 1), np.float32)) == 0.5)
    assert len(registry.plugin_digests()["mine.py"]) == 64
    registry._specs.pop("half_of_it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 +", "SyntaxError on import"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("x = 1", "defines no stage"),
        ("import cellkit as ck\n@ck.stage()\ndef otsu(i: ck.Image, /) -> ck.Image:\n    return i", "already defined"),
    ],
)
def test_load_file_refuses(tmp_path, text, said):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        registry.load_file(path)


def test_load_file_missing(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        registry.load_file(tmp_path / "none.py")


class Point:
    """An installed package's entry point."""

    value = "somewhere:thing"

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_specs", {})
    monkeypatch.setattr(registry, "_discovered", False)

    def install(*points):
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "cellkit.stages" else ())

    return install


def test_installed_packages_add_stages(empty_registry):
    module = types.ModuleType("plugin")
    exec("import cellkit as ck\n@ck.stage()\ndef from_module(i: ck.Image, /) -> ck.Image:\n    return i", vars(module))
    empty_registry(Point("one", lambda: example), Point("many", lambda: module))
    assert registry.get("example").function is example
    assert registry.get("from_module").origin == "plugin"
    assert "watershed" in registry.stages(), "cellkit's own are there as well"


def test_a_broken_package_is_named(empty_registry):
    def broken():
        raise ImportError("no such thing")

    empty_registry(Point("bad", broken))
    with pytest.raises(UsageError, match=r"plug-in 'bad' \(somewhere:thing\) cannot be imported: no such thing"):
        registry.stages()
