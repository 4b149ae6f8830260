"""The page that explains a run: complete in itself, escaped, one card a step, alive in a browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from cellkit.core import KINDS, Boxes, Instances
from cellkit.report.explain import Trace, explain_page
from cellkit.report.views import LARGEST, Base, facts, views


def disc(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2).astype(np.int32)


def step(number: int, stage: str, output: str, kind: str, value, **more) -> Trace:
    given = {"params": {}, "inputs": {"image": "image"}, "seconds": 0.01, "summary": f"Does `{stage}`."} | more
    return Trace(title=f"{number} {stage}", stage=stage, output=output, kind=KINDS.get(kind), value=value, **given)


@pytest.fixture
def traces() -> list[Trace]:
    labels = disc()
    image = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    gray = image.mean(axis=2, keepdims=True).astype(np.float32)
    boxes = Boxes(np.array([[3, 3, 20, 30]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    table = pd.DataFrame({"label": range(1, 13), "area": np.linspace(1, 2, 12), "rle": ["<i>1 2</i>"] * 12})
    return [
        Trace(
            "image", "", "The image as it was read.", {}, {}, "raw", KINDS["image"], image, 0.0, 0, "2 values missing"
        ),
        step(1, "grayscale", "image", "image", gray),
        step(2, "tile", "", "", None, inputs={}, params={"size": 128}),
        step(3, "predict", "prob", "prob", np.dstack([gray, 1 - gray]), depth=1, names=("cell", "<b>rest</b>")),
        step(4, "otsu", "mask", "mask", labels > 0, inputs={"image": "image", "histogram": "image"}),
        step(5, "distance", "field", "field", labels.astype(np.float32) * 3, inputs={"mask": "mask"}),
        step(6, "argmax", "classes", "classes", labels.astype(np.uint8)),
        step(7, "watershed", "labels", "labels", labels, inputs={"field": "field", "mask": "mask"}),
        step(8, "detect", "boxes", "boxes", boxes),
        step(9, "cut", "instances", "instances", Instances(boxes, (np.ones((27, 17), bool),))),
        step(10, "measure", "table", "table", table, inputs={"labels": "labels"}),
    ]


class Page(HTMLParser):
    """Counts tags, and checks that they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


def picture(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_page_is_whole_and_needs_no_network(traces):
    text = explain_page(traces, title="nuclei on a01.png")
    page = Page(text)
    sections = page.all("section")
    assert [s["id"] for s in sections] == [f"step{i}" for i in range(len(traces))]
    assert not re.search(r"https?:|//cdn|url\(\s*['\"]?(?!data:|\$)", text.replace("http-equiv", ""))
    images = page.all("img")
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    for image in images:
        height, width = picture(image["src"]).shape[:2]
        assert (int(image["width"]), int(image["height"])) == (width, height)
    ids = {s["id"] for s in sections}
    assert {b["data-before"] for b in page.all("button") if "data-before" in b} <= ids
    assert {a["data-of"] for a in page.all("a")} == ids


def test_what_comes_from_outside_is_escaped(traces):
    nasty = "<script>alert('x')</script>"
    traces[1] = step(
        1,
        nasty,
        nasty,
        "image",
        traces[1].value,
        note=nasty,
        params={nasty: nasty},
        inputs={nasty: nasty},
        summary=nasty,
    )
    text = explain_page(traces, title=nasty)
    assert len(Page(text).all("script")) == 1
    assert "<b>rest" not in text
    assert "<i>1 2" not in text
    assert "&lt;i&gt;1 2&lt;/i&gt;" in text


def test_a_card_says_what_the_step_read_wrote_and_took(traces):
    text = explain_page(traces, title="x")
    cards = re.split(r'<section class="', text)[1:]
    assert "reads <code>image</code>, the histogram of <code>image</code>; writes <code>mask</code>" in cards[4]
    assert "Does <code>otsu</code>." in cards[4]
    assert "10.0 ms" in cards[4]
    share = 100 * (disc() > 0).mean()
    assert f"{share:.1f} % of pixels" in cards[4]
    assert "2 values missing" in cards[0]
    assert "and 4 more rows" in cards[10]
    assert "<td>1.0909</td>" in cards[10]
    assert cards[3].startswith("step depth1")
    assert cards[2].startswith("step bracket")
    assert "11" not in re.search(r'<p class="facts">(.*?)</p>', text).group(1)
    assert "80 × 60 px · 10 steps · " in text


def test_parameters_show_unit_and_origin():
    image = np.zeros((8, 8, 1), np.float32)
    trace = step(1, "unsharp", "image", "image", image, params={"sigma": 2.5, "amount": 1.0, "gone": None})
    text = explain_page([trace], title="x")
    assert '<th scope="row">sigma</th><td>2.5 <span class="unit">px</span></td><td class="set">set</td>' in text
    assert '<th scope="row">amount</th><td>1</td><td class="default">default</td>' in text
    assert '<th scope="row">gone</th><td>none</td><td class=""></td>' in text


def test_before_is_what_the_step_started_from(traces):
    before = [b.get("data-before") for b in Page(explain_page(traces, title="x")).all("button") if "data-before" in b]
    assert before == ["step0", "step1", "step1", "step4", "step1", "step5", "step1", "step1"]
    traces[4] = step(4, "otsu", "mask", "mask", disc(20, 20) > 0)  # another frame
    text = explain_page(traces, title="x")
    assert 'data-before="step4"' not in text
    assert "Hold to see 1 grayscale" in text


def test_contours_lie_on_the_image_of_their_frame(traces):
    shown = {
        i: views(t.kind, t.value, t.names, Base.of(traces[0].value, (), True)) for i, t in enumerate(traces) if t.kind
    }
    assert [v.label for v in shown[7]] == ["on the image", "objects"]
    for i in (4, 6, 7, 8, 9):
        contours = next(v for v in shown[i] if v.label == "on the image").picture
        assert contours.shape == (240, 320, 4)
        assert 0 < (contours[..., 3] > 0).mean() < 0.2
    apart = views(KINDS["labels"], disc(), (), Base.of(traces[0].value, (), False))[0].picture
    assert apart.shape == (240, 320, 3)
    assert [v.label for v in views(KINDS["labels"], disc(20, 20), (), Base.of(traces[0].value, (), True))] == [
        "objects"
    ]


def test_channels_and_classes_can_be_looked_at_one_by_one():
    image = np.random.default_rng(0).random((9, 9, 4)).astype(np.float32)
    assert [v.label for v in views(KINDS["image"], image, (), None)] == ["colours", *(f"channel {i}" for i in range(4))]
    stains = views(KINDS["image"], image[..., :2], ("dapi", "gfp"), None)
    assert [v.label for v in stains] == ["colours", "dapi", "gfp"]
    assert [v.label for v in views(KINDS["image"], image[..., :3], (), None)] == ["colours"]
    assert [v.label for v in views(KINDS["image"], image[..., :1], ("dapi",), None)] == ["image"]
    assert [v.label for v in views(KINDS["prob"], image[..., :2], ("a", "b"), None)] == ["a", "b"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (2500, 3), (1, 40000), (1300, 1100)])
