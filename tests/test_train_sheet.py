"""The contact sheet: complete in itself, and its pictures are those of the samples."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch

from cellkit.core import UsageError
from cellkit.train.sheet import contact_sheet
from cellkit.train.targets import target_maps


def labels_of(size=(48, 40)):
    labels = np.zeros(size, np.int32)
    cv2.circle(labels, (12, 12), 7, 1, -1)
    cv2.circle(labels, (26, 30), 8, 5, -1)
    return labels


def sample_of(channels=1, head="distance", **more):
    labels = labels_of()
    image = np.repeat(np.where(labels > 0, 0.5, 0.1).astype(np.float32)[None], channels, axis=0)
    target = {key: torch.from_numpy(value) for key, value in target_maps(labels, head).items()}
    return {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels), "name": "a<b>", **target, **more}


def pictures(page):
    """The pictures of a page by their descriptions, in its order."""
    found = {}
    for uri, alt in re.findall(r'<img src="data:image/png;base64,([^"]+)"[^>]* alt="([^"]*)"', page):
        found[alt] = cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return found


class _Ids(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.ids, self.wanted, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        self.wanted += [given[key].lstrip("#") for key in ("href", "data-of", "data-before") if key in given]
        if tag not in ("meta", "img", "link", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pictures_of_a_dense_sample(channels):
    page = contact_sheet(
        [sample_of(channels), sample_of(channels, applied="flip_horizontal, noise")],
        title="Crops & maps",
        names=("interior", "border", "distance"),
    )
    ids = _Ids(page)
    assert not ids.open
    assert len(set(ids.ids)) == len(ids.ids)
    assert set(ids.wanted) <= set(ids.ids)
    assert "http" not in page.replace("http-equiv", "")
    assert "Crops &amp; maps" in page
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    assert "applied: flip horizontal, noise" in page
    assert "applied: nothing" in page
    found = pictures(page)
    names = [alt.partition(": ")[2] for alt in found]
    assert names == ["crop", "truth", "interior", "border", "distance"]
    shown = list(found.values())
    labels = labels_of()
    levels = {0: round(255 * 0.1), 1: round(255 * 0.5)}
    assert (shown[0][labels == 0] == levels[0]).all()
    assert (shown[0][labels > 0] == levels[1]).all()
    outlined = (np.ptp(shown[1].astype(int), axis=2) > 0).sum()
    assert outlined > 40
    inside = shown[2][labels > 0].astype(int).sum(axis=-1)
    assert inside.max() > 400  # yellow
    assert (shown[2][labels == 0].astype(int) == [68, 1, 84]).all()  # the darkest of viridis


def test_values_are_shown_in_their_range():
    sample = sample_of()
    sample["image"] = sample["image"] * 4 - 1
    (first, *_) = pictures(contact_sheet([sample], title="t", value_range=(-1.0, 3.0))).values()
    assert np.abs(first.astype(int)[..., 0] - np.where(labels_of() > 0, 127.5, 25.5)).max() <= 1
    sample["image"][0, 0, 0] = float("nan")
    assert len(pictures(contact_sheet([sample], title="t"))) == 5


def test_classes_and_weights():
    sample = sample_of(head="border")
    sample["weight"] = sample["weight"].clone()
    sample["weight"][:5] = 3
    page = contact_sheet([sample], title="t", names=("background", "interior", "border"))
    names = [alt.partition(": ")[2] for alt in pictures(page)]
    assert names == ["crop", "truth", "classes", "weight, 0 to 3"]
    assert '<ul class="legend">' in page
    colors = {tuple(c) for c in pictures(page)["a&lt;b&gt;: classes"].reshape(-1, 3).tolist()}
    assert len(colors) == 3
    unknown = sample_of()
    unknown["labels"] = unknown["labels"].clone()
    unknown["labels"][:12] = -1
    assert "25.0 % of pixels" in contact_sheet([unknown], title="t")


def test_detectors_samples():
    masks = np.stack([labels_of() == 1, labels_of() == 5]).astype(np.uint8)
    target = {
        "boxes": torch.tensor([[5.0, 5.0, 20.0, 20.0], [18.0, 22.0, 35.0, 39.0]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.from_numpy(masks),
    }
    image = torch.zeros(3, 48, 40)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64),
             "masks": torch.zeros(0, 48, 40, dtype=torch.uint8)}  # fmt: skip
    page = contact_sheet(
        [{"image": image, "target": target, "name": "two"}, {"image": image, "target": empty, "name": "none"}],
        title="t",
    )
    found = pictures(page)
    assert list(found) == [
        "two: crop", "two: masks", "two: boxes", "none: crop", "none: masks", "none: boxes",
    ]  # fmt: skip
    boxes = found["two: boxes"]
    assert boxes[10, 10:40].any(axis=1).all()  # twice as large: the first box begins in row 10
    assert not boxes[8].any()
    drawn = found["two: masks"].any(axis=2)
    assert drawn.sum() > 100
    assert not (drawn & ~(labels_of() > 0).repeat(2, axis=0).repeat(2, axis=1)).any()
    assert not found["none: boxes"].any()
    only = {key: value for key, value in target.items() if key != "masks"}
    assert len(pictures(contact_sheet([{"image": image, "target": only, "name": "x"}], title="t"))) == 2


def test_odd_samples():
    assert "There are no crops." in contact_sheet([], title="t")
    tiny = {"image": np.zeros((1, 1, 1), np.float32), "labels": np.ones((1, 1), np.int32), "name": "one"}
    assert len(pictures(contact_sheet([tiny], title="t"))) == 2
    with pytest.raises(UsageError, match="sample 0: wanted an image"):
        contact_sheet([{"image": np.zeros((4, 4), np.float32)}], title="t")
    with pytest.raises(UsageError, match="sample 0: wanted an image"):
        contact_sheet([{}], title="t")
