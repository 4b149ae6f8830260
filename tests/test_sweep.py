"""Sliders on the page of `explain`: which values, what is run again, what the page does in a browser."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from cellkit.core import Recipe, UsageError
from cellkit.engine import sweep as sweeping
from cellkit.engine.explain import Traces, explain
from cellkit.engine.sweep import read_range, swept
from cellkit.io import read
from test_batch import picture
from test_report_page import Page, in_browser

RECIPE = Recipe.load("""
steps: [grayscale, gaussian: {sigma: 1}, otsu, drop_small: {area: 5}, distance, maxima, watershed, measure]
""")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), cv2.GaussianBlur(picture(1, 12, (96, 120)), (0, 0), 2))
    return path


def test_values_are_spaced_evenly_or_by_factors_with_the_recipes_own_among_them():
    shown = read_range(RECIPE, "otsu.scale=0.5:1.4:4")
    assert shown.values == (0.5, 0.8, 1.0, 1.1, 1.4)
    assert (shown.own, shown.at) == (2, 2)
    assert read_range(RECIPE, "drop_small.area=1:100:3:log").values == (1, 5, 10, 100)
    sigma = RECIPE.set("gaussian.sigma", 1)
    assert read_range(sigma, "gaussian.sigma=0.5:8:5:log").values == (0.5, 1.0, 2.0, 4.0, 8.0)
    assert all(isinstance(v, int) for v in read_range(RECIPE, "maxima.min_distance=1:9:5").values)
    small = read_range(RECIPE, "drop_small.area=10:12:30")  # fewer whole numbers than were asked for
    assert small.values == (5, 10, 11, 12)


def test_a_parameter_inside_a_bracket_is_run_with_the_whole_bracket(image):
    recipe = Recipe.load("""
steps:
  - grayscale
  - tile: {size: 64, halo: 16}
    steps: [gaussian: {sigma: 1}, otsu]
  - components
