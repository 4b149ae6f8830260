"""Networks in recipes: check, run, brackets, workers, resuming, devices and memory."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import psutil
import pytest
import torch

import cellkit as ck
from cellkit.core.recipe import load
from cellkit.engine import Settings, run_batch
from cellkit.engine.footprint import Room, bytes_per_pixel
from cellkit.models import Card, measure_context, save_model
from cellkit.models.runtime import Options, forget_models, open_model
from tiny_models import TINY, tiny

RECIPE = """
steps:
  - grayscale
  - predict: {{model: "{model}"}}
  - channel: {{name: nucleus}}
  - otsu
  - components
outputs: [labels, prob]
"""


@pytest.fixture(scope="module", autouse=True)
def _no_network_outlives_these_tests():
    yield
    forget_models()


def saved(path, *, seed=0, name="unet-compact", **more):
    card = Card("tiny", name, "dense", 1, ("nucleus", "border"), "sigmoid", TINY[name])
    network = tiny(name, 1, 2, seed)
    return save_model(path, network, measure_context(network, replace(card, **more)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    saved(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(64, 64), (61, 47), (1, 1), (128, 40), (3, 97), (64, 64), (150, 150), (2, 64)]):
        image = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), 3)
        span = max(float(np.ptp(image)), 1e-6)
        cv2.imwrite(str(folder / f"{i}.png"), ((image - image.min()) / span * 255).astype(np.uint8))
    return folder


def recipe_of(model, **steps):
    recipe = ck.Recipe.load(RECIPE.format(model=model))
    for target, value in steps.items():
        recipe = recipe.set(target.replace("__", "."), value)
    return recipe


def result_of(folder):
    return {p.relative_to(folder): p.read_bytes() for name in ("labels", "prob") for p in (folder / name).iterdir()}


def test_any_number_of_workers_gives_the_same_bytes(model, images, tmp_path):
    found = []
    for workers in (1, 2, 5):
        run_batch(recipe_of(model), [images], tmp_path / str(workers), settings=Settings(workers))
        found.append(result_of(tmp_path / str(workers)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 16


def test_run_names_its_networks_and_equals_the_stage_itself(model, images, tmp_path):
    result = run_batch(recipe_of(model), [images], tmp_path)
    assert (result.done, result.failed) == (8, ())
    account = json.loads((tmp_path / "run.json").read_text())
    assert account["digests"]["networks"] == {str(model): ck.models.find_model(str(model)).card.sha256}
    assert account["device"] == open_model(str(model), Options(alone=False)).device
    assert "torch" in account["versions"]
    sample = ck.read(images / "1.png")
    alone = ck.run(recipe_of(model), sample)
    assert alone.layer("prob").names == ("nucleus",)
    script = ck.stages.predict(ck.stages.grayscale(sample["image"]), model=str(model))
    assert np.abs(script[..., :1] - alone["prob"]).max() < 1e-5


def test_inside_a_tile_the_result_is_the_same_and_the_tiles_go_together(model, images):
    card = ck.models.find_model(str(model)).card
    halo = -(-card.halo // card.divisor) * card.divisor
    tiled = ck.Recipe.load(f"""
steps:
  - grayscale
  - tile: {{size: 32, halo: {halo}}}
    steps:
      - predict: {{model: "{model}"}}
