"""Samples and runs in a notebook, and layers side by side as a figure."""

from __future__ import annotations

import re
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

import cellkit as ck
from cellkit.core import KINDS, KindError, UsageError
from cellkit.core import sample as core_sample
from test_batch import picture
from test_report_page import Page
from test_report_page import picture as decoded

NASTY = "<script>alert('x')</script>"


@pytest.fixture
def sample() -> ck.Sample:
    y, x = np.mgrid[:60, :80]
    labels = ((y // 20) * 4 + x // 20 + 1).astype(np.int32) * ((y % 20 > 3) & (x % 20 > 3))
    boxes = ck.Boxes(np.array([[3, 3, 20, 30]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    made = ck.Sample.of(np.random.default_rng(0).random((60, 80, 3)), name=NASTY, pixel_size=0.5)
    made = made.with_layer("mask", KINDS["mask"], labels > 0).with_layer("labels", KINDS["labels"], labels)
    made = made.with_layer("field", KINDS["field"], labels.astype(np.float32)).with_layer(
        "boxes", KINDS["boxes"], boxes
    )
    made = made.with_layer("prob", KINDS["prob"], np.ones((60, 80, 1), np.float32), (NASTY,))
    return made.with_layer(NASTY, KINDS["table"], pd.DataFrame({"label": [1, 2]}))


def test_a_sample_shows_every_layer_and_nothing_of_a_hostile_name_runs(sample):
    text = sample._repr_html_()
    page = Page(text)
    assert not page.all("script")
    images = page.all("img")
    assert [image["alt"].rpartition(": ")[0] for image in images] == ["raw", "mask", "labels", "field", "boxes", "prob"]
    for image in images:
        assert max(decoded(image["src"]).shape[:2]) <= 176
        assert decoded(image["src"]).any()
    for words in ("objects 12", "60 × 80, int32", "rows 2", "0.5 µm a pixel", "60 × 80 × 3, float32"):
        assert words in text
    assert "&lt;script&gt;" in text


def test_samples_without_pictures_and_large_ones():
    empty = ck.Sample.of(np.zeros((1, 1))).with_layer("labels", KINDS["labels"], np.zeros((1, 1), np.int32))
    assert "objects 0" in empty._repr_html_()
    wide = ck.Sample.of(np.random.default_rng(0).random((3, 5000)))
    (image,) = Page(wide._repr_html_()).all("img")
    assert decoded(image["src"]).shape[:2] == (1, 176)
    assert len(wide._repr_html_()) < 5000


def test_the_core_alone_has_no_look_and_importing_loads_none(sample, monkeypatch):
    monkeypatch.setattr(core_sample, "_page", None)
    assert sample._repr_html_() is None
    code = "import sys, cellkit; print([m for m in ('cellkit.report', 'matplotlib', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("outputs", [("labels", "overlay"), ("labels",), ("table",)])
def test_a_run_shows_how_it_ended_and_what_it_wrote(tmp_path, outputs):
    from dataclasses import replace

    (tmp_path / "images").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"im{i}.png"), picture(i, 12, (96, 120)))
    (tmp_path / "images" / "bad.png").write_bytes(b"none")
    recipe = replace(ck.Recipe.read("nuclei-classical"), outputs=outputs)
    result = ck.run_batch(recipe, [tmp_path / "images"], tmp_path / "out")
    text = result._repr_html_()
    page = Page(text)
    assert "3 images · 2 done · 1 failed" in text
    assert "failed bad: " in text
    assert f"{sum(result.objects.values())} objects" in text
    assert len(page.all("img")) == (0 if outputs == ("table",) else 2)
    if outputs == ("labels",):
        (tmp_path / "out" / "labels" / "im0.tif").write_bytes(b"broken")
        assert len(Page(result._repr_html_()).all("img")) == 1


def test_a_figure_has_a_panel_for_each_layer(sample):
    figure = ck.show(sample)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["raw", "mask", "labels: 12 objects", "field", "boxes: 1 object", "prob"]
    assert figure._repr_png_()[:4] == b"\x89PNG"
    code = (
        "import sys, numpy as np, cellkit as ck; ck.show(np.zeros((5, 5), np.int32)).savefig(sys.argv[1]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "/dev/null"], capture_output=True, text=True, check=False)
    assert "True" not in done.stdout


def test_contours_lie_on_the_image_and_a_bar_tells_the_scale(sample):
    figure = ck.show(sample, ["labels", "raw"])
    labels, raw = (ax.images[0].get_array() for ax in figure.axes)
    differs = (labels != raw).any(axis=2)
    outline = sample["labels"] > 0
    assert differs.any()
    assert not differs[~outline].any()
    bar = figure.axes[0].lines[-1]
    assert np.ptp(bar.get_xdata()) == pytest.approx(10)  # 5 um of 0.5 um a pixel: at most a fifth of 40 um
    assert figure.axes[0].texts[0].get_text() == "5 µm"
    filled = ck.show(sample, ["labels"], contours=False).axes[0].images[0].get_array()
    assert (np.asarray(filled).any(axis=2) == np.kron(outline, np.ones((4, 4), bool))).all()
    assert not ck.show({"a": np.zeros((5, 5))}).axes[0].texts


def test_arrays_and_axes_of_ones_own():
    from matplotlib.figure import Figure

    mine = Figure()
    axes = mine.subplots(1, 2)
    image, labels = np.random.default_rng(0).random((9, 9, 3)), np.eye(9, dtype=np.int32)
    assert ck.show({"image": image, "labels": labels}, axes=axes, pixel_size=0.1) is mine
    assert [ax.get_title() for ax in axes] == ["image", "labels: 1 object"]
    assert [ax.texts[0].get_text() for ax in axes] == ["0.1 µm", "0.1 µm"]
    boxes = ck.Boxes(np.array([[0, 0, 4, 4]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    assert ck.show({"boxes": boxes}).axes[0].images[0].get_array().shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("given", "more", "error", "said"),
    [
        ({"labels": np.zeros((3, 3), int)}, {"layers": ["lables"]}, UsageError, "did you mean 'labels'"),
        ({"x": "text"}, {}, KindError, re.escape("x: wanted an array (y, x)")),
        ({"t": pd.DataFrame({"a": [1]})}, {}, UsageError, "no layer that can be shown"),
        ({"a": np.zeros((3, 3)), "b": np.zeros((3, 3))}, {"axes": [None]}, UsageError, "2 layers need 2 axes; got 1"),
    ],
)
def test_what_cannot_be_shown_is_refused(given, more, error, said):
    with pytest.raises(error, match=said):
        ck.show(given, **more)