""")
    shown = read_range(recipe, "gaussian.sigma=1:3:3")
    assert (shown.at, shown.where) == (1, "steps[1] tile.steps[0] gaussian")
    sample = read(image)
    found = swept(recipe, sample, shown, Traces(recipe, sample), 10**9)
    assert found.card == 3
    assert sorted(found.frames[1]) == [3, 4, 5]
    assert found.frames[found.own] == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("otsoo.scale=1:2:3", "--sweep otsoo.scale=1:2:3: no step is called 'otsoo'; did you mean 'otsu'?"),
        ("otsu.skale=1:2:3", "otsu has no parameter 'skale'; did you mean 'scale'?"),
        ("otsu.scale=1:2", "wanted step.param=a:b:n"),
        ("otsu.scale=2:1:3", "wanted step.param=a:b:n"),
        ("otsu.scale=1:2:3:lin", "wanted step.param=a:b:n"),
        ("otsu.scale=1:2:1", "wanted step.param=a:b:n"),
        ("otsu.scale=1:2:65", "at most 64 values, got 65"),
        ("otsu.scale=1:2000:3", "2000.0 is outside"),
        ("drop_small.area=1.5:9:3", "wanted whole number, got 1.5"),
        ("grayscale.weights=1:2:3", "a sweep is over a number"),
        ("drop_small.area=0:9:3:log", "must begin above 0"),
        ("otsu", "wanted step.param"),
    ],
)
def test_what_is_no_sweep_is_refused(text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        read_range(RECIPE, text)


def test_only_what_lies_behind_is_run_again(image, monkeypatch):
    sample = read(image)
    traced = Traces(RECIPE, sample)
    ran: list[str] = []
    run = Traces.run
    monkeypatch.setattr(
        Traces, "run", staticmethod(lambda b, s, n=None: (ran.extend(x.step.label for x in b.steps), run(b, s, n))[1])
    )
    found = swept(RECIPE, sample, read_range(RECIPE, "drop_small.area=5:500:3"), traced, 10**9)
    assert ran.count("grayscale") == ran.count("otsu") == 1
    assert ran.count("drop_small") == ran.count("watershed") == 3
    alone = run(sweeping.plan(RECIPE.set("drop_small.area", 50)), sample)[0]["labels"]
    assert found.values == ("5", "50", "500")
    assert found.counts[1] == len(np.unique(alone)) - 1
    assert found.counts[0] > found.counts[2]


def test_a_value_that_fails_is_told_and_stops_nothing(image):
    sample = read(image)
    shown = read_range(RECIPE, "otsu.scale=0.5:1.5:3")
    broken = sweeping.Range(shown.target, "", (0.5, 1.0, -1.0), 1, shown.at, shown.where)
    found = swept(RECIPE, sample, broken, Traces(RECIPE, sample), 10**9)
    assert [bool(fault) for fault in found.faults] == [False, False, True]
    assert "outside" in found.faults[2]
    assert found.counts[2] is None
    assert found.frames[2] == {}


def test_too_much_is_refused_and_nothing_written(image, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "MOST_BYTES", 10_000)
    with pytest.raises(UsageError, match="more than 0 MB; ask for fewer values"):
        explain(RECIPE, image, tmp_path / "page.html", ["otsu.scale=0.5:1.5:9"])
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(UsageError, match="given twice"):
        explain(RECIPE, image, tmp_path / "page.html", ["otsu.scale=1:2:3", "otsu.scale=1:2:4"])


def test_the_slider_swaps_pictures_in_a_browser(image, tmp_path, cellkit):
    page, recipe = tmp_path / "made.html", tmp_path / "r.yaml"
    recipe.write_text(RECIPE.dump(), encoding="utf-8")
    cellkit(
        "explain", recipe, image, "-o", page, "--sweep", "otsu.scale=0.5:1.5:3", "--sweep", "drop_small.area=5:500:3"
    )
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', text)
    parsed = Page(text)
    sliders = [tag for tag in parsed.all("input") if tag["type"] == "range"]
    assert [slider["aria-label"] for slider in sliders] == ["otsu.scale", "drop_small.area"]
    told = json.loads(re.search(r'id="sweeps">(.*?)</script>', text, re.DOTALL).group(1))
    counts = told[0]["counts"]
    probe = """<script>
    addEventListener('error', event => document.body.append('FAULT ' + event.message));
    addEventListener('load', () => {
      const said = [];
      const say = (name, value) => said.push(`${name}=${value}`);
      const slider = i => document.querySelector(`#sweep${i} input`);
      const mask = () => document.querySelector('#step3 .open img').src;
      const gray = () => document.querySelector('#step1 .open img').src;
      const set = (i, at) => { slider(i).value = at; slider(i).dispatchEvent(new Event('input')); };
      const [own, before] = [mask(), gray()];
      set(0, 2);
      const other = mask();
      say('swapped', other !== own);
      say('before', gray() === before);
      say('text', slider(0).getAttribute('aria-valuetext'));
      say('output', document.querySelector('#sweep0 output').textContent);
      say('set', document.querySelector('#sweep0 .copy code').textContent);
      say('param', document.querySelector('#step3 .params td').textContent);
      say('shown', document.querySelector('#sweep0 .open img').className);
      set(1, 1);
      say('back', mask() === own && slider(0).value === '1');
      document.querySelector('#sweep1 .reset').click();
      say('reset', slider(1).value);
      document.querySelector('#sweep0 [data-step="3"]').click();
      say('panel', document.querySelector('#sweep0 .open img').src === mask());
      say('broken', [...document.images].filter(i => !i.naturalWidth).length);
      document.querySelector('#sweep0 .open').click();
      say('large', document.getElementById('large').open);
      document.body.append(said.join('; ') + ' END');
    });
    </script></body>"""
    dom = in_browser(text.replace("</body>", probe), tmp_path)
    said = dom.rsplit("</script>", 1)[1].split(" END")[0]
    assert "FAULT" not in said
    assert f"swapped=true; before=true; text=1.5, {counts[2]} objects; output=1.5 {counts[2]} objects" in said
    assert "set=--set otsu.scale=1.5; param=1.5; shown=on-base" in said
    assert "back=true; reset=0; panel=true" in said
    assert "broken=0; large=true" in said