""")
    assert not ck.check(tiled)
    sample = ck.read(images / "6.png")
    whole = ck.stages.predict(ck.stages.grayscale(sample["image"]), model=str(model))
    seen = []
    from cellkit.core import plan
    from cellkit.engine.execute import execute

    result = execute(plan(tiled), sample, observe=seen.append)
    assert np.abs(result["prob"] - whole).max() < 1e-4
    told = {one.step.spec.name: one.parts for one in seen}
    assert told["predict"] == 25
    off = tiled.set("tile.halo", halo + 1)
    assert any("grid of" in str(fault) and fault.warning for fault in ck.check(off))
    near = tiled.set("tile.halo", 0)
    assert any("depend on the tiling" in str(fault) for fault in ck.check(near))


def test_a_network_that_has_changed_redoes_the_images(images, tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path, seed=1)
    recipe = recipe_of(path)
    run_batch(recipe, [images], tmp_path / "out")
    assert run_batch(recipe, [images], tmp_path / "out").kept == 8
    before = result_of(tmp_path / "out")
    saved(path, seed=2)
    again = run_batch(recipe, [images], tmp_path / "out")
    assert (again.done, again.kept) == (8, 0)
    assert result_of(tmp_path / "out") != before


def test_missing_weights_warn_in_check_and_stop_a_run(cellkit, images, tmp_path):
    folder = tmp_path / "model"
    saved(folder, obtain="train it: cellkit train nuclei.yaml")
    (folder / "weights.safetensors").unlink()
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(model=folder))
    done = cellkit("check", path)
    assert "warning: steps[1] predict.model: the weights of tiny are missing" in done.stderr
    done = cellkit("run", path, images, "-o", tmp_path / "out", code=2)
    assert "train it: cellkit train nuclei.yaml" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_check_says_of_models(model, tmp_path):
    def faults(**steps):
        return [str(fault) for fault in ck.check(recipe_of(model, **steps))]

    assert faults() == []
    assert "no such file" in faults(predict__model=str(tmp_path / "none.safetensors"))[0]
    assert "names no model" in faults(predict__model="")[0]
    assert "is an architecture, not a trained model" in faults(predict__model="unet")[0]
    assert "px of context, got 1" in faults(predict__halo=1)[0]
    saved(tmp_path / "trained", recipe=("grayscale", {"gaussian": {"sigma": 2.0}}))
    assert "here `gaussian` is missing" in faults(predict__model=str(tmp_path / "trained"))[0]


def test_devices_on_the_command_line(cellkit, model, images, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(model=model))
    run = ("run", path, images / "1.png", "-o", tmp_path / "out")
    assert "1 of 1 images" in cellkit(*run, "--device", "cpu").stderr
    assert "wanted auto, cpu, cuda or cuda:N, got 'gpu'" in cellkit(*run, "--device", "gpu", code=2).stderr
    if not torch.cuda.is_available():
        assert "use cpu or auto" in cellkit(*run, "--device", "cuda", code=2).stderr
    assert "--memory 100 MB: too little" in cellkit(*run, "--memory", "100MB", code=2).stderr
    assert "wanted a size" in cellkit(*run, "--memory", "much", code=2).stderr


def test_a_large_image_stays_within_the_memory_it_is_given(cellkit, model, tmp_path):
    field = cv2.GaussianBlur(np.random.default_rng(0).random((1024, 1024), np.float32), (0, 0), 5)
    field = ((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), np.tile(field, (8, 8)))
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(model=model).replace("[labels, prob]", "[labels]"))
    budget = 3_200_000_000
    command = [cellkit.script, "run", path, tmp_path / "large.png", "-o", tmp_path / "out", "--memory", "3.2GB"]
    peak = 0
    process = psutil.Popen([str(part) for part in command])
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    assert process.wait() == 0
    assert 0 < peak < budget
    assert ck.read_labels(tmp_path / "out" / "labels" / "large.tif").shape == (8192, 8192)
    shutil.rmtree(tmp_path)


def test_an_image_too_large_for_its_share_is_done_in_blocks_or_named_and_the_others_go_on(model, images, tmp_path):
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((9000, 9000), np.uint8))
    needed = psutil.Process().memory_info().rss + 1_200_000_000
    both, settings = [tmp_path / "huge.png", images / "0.png"], Settings(memory=needed)
    result = run_batch(recipe_of(model), both, tmp_path / "out", settings=settings)
    assert result.done == 2
    assert (tmp_path / "out" / "labels" / "huge.zarr").is_dir()
    whole = load("cellkit: 1\nname: whole\nsteps: [clahe, otsu, components]\n")
    settings = Settings(memory=psutil.Process().memory_info().rss + 1_200_000_000)
    result = run_batch(whole, both, tmp_path / "no", settings=settings)
    assert result.done == 1
    assert "9000 x 9000 px need about" in result.failed[0][2]
    assert "clahe: needs the whole image at once" in result.failed[0][2]


def test_bytes_per_pixel_follow_the_layers(model):
    plan = ck.core.plan(recipe_of(model))
    # raw, an image of as many channels, two probabilities of four bytes each, and the room a step works in
    assert bytes_per_pixel(plan, ["labels"], 3) == 12 + 12 + 8 + 12
    assert bytes_per_pixel(plan, ["labels"], 1) < bytes_per_pixel(plan, ["labels", "prob"], 3)


def test_room_is_for_one_at_least_and_for_no_more_than_fit():
    import threading

    room = Room(100)
    room.enter(1000)  # alone
    order = []

    def come(size):
        room.enter(size)
        order.append(size)

    threads = [threading.Thread(target=come, args=(60,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert order == []
    room.leave(1000)
    threads[0].join(1)
    time.sleep(0.05)
    assert order == [60]
    room.leave(60)
    for thread in threads:
        thread.join(1)
    assert order == [60, 60]


def test_the_classical_recipe_does_not_load_torch(images, tmp_path):
    import subprocess

    code = (
        "import sys, cellkit as ck; ck.run_batch(ck.Recipe.read('nuclei-classical'), [sys.argv[1]], sys.argv[2]); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(images / "0.png"), str(tmp_path)], check=True)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_gpu_gives_what_the_cpu_gives(model, lanes):
    image = np.random.default_rng(0).random((333, 257, 1), np.float32)
    here = ck.stages.predict(image, model=open_model(str(model), Options("cpu")))
    there = ck.stages.predict(image, model=open_model(str(model), Options("cuda", lanes=lanes, batch=4)))
    assert np.abs(here - there).max() < 1e-3


@pytest.mark.cuda
@needs_gpu
def test_a_gpu_gives_the_same_bytes_for_any_number_of_workers(model, images, tmp_path):
    found = []
    for workers in (1, 4):
        run_batch(recipe_of(model), [images], tmp_path / str(workers), settings=Settings(workers, device="cuda"))
        found.append(result_of(tmp_path / str(workers)))
    assert found[0] == found[1]


@pytest.mark.cuda
@needs_gpu
def test_a_gpu_out_of_memory_goes_on_with_smaller_batches(model):
    network = open_model(str(model), Options("cuda", batch=64, lanes=1))
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.5e9 / total))
    try:
        found = network(np.zeros((64, 1, 1024, 1024), np.float32))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.shape == (64, 2, 1024, 1024)
    assert network.notes
    assert free > 0


def test_tiles_that_are_mirrored_one_by_one(tmp_path, monkeypatch):
    """The example for large pictures, at a small size, against cutting, mirroring and keeping the middle by hand."""
    from pathlib import Path

    network = tiny("unet-vgg16bn", 3, 1, 0)
    card = Card("vgg", "unet-vgg16bn", "dense", 3, ("nucleus",), "sigmoid", TINY["unet-vgg16bn"])
    saved_card = save_model(tmp_path / "nuclei-vgg16bn.safetensors", network, card, golden=False)
    monkeypatch.chdir(tmp_path)
    recipe = ck.Recipe.read(Path(__file__).parent.parent / "examples" / "nuclei-vgg-tiles.yaml")
    image = np.random.default_rng(0).random((300, 270, 3), np.float32)
    result = ck.run(recipe, ck.Sample.of(image=image))
    wanted = np.zeros((300, 270), np.float32)
    for top in range(0, 300, 128):
        for left in range(0, 270, 128):
            tile = image[top : top + 128, left : left + 128]
            above, before = ((256 - side) // 2 for side in tile.shape[:2])
            around = ((above, 256 - tile.shape[0] - above), (before, 256 - tile.shape[1] - before), (0, 0))
            padded = torch.from_numpy(np.pad(tile, around, mode="reflect").transpose(2, 0, 1)[None].copy())
            with torch.inference_mode():
                prob = network(padded).sigmoid()[0, 0].numpy()
            inner = prob[above : above + tile.shape[0], before : before + tile.shape[1]]
            wanted[top : top + 128, left : left + 128] = inner
    assert saved_card.divisor == 32
    assert np.abs(result["prob"][..., 0] - wanted).max() < 1e-4
    assert result["labels"].shape == (300, 270)