def test_pictures_of_any_size_fit_the_page(shape):
    rng = np.random.default_rng(0)
    values = rng.random(shape).astype(np.float32)
    labels = np.zeros(shape, np.int32)
    labels[-1, -1] = 7
    boxes = Boxes(np.array([[0, 0, shape[1], shape[0]]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    layers = {
        "image": values[..., None], "prob": values[..., None], "field": values, "mask": labels > 0,
        "classes": labels.astype(np.uint8), "labels": labels, "boxes": boxes,
        "instances": Instances(boxes, (np.ones(shape, bool),)),
    }  # fmt: skip
    base = Base.of(values[..., None], (), True)
    for name, value in layers.items():
        shown = views(KINDS[name], value, (), base)
        assert shown
        for view in shown:
            assert max(view.picture.shape[:2]) <= LARGEST
            assert view.picture.shape[:2] == base.picture.shape[:2]
            assert view.picture.dtype == np.uint8
    for view in views(KINDS["labels"], labels, (), base):  # one pixel in the corner is not lost
        assert view.picture[-1, -1].any() or shape == (1, 1)


def test_layers_with_nothing_in_them_have_figures_too():
    nothing = np.zeros((5, 5), np.int32)
    assert dict(facts(KINDS["labels"], nothing))["objects"] == "0"
    assert dict(facts(KINDS["mask"], nothing > 0))["foreground"] == "0.0 % of pixels"
    empty = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert facts(KINDS["boxes"], empty) == [("objects", "0")]
    field = np.full((5, 5), np.inf, np.float32)
    field[0, 0] = 2
    traces = [
        step(0, "", "image", "image", np.zeros((5, 5, 1), np.float32)),
        step(1, "distance", "field", "field", field),
        step(2, "components", "labels", "labels", nothing),
        step(3, "detect", "boxes", "boxes", empty),
        step(4, "cut", "instances", "instances", Instances(empty, ())),
        step(5, "measure", "table", "table", pd.DataFrame({"label": []})),
    ]
    Page(explain_page(traces, title="nothing"))
    Page(explain_page([], title="nothing at all"))


def test_layers_are_left_as_they_are(traces):
    for trace in traces:
        if isinstance(trace.value, np.ndarray):
            trace.value.setflags(write=False)
    assert explain_page(traces, title="x") == explain_page(traces, title="x")


def in_browser(text: str, tmp_path) -> str:
    """Open a page from a file, and return what has become of it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium or chrome on the PATH")
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    wanted = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync virtual-time-budget=3000 dump-dom"
    )
    flags = [f"--{flag}" for flag in wanted.split()]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout


def test_the_page_works_in_a_browser(traces, tmp_path):
    probe = """<script>
    addEventListener('error', event => document.body.append('FAULT ' + event.message));
    addEventListener('load', () => {
      const said = [];
      const say = (name, value) => said.push(`${name}=${value}`);
      say('broken', [...document.images].filter(i => !i.naturalWidth).length);
      const step = document.getElementById('step7');
      say('base', getComputedStyle(step.querySelector('img.on-base')).backgroundImage.startsWith('url("data:'));
      step.querySelector('[data-view="1"]').click();
      say('shown', [...step.querySelectorAll('.open img')].map(i => i.hidden));
      const before = step.querySelector('.before');
      before.dispatchEvent(new Event('pointerdown'));
      say('held', step.querySelectorAll('.was').length);
      before.dispatchEvent(new Event('pointerup'));
      say('released', step.querySelectorAll('.was').length);
      step.querySelector('.open').click();
      const large = document.getElementById('large');
      say('open', large.open + ' ' + large.querySelector('h2').textContent);
      large.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));
      say('left', large.querySelector('h2').textContent);
      large.dispatchEvent(new KeyboardEvent('keydown', {key: 'z'}));
      say('zoom', large.querySelector('.room').className);
      document.body.append(said.join('; ') + ' END');
    });
    </script></body>"""
    dom = in_browser(explain_page(traces, title="x").replace("</body>", probe), tmp_path)
    assert 'data-ready="yes"' in dom
    assert "FAULT" not in dom.rsplit("</script>", 1)[1]
    said = dom.rsplit("</script>", 1)[1].split(" END")[0]
    assert "broken=0; base=true; shown=true,false; held=1; released=0; open=true 7 watershed; left=6 argmax" in said
    assert "zoom=room whole" in said
