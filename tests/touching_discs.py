"""Pictures of touching discs with their truth, and a scorer of recipes on them, for tests of tuning."""

from __future__ import annotations

import cv2
import numpy as np

from cellkit.core.recipe import load
from cellkit.io import find, read_labels
from cellkit.metrics import PROTOCOLS
from cellkit.tune.scoring import Case, Means, Scorer
from cellkit.tune.space import space

SPLITTING = """
steps:
  - threshold: {value: 0.35}
  - distance
  - maxima: {min_distance: 20}
  - watershed
outputs: [labels]
"""


def disc(image, centre, radius, value):
    cv2.circle(image, centre, radius, value, -1)


def pairs_of_discs(number, side=96):
    """Return an image of touching discs, each in a dim halo, and its truth: the discs apart, without their halo."""
    rng = np.random.default_rng(number)
    image, truth = np.full((side, side), 40, np.uint8), np.zeros((side, side), np.int32)
    for row in (24, 72):
        for column in (14, 62):
            y, x = row + int(rng.integers(-6, 7)), column + int(rng.integers(-2, 5))
            centres = [(x, y), (x + 15, y)]
            for centre in centres:
                disc(image, centre, 11, 115)
            for centre in centres:
                disc(image, centre, 8, 220)
            for centre in centres:
                disc(truth, centre, 8, int(truth.max()) + 1)
    return image, truth


def written(folder, images):
    """Write images and truths, {name: (image, truth)}, and return the two folders."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name, (image, truth) in images.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), truth.astype(np.uint16))
    return folder / "images", folder / "labels"


def cases_of(images, labels, groups=None):
    def reader(name):
        return lambda _: read_labels(labels / f"{name}.png")

    return [Case(s.name, s, reader(s.name), (groups or {}).get(s.name, "")) for s in find([images])]


def write_discs(folder):
    """Write six such pictures."""
    return written(folder, {f"d{i}": pairs_of_discs(i) for i in range(6)})


def scorer_of(folders, recipe=SPLITTING, vary=(), protocol="dsb2018", **more):
    searched = space(load(recipe), protocol, vary)
    means = Means(workers=2, memory=more.pop("memory", None))
    return Scorer(searched, cases_of(*folders, more.pop("groups", None)), PROTOCOLS[protocol], means=means, **more)
