"""The page of a run: what is gathered, and what the page does in a browser."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cellkit.core.errors import KindError, UsageError
from cellkit.engine.report import write_report
from cellkit.io import fluorescence_field
from cellkit.report.packed import label_part, objects_of, packed
from cellkit.report.runreport import RunReport, bundled, report_page
from chromium import chromium

CLASSICAL = ["nuclei-classical", "--outputs", "labels,table,mask,overlay"]


def field_of_nuclei(path: Path, seed: int, size: int = 160) -> Path:
    picture, _ = fluorescence_field(size, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)
    return path


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, cellkit):
    """A run of four good images and one that is none."""
    folder = tmp_path_factory.mktemp("report")
    for i in range(4):
        field_of_nuclei(folder / "images" / f"field{i}.png", i)
    (folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    cellkit("run", *CLASSICAL, folder / "images", "-o", folder / "out", code=1)
    return folder / "out"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


def close(tab, page: Path) -> None:
    """What every page must be after it was used: without faults, and nothing asked of any machine."""
    assert tab.faults == []
    outside = [r for r in tab.requests if not r.startswith(("data:", "blob:", "about:"))]
    assert outside
    assert all(r.startswith(page.parent.absolute().as_uri()) for r in outside), outside
    tab.faults.clear()
    tab.requests.clear()


def opened(tab, number: int, row: int = -1) -> None:
    tab.run(f"cellkit.open({number}, {row})")
    tab.until("cellkit.viewer.now?.ready && cellkit.viewer.osd.world.getItemCount() > 0")


def place_of(tab, x: float, y: float) -> list[float]:
    """Where a pixel of the open image lies on the screen."""
    return tab.run(
        "(() => {const b = cellkit.viewer.osd.canvas.getBoundingClientRect(); const f = cellkit.viewer.frame();"
        f"return [b.x + f.x + {x} * f.scale, b.y + f.y + {y} * f.scale];}})()"
    )


def check_click(tab, out: Path, row: int) -> None:
    """A click on the object of a row shows that row, as the table of the run has it."""
    table = pd.read_parquet(out / "objects.parquet")
    wanted = table.iloc[row]
    number = tab.run(f"cellkit.data.images.findIndex(one => one.name === {wanted['image']!r})")
    labels = cv2.imread(str(out / "labels" / f"{wanted['image']}.tif"), cv2.IMREAD_UNCHANGED)
    y, x = (int(side[0]) for side in np.nonzero(labels == wanted["label"]))
    opened(tab, number)
    tab.run("cellkit.viewer.osd.viewport.goHome(true); null")
    tab.click(*place_of(tab, x + 0.5, y + 0.5))
    tab.until("document.querySelector('[data-part=object] table')")
    shown = dict(
        tab.run("[...document.querySelectorAll('[data-part=object] tr:not(.derived)')].map(r => "
                "[...r.children].map(c => c.textContent))")
    )  # fmt: skip
    assert set(shown) == set(table.columns) - {"image"}
    assert int(shown["label"]) == wanted["label"]
    for name, text in shown.items():
        assert float(text) == pytest.approx(float(wanted[name]), rel=1e-6, abs=1e-9), name


def check_brush(tab, out: Path) -> None:
    """What is dragged over in a histogram is brushed: in the state, in the grid, in the viewer."""
    table = pd.read_parquet(out / "objects.parquet")
    tab.run("document.getElementById('viewer').close()")
    left, top, width, height = tab.box("#charts .u-over")
    tab.drag((left + 0.3 * width, top + height / 2), (left + 0.8 * width, top + height / 2))
    low, high = tab.until("cellkit.plots[0].limits[0]")
    assert low < high
    name = tab.run("cellkit.plots[0].names[0]")
    assert name == "area"
    brushed = table[table[name].between(low, high)]
    assert 0 < len(brushed) < len(table)
    chosen = tab.run("[...cellkit.state.chosen].flatMap((one, i) => one ? [i] : [])")
    assert chosen == brushed.index.tolist()
    text = f"{len(brushed):,} objects brushed in {brushed['image'].nunique():,} images"
    assert tab.run("document.getElementById('brushed').textContent") == text
    tab.run("document.getElementById('only').click()")
    names = tab.run("[...document.querySelectorAll('.card:not([hidden]) .name')].map(e => e.textContent)")
    assert set(names) == set(brushed["image"])
    tab.run("document.querySelector('.card:not([hidden])').scrollIntoView({block: 'center', behavior: 'instant'})")
    tab.until("document.querySelector('.card:not([hidden]) canvas')")
    # In the viewer, the pixels of those objects, and of no other, are lit.
    first = brushed["image"].iloc[0]
    opened(tab, tab.run(f"cellkit.data.images.findIndex(one => one.name === {first!r})"))
    tab.until("cellkit.viewer.now.pictures.chosen")
    lit = tab.run(
        "(() => {const c = cellkit.viewer.now.pictures.chosen; const d = c.getContext('2d').getImageData(0, 0, "
        "c.width, c.height).data; const out = []; for (let i = 3; i < d.length; i += 4) out.push(Number(d[i] > 0)); "
        "return out;})()"
    )
    labels = cv2.imread(str(out / "labels" / f"{first}.tif"), cv2.IMREAD_UNCHANGED)
    wanted = np.isin(labels, brushed["label"][brushed["image"] == first])
    assert (np.array(lit).reshape(labels.shape) == wanted).all()
    tab.run("document.getElementById('viewer').close(); document.getElementById('clear').click()")
    assert tab.run("cellkit.state.chosen") is None


def check_grid(tab, names: list[str]) -> None:
    shown = "[...document.querySelectorAll('.card:not([hidden]) .name')].map(e => e.textContent)"
    assert tab.run(shown) == names
    counts = tab.run("cellkit.data.images.map(one => Object.values(one.objects)[0] ?? -1)")
    order = sorted(range(len(names)), key=lambda i: (counts[i] < 0, -counts[i], i))
    choose = (
        "(() => {const s = document.getElementById('order'); s.value = %r; s.dispatchEvent(new Event('change'));})()"
    )
    tab.run(choose % "most objects")
    assert tab.run(shown) == [names[i] for i in order]
    tab.run(choose % "place")
    part = names[1][:8]
    tab.run(
        f"(() => {{const f = document.getElementById('find'); f.value = {part!r}; "
        "f.dispatchEvent(new Event('input'));})()"
    )
    wanted = [name for name in names if part.lower() in name.lower()]
    tab.until(f"{shown}.length === {len(wanted)}")
    assert tab.run(shown) == wanted
    tab.run("(() => {const f = document.getElementById('find'); f.value = ''; f.dispatchEvent(new Event('input'));})()")
    tab.until(f"{shown}.length === {len(names)}")


def test_the_page_of_a_small_run_in_a_browser(small_run, cellkit, tab):
    said = cellkit("report", small_run).stdout
    assert "report.html: 5 images" in said
    page = small_run / "report.html"
    assert not (small_run / "report").exists()  # all of it is in the page
    tab.open(page)
    check_grid(tab, [f"field{i}" for i in range(4)] + ["torn"])
    check_click(tab, small_run, 7)
    check_brush(tab, small_run)
    close(tab, page)


def test_the_viewer_zooms_shows_layers_and_takes_keys(small_run, tab):
    write_report(small_run, single=False)
    page = small_run / "report.html"
    assert (small_run / "report" / "thumbs" / "0.jpg").is_file()
    tab.open(page)
    opened(tab, 0)
    before = tab.run("cellkit.viewer.osd.viewport.getZoom()")
    tab.run("document.querySelector('[data-part=in]').click()")
    assert tab.until(f"cellkit.viewer.osd.viewport.getZoom(true) > {before} * 1.4")
    names = tab.run("[...document.querySelectorAll('.knob label')].map(e => e.textContent)")
    assert names == ["image", "mask", "contours", "labels"]
    ink = (
        "(() => {const c = document.querySelector('.marks'); const d = c.getContext('2d').getImageData(0, 0, c.width, "
        "c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n;})()"
    )
    with_contours = tab.run(ink)
    assert with_contours > 0
    tab.key("c")
    assert tab.run(ink) == 0
    items = tab.run("cellkit.viewer.osd.world.getItemCount()")
    tab.run("document.querySelectorAll('.knob input[type=checkbox]')[1].click()")
    tab.until(f"cellkit.viewer.osd.world.getItemCount() === {items + 1}")
    tab.key("n")
    tab.until("document.querySelector('[data-part=object] caption')?.textContent.startsWith('Object ')")
    tab.key("]")
    tab.until("document.querySelector('#viewer h2').textContent === 'field1'")
    tab.until("cellkit.viewer.now?.ready")
    tab.key("Escape")
    tab.until("!document.getElementById('viewer').open")
    close(tab, page)


def test_what_stands_out_is_one_click_away(small_run, tab):
    write_report(small_run)
    table = pd.read_parquet(small_run / "objects.parquet")
    tab.open(small_run / "report.html")
    buttons = tab.run("[...document.querySelectorAll('#outliers button')].map(e => e.textContent)")
    assert {"largest", "smallest", "least round", "out of focus", "saturated", "images out of focus"} <= set(buttons)
    tab.run("[...document.querySelectorAll('#outliers button')].find(e => e.textContent === 'largest').click()")
    tab.until("document.querySelectorAll('#strip li').length > 0")
    shown = tab.run("[...document.querySelectorAll('#strip span')].map(e => Number(e.textContent))")
    assert shown == sorted(table["area"], reverse=True)[:24]
    tab.until("document.querySelectorAll('#rows .tabulator-row').length > 0")
    tab.run("document.querySelector('#strip button').click()")
    tab.until("cellkit.viewer.now?.ready && cellkit.viewer.now.row >= 0")
    assert tab.run("cellkit.viewer.now.row") == int(table["area"].idxmax())
    close(tab, small_run / "report.html")


def test_every_control_has_a_name_and_every_table_its_heads(small_run, tab):
    write_report(small_run)
    tab.open(small_run / "report.html")
    opened(tab, 0)
    tab.key("n")
    tab.until("document.querySelector('[data-part=object] table')")
    nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "combobox", "slider", "searchbox", "spinbutton", "link", "textbox"}
    found = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles]
    assert len(found) > 10
    assert [n for n in found if not n.get("name", {}).get("value")] == []
    assert tab.run("document.querySelectorAll('table').length > 1 && "
                   "[...document.querySelectorAll('table')].every(t => t.querySelector('th[scope]'))")  # fmt: skip
    assert tab.run("document.querySelectorAll('a.skip').length") == 2


def test_hostile_names_are_text_and_run_nothing(tmp_path, cellkit, tab):
    """Names, plates, channels and reasons may hold markup; of it the page makes text."""
    evil = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
    field_of_nuclei(tmp_path / "images" / "a.png", 0)
    cellkit("run", "nuclei-classical", tmp_path / "images", "-o", tmp_path / "out")
    out = tmp_path / "out"
    account = json.loads((out / "run.json").read_text())
    table = pd.read_parquet(out / "objects.parquet")
    shutil.rmtree(out / ".cellkit")  # so that the results alone are read
    line = account["images"][0] | {"fields": {evil: evil}, "notes": [evil]}
    broken = {"name": f"b{evil}", "source": evil, "status": "failed", "reason": evil}
    account |= {"images": [line, broken], "notes": [evil], "device": evil, "versions": {evil: evil}}
    account["step_seconds"] = {evil: 1.0}
    (out / "run.json").write_text(json.dumps(account))
    table[f"mean_{evil}"] = 1.0
    table["class"] = evil
    table.to_parquet(out / "objects.parquet")
    (out / "recipe.yaml").write_text(f"cellkit: 1\nname: {json.dumps(evil)}\nsteps: [grayscale]\noutputs: [labels]\n")
    for single in (True, False):
        write_report(out, title=evil, single=single)
        tab.open(out / "report.html")
        opened(tab, 0, 0)
        tab.until("document.querySelector('[data-part=object] table')")
        assert tab.run("document.title") == evil
        assert tab.run("document.querySelector('h1').textContent") == evil
        assert tab.run("document.querySelectorAll('img[src=x]').length") == 0
        assert tab.run("[...document.scripts].filter(s => !s.type && !s.src).length") == 1
        text = tab.run("document.querySelector('#viewer aside').textContent")
        assert text.count("onerror") >= 4
        assert tab.run("document.querySelector('.card .bad').textContent").endswith(evil)
        tab.until("document.querySelectorAll('#rows .tabulator-row').length > 0")
        assert evil in tab.run("document.getElementById('rows').textContent")
        tab.run("document.getElementById('viewer').close()")
        close(tab, out / "report.html")


def test_the_policy_lets_no_other_script_run(small_run, tab):
    write_report(small_run)
    tab.open(small_run / "report.html")
    tab.run("(() => {const s = document.createElement('script'); s.textContent = \"document.title = 'owned'\"; "
            "document.body.append(s); document.body.insertAdjacentHTML('beforeend', "
            "'<img src=\"data:,\" onerror=\"document.title = `owned`\">');})()")  # fmt: skip
    tab.until("true")
    assert tab.run("document.title") != "owned"
    assert any("Content Security Policy" in fault for fault in tab.faults)
    tab.faults.clear()
    tab.requests.clear()


def test_a_large_image_is_shown_from_tiles_of_its_pyramid(tmp_path, cellkit, tab):
    field_of_nuclei(tmp_path / "images" / "slide.png", 3, 1400)
    out = tmp_path / "out"
    cellkit("run", "nuclei-classical", tmp_path / "images", "-o", out, "--blocks", 512)
    cellkit("report", out)
    page = out / "report.html"
    entry = data_of(page)["images"][0]
    assert entry["labels"][0]["dzi"] == "deep/labels-0"
    full = cv2.imread(str(out / "report" / "deep" / "0_files" / str(entry["images"][0]["max"]) / "2_2.jpg"))
    assert full.shape[:2] == (1400 - 1024, 1400 - 1024)
    from cellkit.io import read

    whole = read(out / "report" / "deep" / "0.dzi")["raw"]  # as any reader of Deep Zoom sees it
    assert whole.shape[:2] == (1400, 1400)
    tab.open(page)
    assert "straight outline" in tab.run("document.getElementById('seams').textContent")
    table = pd.read_parquet(out / "objects.parquet")
    row = int(table["area"].idxmax())
    opened(tab, 0, row)
    tab.until("document.querySelector('[data-part=object] table')")
    tab.run("cellkit.viewer.osd.viewport.goHome(true); null")
    x, y = table["centroid_x"][row], table["centroid_y"][row]
    tab.run("cellkit.viewer.pick(0, 0)")
    tab.run(f"cellkit.viewer.pick({int(x)}, {int(y)})")
    tab.until(
        f"document.querySelector('[data-part=object] caption')?.textContent === 'Object {table['label'][row]} in slide'"
    )
    close(tab, page)


def test_real_images_in_a_browser(data_folder, tmp_path, cellkit, tab):
    images = sorted((data_folder / "dsb2018" / "images").glob("*.png"))[:200]
    out = tmp_path / "out"
    cellkit("run", "nuclei-classical", *images, "-o", out, "--outputs", "labels,table,report")
    assert not (out / "overlays").exists()
    page = out / "report.html"
    tab.open(page)
    names = [line["name"] for line in json.loads((out / "run.json").read_text())["images"]]
    assert len(names) == 200
    assert all(name in page.read_text() for name in names)
    check_grid(tab, names)
    check_click(tab, out, 100)
    check_brush(tab, out)
    close(tab, page)


def test_a_run_that_is_not_finished_has_a_page(tmp_path, cellkit):
    for i in range(3):
        field_of_nuclei(tmp_path / "images" / f"{i}.png", i)
    out = tmp_path / "out"
    cellkit("run", *CLASSICAL, tmp_path / "images", "-o", out)
    import sqlite3

    for name in ("run.json", "recipe.yaml", "objects.parquet", "objects.csv", "images.csv"):
        (out / name).unlink()
    with sqlite3.connect(out / ".cellkit" / "state.sqlite") as db:
        db.execute("UPDATE images SET status = 'waiting' WHERE name = '2'")
    db.close()
    cellkit("report", out)
    text = (out / "report.html").read_text()
    assert "stopped before its end; the same command goes on: 1 images are waiting" in text
    data = data_of(out / "report.html")
    assert [one["status"] for one in data["images"]] == ["done", "done", "waiting"]
    assert data["sets"][0]["starts"][-1] > 0
    assert "name: nuclei-classical" in text


def test_images_that_are_gone_are_shown_from_overlays_or_labels(tmp_path, cellkit):
    field_of_nuclei(tmp_path / "images" / "a.png", 0)
    out = tmp_path / "out"
    cellkit("run", *CLASSICAL, tmp_path / "images", "-o", out)
    shutil.rmtree(tmp_path / "images")
    write_report(out)
    entry = data_of(out / "report.html")["images"][0]
    assert "the overlay is shown in place of the image: contours are part of it" in entry["notes"]
    assert entry["images"][0]["file"] == "images/0.jpg"
    shutil.rmtree(out / "overlays")
    write_report(out)
    entry = data_of(out / "report.html")["images"][0]
    assert any("cannot be read any more" in note for note in entry["notes"])
    assert entry["thumb"]
    shutil.rmtree(out / "labels")
    written = write_report(out)
    assert data_of(written.page)["images"][0]["thumb"] == ""


def test_runs_without_tables_are_measured_for_the_page(tmp_path, cellkit):
    field_of_nuclei(tmp_path / "images" / "a.png", 0)
    out = tmp_path / "out"
    cellkit("run", "nuclei-classical", tmp_path / "images", "-o", out, "--outputs", "labels")
    write_report(out)
    data = data_of(out / "report.html")
    labels = cv2.imread(str(out / "labels" / "a.tif"), cv2.IMREAD_UNCHANGED)
    (made,) = data["sets"]
    assert made["layer"] == "labels"
    assert made["starts"] == [0, len(np.unique(labels)) - 1]
    names = [column["name"] for column in made["columns"]]
    assert names[:2] == ["label", "area"]
    assert "sharpness" in names


@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (1, 300), (30, 20)])
def test_empty_images_of_any_size_have_a_page(tmp_path, cellkit, shape):
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros(shape, np.uint8))
    out = tmp_path / "out"
    (tmp_path / "r.yaml").write_text(
        "steps: [{threshold: {value: 0.5}}, components, measure]\noutputs: [labels, table]\n"
    )
    cellkit("run", tmp_path / "r.yaml", folder, "-o", out)
    write_report(out)
    entry = data_of(out / "report.html")["images"][0]
    assert (entry["height"], entry["width"]) == shape
    assert entry["notes"] == []
    assert entry["objects"] == {"labels": 0}


def test_several_layers_and_channels(tmp_path, cellkit):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "five.npy", rng.random((40, 50, 5)).astype(np.float32))
    np.save(folder / "two.npy", rng.random((40, 50, 2)).astype(np.float32))
    (tmp_path / "r.yaml").write_text(
        "steps:\n  - grayscale: {weights: mean}\n  - threshold: {value: 0.5}\n  - components\n"
        "  - components: {}\n    out: others\n  - measure: {properties: [area]}\n    in: {objects: others}\n"
        "outputs: [labels, others, table, mask]\n"
    )
    cellkit("run", tmp_path / "r.yaml", folder, "-o", tmp_path / "out")
    write_report(tmp_path / "out")
    data = data_of(tmp_path / "out" / "report.html")
    five, two = data["images"]
    assert len(five["images"]) == 6
    assert len(two["images"]) == 3
    assert [one["name"] for one in five["labels"]] == ["labels", "others"]
    assert [one["name"] for one in five["layers"]] == ["mask"]
    assert [(made["name"], made["layer"]) for made in data["sets"]] == [
        ("table", "others"), ("labels (measured for this page)", "labels"),
    ]  # fmt: skip


def test_boxes_are_objects_too(tmp_path, tab):
    folder = tmp_path / "out"
    folder.mkdir()
    field_of_nuclei(tmp_path / "a.png", 0)
    rows = {"image": ["a", "a"], "x0": [10.0, 60.0], "y0": [20.0, 80.0], "x1": [40.0, 90.0], "y1": [50.0, 100.0]}
    pd.DataFrame(rows | {"score": [0.9, 0.4], "class": [0, 1]}).to_parquet(folder / "boxes.parquet")
    line = {"name": "a", "source": str(tmp_path / "a.png"), "status": "done", "objects": {"boxes": 2}}
    (folder / "run.json").write_text(json.dumps({"images": [line]}))
    write_report(folder)
    tab.open(folder / "report.html")
    opened(tab, 0)
    tab.run("cellkit.viewer.pick(70, 85)")
    shown = tab.until("document.querySelector('[data-part=object] table')?.textContent")
    assert "score0.4" in shown
    close(tab, folder / "report.html")


@pytest.mark.parametrize("lines", [[], [{"name": "a", "source": "gone.png", "status": "failed", "reason": "is torn"}]])
def test_runs_with_nothing_in_them_have_a_page(tmp_path, tab, lines):
    (tmp_path / "run.json").write_text(json.dumps({"images": lines}))
    write_report(tmp_path)
    tab.open(tmp_path / "report.html")
    assert tab.run("document.querySelectorAll('.card').length") == len(lines)
    if lines:
        tab.run("cellkit.open(0)")
        tab.until("document.querySelector('[data-part=nothing]').textContent === 'is torn'")
        tab.run("document.getElementById('viewer').close()")
    else:
        assert "no images" in tab.run("document.getElementById('summary').textContent")
    close(tab, tmp_path / "report.html")


def test_a_folder_without_a_run_is_refused(tmp_path, cellkit):
    with pytest.raises(UsageError, match="holds no run of cellkit"):
        write_report(tmp_path)
    done = cellkit("report", tmp_path / "nothing", code=2)
    assert "holds no run of cellkit" in done.stderr
    (tmp_path / "run.json").write_text("{")
    assert "is damaged" in cellkit("report", tmp_path, code=2).stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom the system can refuse")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, cellkit):
    (tmp_path / "run.json").write_text('{"images": []}')
    tmp_path.chmod(0o500)
    done = cellkit("report", tmp_path, code=2)
    tmp_path.chmod(0o700)
    assert "cannot be written" in done.stderr


def test_a_page_that_cannot_take_its_place_is_named(tmp_path, cellkit):
    (tmp_path / "run.json").write_text('{"images": []}')
    (tmp_path / "report.html").mkdir()
    assert "cannot be written" in cellkit("report", tmp_path, code=2).stderr
    assert not (tmp_path / ".report.partial").exists()


def test_report_as_an_output_writes_what_it_shows_and_costs_no_second_run(tmp_path, cellkit):
    field_of_nuclei(tmp_path / "images" / "a.png", 0)
    out = tmp_path / "out"
    cellkit("run", "nuclei-classical", tmp_path / "images", "-o", out, "--outputs", "report")
    assert (out / "labels" / "a.tif").is_file()
    assert (out / "objects.parquet").is_file()
    assert len(data_of(out / "report.html")["sets"]) == 1
    done = cellkit("run", "nuclei-classical", tmp_path / "images", "-o", out, "--outputs", "labels,table,rle", "--json")
    assert json.loads(done.stdout)["kept"] == 1
    account = json.loads((out / "run.json").read_text())
    assert account["peak_memory"] > 1 << 20


def test_the_account_tells_the_memory_of_every_step(small_run):
    account = json.loads((small_run / "run.json").read_text())
    assert set(account["step_memory"]) == set(account["step_seconds"])
    assert all(1 << 20 < held <= account["peak_memory"] for held in account["step_memory"].values())


def test_objects_are_measured_as_pixel_by_pixel():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, (23, 17)).astype(np.int32) * 7
    values = rng.random(labels.shape)
    found = objects_of(labels)
    assert found.ids.tolist() == [7, 14, 21, 28]
    for i, number in enumerate(found.ids):
        ys, xs = np.nonzero(labels == number)
        assert found.area[i] == len(ys)
        assert found.centroid[i] == pytest.approx([ys.mean(), xs.mean()])
        assert found.box[i].tolist() == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
        assert found.mean(values)[i] == pytest.approx(values[labels == number].mean())
    part = label_part(labels, found)
    kinds = {"u1": np.uint8, "u2": np.uint16}
    import base64

    whose, lengths = (
        np.frombuffer(base64.b64decode(part[k]["data"]), kinds[part[k]["type"]]) for k in ("place", "lengths")
    )
    assert (np.repeat(np.concatenate([[0], found.ids])[whose], lengths).reshape(labels.shape) == labels).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 255], "u1"), ([-1, 5], "i1"), ([0, 65535], "u2"), ([0, 2**32 - 1], "u4"), ([0, 2**40], "f8"),
     ([0.5, np.nan], "f4"), ([1e300, 0.0], "f8"), ([], "u1")],
)  # fmt: skip
def test_columns_keep_their_digits(values, kind):
    import base64

    array = np.array(values) if values else np.zeros(0, np.int64)
    made = packed(array)
    assert made["type"] == kind
    back = np.frombuffer(base64.b64decode(made["data"]), kind)
    assert back == pytest.approx(array, rel=1e-7, nan_ok=True)
    with pytest.raises(KindError):
        packed(np.array([2**60]))


def test_the_bundle_belongs_to_its_sources(tmp_path):
    import hashlib
    import re
    import subprocess

    root = Path(__file__).resolve().parent.parent
    sources = sorted(path.name for path in (root / "web" / "src").iterdir())
    names = ["build.mjs", "package.json", "package-lock.json", *(f"src/{name}" for name in sources)]
    texts = [f"{name}\n{(root / 'web' / name).read_text(encoding='utf-8')}" for name in names]
    wanted = hashlib.sha256("".join(texts).encode()).hexdigest()
    for name in ("report.js", "report.css"):
        found = re.match(r"/\* sources sha256:(\w+) \*/\n", bundled(name))
        assert found is not None
        assert found[1] == wanted, "web/ has changed: npm run build there, and commit cellkit/report/bundle"
    assert "</script" not in bundled("report.js").lower()
    if shutil.which("node") is None or not (root / "web" / "node_modules" / "esbuild").is_dir():
        pytest.skip("building anew needs node, and `npm ci` in web")
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=root / "web", check=True, capture_output=True)
    for name in ("report.js", "report.css", "LICENSES.txt"):
        assert (tmp_path / name).read_text(encoding="utf-8") == bundled(name)


def test_the_page_stands_without_a_run():
    text = report_page(RunReport("a & b", []))
    assert "<title>a &amp; b</title>" in text
    assert "script-src 'sha256-" in text
    assert "'self'" in report_page(RunReport("", []))
    assert "'self'" not in report_page(RunReport("", [], inside={}))
