"""The recipe `nuclei` and the network that ships with it."""

from __future__ import annotations

import numpy as np
import pytest

import cellkit as ck
from cellkit.core import KindError
from cellkit.io.samples import fluorescence_field
from cellkit.metrics import PROTOCOLS, Settings, matching
from cellkit.models.store import find_model
from cellkit.train.splits import read_split

STAIN = np.float32([0.35, 0.75, 0.55])


@pytest.fixture(scope="module")
def field():
    image, labels = fluorescence_field(320, seed=5)
    return image.astype(np.float32)[..., None] / 255, labels


def found(image, **changed):
    recipe = ck.Recipe.read("nuclei")
    for target, value in changed.items():
        recipe = recipe.set(target.replace("__", "."), value)
    return ck.run(recipe, ck.Sample.of(image=np.ascontiguousarray(image, np.float32)))


def f1(truth, labels):
    return float(matching.f1(matching.count(truth, labels))[0])


LOOKS = {
    "gray": lambda image: image,
    "red, green and blue alike": lambda image: np.repeat(image, 3, axis=2),
    "blue alone": lambda image: image * np.float32([0, 0.1, 1]),
    "dim": lambda image: image * np.float32(0.02),
    "dark on bright": lambda image: 1 - image * np.float32(0.7),
    "stained": lambda image: 1 - image * (1 - STAIN),
}


@pytest.mark.parametrize("look", LOOKS)
def test_nuclei_are_found_however_they_look(field, look):
    image, truth = field
    assert f1(truth, found(LOOKS[look](image))["labels"]) > 0.85


def test_more_than_a_classical_recipe_finds(field):
    image, truth = field
    classical = ck.run(ck.Recipe.read("nuclei-classical"), ck.Sample.of(image=image))["labels"]
    assert f1(truth, found(image)["labels"]) > f1(truth, classical)


def test_a_diameter_helps_where_nuclei_are_far_larger_than_any_seen(field):
    image, truth = field
    image, truth = image[:120, :120], truth[:120, :120]
    large, large_truth = (np.kron(a, np.ones((6, 6, 1)[: a.ndim], a.dtype)) for a in (image, truth))
    told = found(large, resize__diameter=110)["labels"]
    assert told.shape == large_truth.shape
    assert f1(large_truth, told) > max(0.8, f1(large_truth, found(large)["labels"]) + 0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 3), (17, 13, 1)])
def test_tiny_and_empty_pictures(shape):
    result = found(np.zeros(shape, np.float32))
    assert result["labels"].shape == shape[:2]
    assert result["labels"].max() == 0
    assert len(result["table"]) == 0


def test_two_channels_are_refused_with_the_fix():
    with pytest.raises(KindError, match=r"to_rgb wants one channel.*choose one with `channel: \{name: 0\}`"):
        found(np.zeros((20, 20, 2), np.float32))


def test_the_shipped_file_is_small_and_says_what_it_is(cellkit):
    located = find_model("nuclei")
    card = located.card
    assert located.weights.stat().st_size < 6_000_000
    assert "CC0" in card.licence
    assert "BBBC038" in card.data
    assert card.weak
    assert card.figures["validation"]["images"] == 100
    done = cellkit("models", "verify", "nuclei")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_score_on_images_it_was_not_trained_on(data_folder):
    """Those of the validation part, through the recipe as it ships; see the card and the README for the figures."""
    folder = data_folder / "dsb2018"
    recipe = ck.Recipe.read("nuclei").set("predict.precision", "float32")
    counts = {"dsb2018": {}, "pixel": {}}
    for row in read_split(folder / "split.csv").part("val"):
        labels = ck.run(recipe, ck.read(folder / "images" / f"{row.name}.png"))["labels"]
        truth = ck.io.read_labels(folder / "labels" / f"{row.name}.png")
        for name, found_so_far in counts.items():
            found_so_far[row.name] = PROTOCOLS[name].count(truth, labels)
    score, pixels = (PROTOCOLS[name].report(counts[name], Settings()).value for name in counts)
    assert len(counts["pixel"]) == 100
    assert score > 0.61
    assert pixels > 0.925
