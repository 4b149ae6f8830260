"""Hypothesis strategies for images, masks and label images, odd sizes and constant ones among them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

ONE_CHANNEL = st.just(1)
SIDES = st.sampled_from([1, 2, 3, 5, 7, 13, 16, 31, 37])


@st.composite
def images(draw, channels=ONE_CHANNEL, sides=SIDES):
    """Image: float32 (y, x, c) in [0, 1]; noise, constant, steps or smooth blobs."""
    h, w, c = draw(sides), draw(sides), draw(channels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    look = draw(st.sampled_from(["noise", "constant", "steps", "blobs"]))
    if look == "constant":
        return np.full((h, w, c), draw(st.sampled_from([0.0, 0.25, 1.0])), np.float32)
    if look == "noise":
        return rng.random((h, w, c), np.float32)
    if look == "steps":
        return (rng.integers(0, 4, (h, w, c)) / 3).astype(np.float32)
    y, x = np.mgrid[:h, :w]
    image = np.zeros((h, w, c))
    for _ in range(draw(st.integers(1, 5))):
        cy, cx, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(1, 8)
        image += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * r**2))[..., None] * rng.random(c)
    return np.clip(image, 0, 1).astype(np.float32)


@st.composite
def masks(draw, sides=SIDES):
    """Mask: bool (y, x); sparse, dense, empty, full or blobs."""
    image = draw(images(sides=sides))[..., 0]
    return image > draw(st.sampled_from([-1.0, 0.2, 0.5, 0.8, 2.0]))


@st.composite
def label_images(draw, sides=SIDES, most=12):
    """Labels: int32 (y, x) with touching, fragmented and non-consecutive objects, or none at all."""
    h, w = draw(sides), draw(sides)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.zeros((h, w), np.int32)
    for _ in range(draw(st.integers(0, most))):
        y, x = rng.integers(0, h), rng.integers(0, w)
        labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = rng.integers(1, 3 * most)
    return labels
