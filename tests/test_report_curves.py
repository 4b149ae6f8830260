"""Plots of trainings: what is drawn is what the log holds, whatever the log; pages that are whole and escaped."""

from __future__ import annotations

import io
import math
import re
import statistics
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellkit.report import bars, curves, plots
from cellkit.report.comparison import apart, comparison_page, picture_of, settings_table
from cellkit.report.runpage import run_page, time_text
from cellkit.report.runs import Run, Score, differing, groups, labels, spread
from cellkit.report.worst import Case
from test_report_page import Page

NASTY = "<script>alert('x')</script>"
COLUMNS = {"tissue": 0.5, "fluorescence": 0.9}


def score(value: float, **more) -> Score:
    given = {"images": 99, "rule": "mean of images", "digest": "0123456789abcdef"} | more
    by = {"modality": {k: Score("AP", value * v, value * v - 0.1, value * v + 0.1, 40) for k, v in COLUMNS.items()}}
    return Score("AP", value, value - 0.05, value + 0.04, by=by, **given)


def log_of(epochs: int, every: int = 2, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    loss = np.exp(-np.arange(epochs) / 9) + rng.random(epochs) / 20
    scores = [0.8 - 0.5 / e if e % every == 0 else math.nan for e in range(1, epochs + 1)]
    return {
        "epoch": [float(e) for e in range(1, epochs + 1)], "step": [10.0 * e for e in range(1, epochs + 1)],
        "loss": loss.tolist(), "bce": (0.7 * loss).tolist(), "dice_all": (0.3 * loss).tolist(),
        "rate": np.linspace(1e-3, 0, epochs).tolist(), "score": scores, "low": [s - 0.1 for s in scores],
        "high": [s + 0.1 for s in scores], "seconds": [2.5] * epochs,
    }  # fmt: skip


def run_of(name: str = "unet", epochs: int = 10, value: float = 0.75, **more) -> Run:
    given = {
        "log": log_of(epochs), "figures": {"model": score(value), "baseline": score(0.4, recipe="classical")},
        "best_epoch": epochs, "finished": True, "architecture": "unet-compact", "parameters": 1234,
        "settings": {"loop.epochs": epochs, "loop.batch": 8},
    }  # fmt: skip
    return Run(name, f"runs/{name}", **(given | more))


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


# Curves


def test_the_drawn_curves_are_the_columns_of_the_log():
    run = run_of()
    figure = curves.of_run(run)
    loss, scores, rate = figure.axes
    epochs = run.log["epoch"]
    for line, name in zip(loss.lines, ("loss", "bce", "dice_all"), strict=True):
        assert line.get_xdata().tolist() == epochs
        assert line.get_ydata().tolist() == run.log[name]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["loss", "bce", "dice all"]
    assert rate.lines[0].get_ydata().tolist() == run.log["rate"]
    drawn = [line for line in scores.lines if line.get_linewidth() == 1.8]
    assert [line.get_xdata().tolist() for line in drawn] == [[2, 4, 6, 8, 10]]  # validated epochs alone, joined
    assert drawn[0].get_ydata().tolist() == run.log["score"][1::2]
    band = scores.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (run.log["low"][1], run.log["high"][9])
    (ring,) = [line for line in scores.lines if line.get_markersize() == 9]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (10, run.log["score"][9])
    assert scores.get_title("left") == "best: 0.7500 after epoch 10; dotted: baseline 0.4000"
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch"] * 3
    assert scores.get_ylabel() == "AP, 95 % interval"
    assert [line.get_ydata()[0] for line in scores.lines if line.get_linestyle() != "-"].count(0.4) == 1


def test_pictures_have_the_size_they_should(tmp_path):
    figure = curves.of_run(run_of())
    picture = opened(plots.png(figure, 100))
    assert picture.size == (720, 750)
    assert np.ptp(np.asarray(picture.convert("L"))) > 200
    assert np.asarray(picture.convert("RGB"))[0, 0].tolist() == [255, 255, 255]


LOGS = {
    "one epoch": log_of(1, 1),
    "one epoch without a score": log_of(1, 2),
    "a thousand": log_of(1000, 1),
    "no row": {name: [] for name in log_of(1)},
    "nothing": {},
    "no score": {"epoch": [1, 2], "loss": [1.0, 2.0]},
    "all NaN": {name: [math.nan] * 3 for name in log_of(1)} | {"epoch": [1, 2, 3]},
    "infinite": {"epoch": [1, 2, 3], "loss": [math.inf, 1, 2], "score": [math.inf, -math.inf, 0.5], "rate": [0, 0, 0]},
    "negative": {"epoch": [5, 6], "loss": [-3.0, 1e6], "$x$ \n \\frac": [0.0, 1.0], "_part": [1.0, 2.0]},
    "huge and tiny": {"epoch": [1, 2], "loss": [6e306, 5e-324], "score": [1e300, 0.5], "rate": [1e-310, 0.0]},
    "equal": {"epoch": [1, 2], "loss": [0.5, 0.5], "score": [1.0, 1.0], "low": [1.0, 1.0], "high": [1.0, 1.0]},
}


@pytest.mark.parametrize("name", LOGS)
def test_any_log_can_be_drawn(name):
    run = Run("x", "x", log=LOGS[name], figures={"model": score(0.5)}, best_epoch=1)
    assert opened(plots.png(curves.of_run(run), 40)).size[0] == 288
    text = run_page(run)
    Page(text)
    assert text.count("<h3>") == len(curves.panels(run)) + 1  # by modality


@settings(max_examples=8)
@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats()), max_size=6))
def test_no_values_break_a_plot(rows):
    log = {"epoch": [float(i + 1) for i in range(len(rows))]}
    log |= {name: [row[i] for row in rows] for i, name in enumerate(("loss", "score", "rate"))}
    made = curves.of_run(Run("x", "x", log=log))
    assert all(math.isfinite(v) for ax in made.axes for v in (*ax.get_xlim(), *ax.get_ylim()))


