"""The page of the worst images: what became of each object, and that it is alive in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from cellkit.metrics import faults, matching
from cellkit.report.worst import OUTCOMES, Case, outcomes, worst_page
from test_metrics_matching import label_pairs

QUICK = settings(deadline=None, max_examples=50)
CODE = {name: i for i, name in enumerate(OUTCOMES, 1)}


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


def test_each_object_shows_what_became_of_it():
    truth = grid("11110000222200003333044000")
    pred = grid("55550000667700008888880099")
    codes, counts = outcomes(truth, pred)
    names = ["matched"] * 4 + [""] * 4 + ["split"] * 4 + [""] * 4
    assert codes[0, :16].tolist() == [CODE.get(name, 0) for name in names]
    assert codes[0, 16:20].tolist() == [CODE["matched"]] * 4
    assert codes[0, -2:].tolist() == [CODE["extra"]] * 2
    assert counts["split"] == counts["extra"] == 1
    assert counts["matched"] == 3  # 1, one half of 2 and 3
    codes, counts = outcomes(grid("110220", "000000"), grid("111110", "000000"))
    assert set(codes[0, :5].tolist()) == {CODE["merged"]}
    codes, counts = outcomes(grid("1110000"), grid("0011100"))
    assert (counts["missed"], counts["extra"]) == (1, 1)
    assert codes[0].tolist() == [CODE["missed"]] * 2 + [CODE["extra"]] * 3 + [0, 0]
    codes, _ = outcomes(grid("1111"), grid("1000"))
    assert codes[0].tolist() == [CODE["poor"]] * 4


@QUICK
@given(label_pairs())
def test_the_counts_are_those_of_the_metrics(pair):
    truth, pred = pair
    codes, counts = outcomes(truth, pred)
    wrong = faults.count(truth, pred)
    assert [counts[n] for n in ("split", "merged", "missed", "extra")] == [
        wrong.split, wrong.merged, wrong.missed, wrong.extra,
    ]  # fmt: skip
    assert counts["matched"] == matching.count(truth, pred, thresholds=(0.5,)).hits[0]
    assert np.array_equal(codes > 0, (truth > 0) | (pred > 0))


def cases() -> list[Case]:
    truth, pred = grid("110220", "110220", "000000"), grid("111110", "111110", "000003")
    image = np.random.default_rng(0).integers(0, 255, (3, 6, 3), np.uint8)
    return [
        Case("<b>one</b>", 0.25, truth, pred, image, "a <i>note</i>"),
        Case("two", 0.5, truth.astype(np.uint16), pred, image.astype(np.float32)),
        Case("three", 0.75, truth, truth),
        Case("four", 1.0, truth * 0, pred * 0, np.zeros((9, 9, 1), np.float32)),
    ]


@pytest.mark.parametrize("by", ["objects", "foreground", "classes"])
def test_the_page_is_whole_and_needs_no_network(by):
    text = worst_page(cases(), title="<worst>", headline="mean AP", rule="a < b", by=by)
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == 12
    assert len(re.findall("<img", text)) == 12
    assert not re.search(r"https?:", text.replace("http-equiv", ""))
    for raw in ("<b>one", "<i>note", "<worst>", "a < b"):
        assert raw not in text
    assert text.count('class="case"') == 4
    assert ("several predictions lie" in text) == (by == "objects")
    assert ("different classes" in text) == (by == "classes")


def test_pages_of_nothing_and_of_odd_sizes():
    assert "No image has a score" in worst_page([], title="x", headline="y", rule="z")
    for shape in ((1, 1), (1, 1300), (2100, 7)):
        labels = np.zeros(shape, np.int32)
        labels[0, 0] = 2**31 - 1
        worst_page([Case("a", 0.0, labels, labels, labels[..., None].astype(np.float32))], title="x", headline="y", rule="z")  # fmt: skip # noqa: E501


def test_eval_writes_a_page_that_renders_in_a_browser(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium or chrome on the PATH")
    from click.testing import CliRunner

    from cellkit_cli.main import cli

    rng = np.random.default_rng(0)
    for name in ("truth", "pred", "images"):
        (tmp_path / name).mkdir()
    for i in range(4):
        truth = np.kron(np.arange(16, dtype=np.uint16).reshape(4, 4), np.ones((16, 16), np.uint16))
        Image.fromarray(truth).save(tmp_path / "truth" / f"{i}.png")
        Image.fromarray(np.roll(truth, 3 * i, axis=1)).save(tmp_path / "pred" / f"{i}.png")
        Image.fromarray(rng.integers(0, 99, (64, 64), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    page = tmp_path / "worst.html"
    sides = [str(tmp_path / "truth"), str(tmp_path / "pred"), "--images", str(tmp_path / "images")]
    done = CliRunner().invoke(cli, ["eval", *sides, "--as", "instances", "--worst", "3", "--html", str(page)])
    assert done.exit_code == 0, done.output
    probe = """<script>
    addEventListener('error', event => document.body.append('FAULT ' + event.message));
    addEventListener('load', () => {
      const said = [];
      const say = (name, value) => said.push(`${name}=${value}`);
      say('pictures', document.querySelectorAll('.trio img').length);
      say('broken', [...document.images].filter(i => !i.naturalWidth).length);
      const canvas = document.createElement('canvas');
      const first = document.querySelector('#case0-2 img');
      canvas.width = first.naturalWidth; canvas.height = first.naturalHeight;
      canvas.getContext('2d').drawImage(first, 0, 0);
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let coloured = 0;
      for (let i = 0; i < data.length; i += 4) if (Math.max(data[i], data[i+1], data[i+2]) -
        Math.min(data[i], data[i+1], data[i+2]) > 40) coloured += 4;
      say('coloured', coloured > data.length / 4);
      const before = document.querySelector('#case0-1 .before');
      before.dispatchEvent(new Event('pointerdown'));
      say('held', document.querySelectorAll('.was').length);
      before.dispatchEvent(new Event('pointerup'));
      document.querySelector('#case0-0 .open').click();
      const large = document.getElementById('large');
      say('open', large.open + ' ' + large.querySelector('h2').textContent);
      large.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
      say('right', large.querySelector('h2').textContent);
      document.body.append(said.join('; ') + ' END');
    });
    </script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    wanted = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync virtual-time-budget=3000 dump-dom"
    )
    flags = [f"--{flag}" for flag in wanted.split()]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    assert 'data-ready="yes"' in dom
    said = dom.rsplit("</script>", 1)[1]
    assert "FAULT" not in said
    assert "pictures=9; broken=0; coloured=true; held=1; open=true 2: truth; right=2: prediction END" in said