def test_thirty_runs_over_one_another_stay_apart():
    names = ["_hidden", "$x_1$", "細胞", "a" * 90, *(f"run {i}" for i in range(26))]
    runs = [run_of(name, 10 + i) for i, name in enumerate(names)]
    made = curves.laid_over(runs, names, "score")
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in made.axes[0].lines}
    assert len(looks) == 30
    shown = [text.get_text() for text in made.legends[0].get_texts()]
    assert len(shown) == 30
    assert shown[:3] == [" _hidden", "$x_1$", "??"]
    assert len(shown[3]) == 32
    assert opened(plots.png(made, 50)).size[0] == 360
    assert made.axes[0].lines[5].get_ydata().tolist() == [v for v in runs[5].log["score"] if not math.isnan(v)]


# Bars


def test_bars_are_the_scores_with_their_intervals():
    runs = [run_of("a", value=0.75), run_of("b", value=0.5, finished=False), run_of("c", figures={})]
    made = bars.score_bars(bars.bars_of(runs, ["a", "b", "c"]))
    (ax,) = made.axes
    assert [patch.get_width() for patch in ax.patches] == [0.75, 0.5, 0.0]
    assert [bool(patch.get_hatch()) for patch in ax.patches] == [False, True, False]
    spans = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert np.allclose(spans, [[0.7, 0.79], [0.45, 0.54]])
    baselines = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
    assert baselines == [0.4, 0.4]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in ax.texts] == ["0.7500", "0.5000", "none"]
    assert ax.get_xlim() == (0, 1)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_scores_by_a_column_are_marks_in_rows():
    runs = [run_of("a", value=0.8), run_of("b", value=0.6), run_of("c", figures={"model": Score("AP", 0.5)})]
    made = bars.scores_by(bars.bars_of(runs, ["a", "b", "c"]), "modality")
    marks = [(round(line.get_xdata()[0], 6), round(float(line.get_ydata()[0])), line.get_marker())
             for line in made.axes[0].lines if line.get_marker() in "os" and len(line.get_xdata()) == 1]  # fmt: skip
    assert marks == [(0.72, 0, "o"), (0.54, 0, "s"), (0.4, 1, "o"), (0.3, 1, "s")]
    assert [text.get_text() for text in made.axes[0].get_yticklabels()] == ["fluorescence", "tissue"]
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["a", "b"]


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_the_spread_is_that_of_the_statistics_module(values):
    found = spread([*values, math.nan])
    assert found.folds == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.variance == pytest.approx(statistics.variance(values), abs=1e-12)
    assert (found.least, found.most) == (min(values), max(values))


def folded(name: str, values: list[float], **more) -> Run:
    folds = [run_of(f"fold-{i}", value=v, figures={"model": score(v, digest=str(i))}) for i, v in enumerate(values, 1)]
    return Run(name, f"runs/{name}", folds=tuple(folds), finished=True, **more)


def test_folds_show_their_mean_and_where_each_lies():
    run = folded("cv", [0.6, 0.7, 0.9])
    assert run.score.value == pytest.approx(0.7333333)
    assert run.score.high - run.score.value == pytest.approx(statistics.stdev([0.6, 0.7, 0.9]))
    assert run.score.by["modality"]["tissue"].value == pytest.approx(0.3666667)
    ax = bars.draw_folds([run], ["cv"]).axes[0]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] == [0.6, 0.7, 0.9]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]
    (bar,) = bars.bars_of([run], ["cv"])
    assert bar.dots == (0.6, 0.7, 0.9)
    over = curves.laid_over([run], ["cv"], "loss").axes[0]
    assert np.allclose(over.lines[0].get_ydata(), run.folds[0].log["loss"])
    page = comparison_page([run], [("fold-4", "no log")])
    for text in ("0.7333", f"{statistics.variance([0.6, 0.7, 0.9]):.3g}", "0.6000 to 0.9000", "fold-3", "no log"):
        assert text in page
    assert opened(plots.png(picture_of([run]))).size[0] == 720


# Colours


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colors", "paper"), [(plots.SERIES, "#ffffff"), (plots.DARK, "#182026")])
def test_colours_stand_out_and_stay_apart_for_colour_blind_eyes(colors, paper):
    color = pytest.importorskip("skimage.color")
    for one in colors:  # WCAG 2.1, 1.4.11: 3 to 1 for graphics
        low, high = sorted((luminance(one), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3
    # Machado et al. 2009, severity 1.
    blind = {
        "none": np.eye(3),
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    }
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in blind.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = color.rgb2lab(seen[None])[0]
        apart_by = np.linalg.norm(lab[:, None] - lab, axis=2)[np.triu_indices(len(colors), 1)]
        assert apart_by.min() > 20


def test_the_first_six_need_no_colour():
    assert len({plots.style(i).dash for i in range(6)}) == len({plots.style(i).marker for i in range(6)}) == 6
    assert len({(plots.style(i).color, plots.style(i).dash) for i in range(36)}) == 36
    assert all(plots.swatch(i).count("<path") == 1 for i in range(36))


def test_a_plot_on_a_page_has_the_colours_of_the_page():
    text = plots.svg(curves.panels(run_of())["score"], f"AP {NASTY}")
    root = ET.fromstring(text)
    assert root.attrib["aria-label"] == f"AP {NASTY}"
    assert "width" not in root.attrib
    assert "var(--s0)" in text
    assert "var(--ink)" in text
    assert not [color for color in (*plots.SERIES, plots.INK, plots.SOFT) if color in text]
    assert "<metadata" not in text


# Pages


def test_the_page_of_a_run_holds_its_figures():
    case = Case(
        "worst.png", 0.125, np.ones((8, 9), np.int32), np.zeros((8, 9), np.int32), np.zeros((8, 9, 3), np.uint8)
    )
    about = {
        "versions": {"torch": "9.8.7"},
        "notes": ["failed: im7"],
        "warnings": ["recipe x: odd"],
        "reason": "patience",
    }
    run = run_of(about=about, data="set: 5 images", text="cellkit_train: 1\n", examples=(case,))
    text = run_page(run)
    for part in ("0.7500", "0.7000 to 0.7900", "0.4000", "baseline classical", "unet-compact", "1,234 parameters",
                 "tissue", "0.3750", "fluorescence", "0.6750", "9.8.7", "failed: im7", "recipe x: odd", "patience",
                 "set: 5 images", "cellkit_train: 1", "worst.png", "0.1250", "loop.batch", "25 s"):  # fmt: skip
        assert part in text, part
    page = Page(text)
    assert len(page.all("img")) == 3
    assert len([tag for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]) == 5
    assert not re.search(r"(?:src|href)=\"(?!data:image/png|#)", text)
    assert not re.search(r"url\(\s*['\"]?(?!data:|\$|#)", text)
    unfinished = run_page(run_of(finished=False, settings={"loop.epochs": 50}, about={"reason": "time limit"}))
    assert "Not finished (time limit)" in unfinished
    assert "10 of 50 epochs" in unfinished


def test_what_comes_from_outside_is_escaped_on_both_pages():
    nasty = Score(NASTY, 0.5, by={NASTY: {NASTY: Score(NASTY, 0.5)}}, rule=NASTY, recipe=NASTY, digest="x")
    log = log_of(3) | {NASTY: [1.0, 2.0, 3.0]}
    run = Run(NASTY, NASTY, log=log, settings={NASTY: NASTY}, text=NASTY, figures={"model": nasty, NASTY: nasty},
              architecture=NASTY, data=NASTY, about={"notes": [NASTY], "versions": {NASTY: NASTY}, "reason": NASTY},
              best_epoch=2, examples=(Case(NASTY, 0.1, *np.zeros((2, 4, 4), np.int32)),))  # fmt: skip
    other = run_of("b", settings={NASTY: "other"})
    for text in (run_page(run), comparison_page([run, other], [(NASTY, NASTY)])):
        assert len(Page(text).all("script")) == 1
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


def test_scores_that_differ_in_rule_or_images_are_told_apart():
    one, two = run_of("one"), run_of("two")
    assert groups([one, two]) == [[one, two]]
    assert apart([one, two], ["one", "two"]) == []
    for change in ({"rule": "pooled"}, {"digest": "f" * 16}, {"images": 98}, {"digest": ""}):
        other = run_of("other", figures={"model": score(0.9, **change)})
        runs = [one, other, two, run_of("none", figures={})]
        assert groups(runs) == [[one, two], [other]]
        names = labels(runs)
        lines = apart(runs, names)
        assert [line[0] for line in lines] == ["A", "B"]
        assert "one, two" in lines[0]
        assert len(picture_of(runs).axes) == 2
    assert "not recorded" in lines[1]
    assert "cannot all be compared" in comparison_page(runs)
    cv = folded("cv", [0.5, 0.6])
    assert groups([cv, one]) == [[cv], [one]]


def test_only_settings_that_differ_are_shown():
    one = run_of("one", config={"loop.batch": 8})
    two = run_of("two", settings={"loop.epochs": 10, "loop.batch": 4, "new": True}, config={})
    assert differing([one, two]) == {"loop.batch": [8, 4], "new": ["–", True]}
    assert differing([one, one]) == differing([one]) == {}
    old = run_of("old", settings={}, config={"loop.batch": 2})  # recorded no defaults: the configs are compared
    assert differing([one, two, old]) == {"loop.batch": [8, "–", 2]}


def test_what_differs_among_many_runs_is_listed_by_value():
    found = {"loop.batch": [8, 4, 8, 8, 8, 8, True]}
    head, rows = settings_table(found, list("abcdefg"))
    assert head == ["setting", "value", "runs"]
    assert rows == [["loop.batch", "8", "a, c, d, e, f"], ["", "4", "b"], ["", "yes", "g"]]
    assert settings_table({"x": [1, None]}, ["a", "b"]) == (["setting", "a", "b"], [["x", "1", "none"]])


def test_labels_are_no_longer_than_they_need_to_be():
    runs = [Run("x", folder) for folder in ("a/run", "b/run", "a/other", "./")]
    assert labels(runs) == ["a/run", "b/run", "other", "."]
    assert [time_text(s) for s in (2.4, 61, 3600 * 2.5, math.nan)] == ["2 s", "1 min", "2 h 30 min", ""]
