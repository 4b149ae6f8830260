"""YOLO and Pascal VOC boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError
from cellkit.formats import voc, yolo
from cellkit.formats.objects import ObjectSet


@st.composite
def box_sets(draw):
    height, width = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 8))
    x, y = np.sort(rng.integers(0, width + 1, (n, 2)), axis=1), np.sort(rng.integers(0, height + 1, (n, 2)), axis=1)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(float)
    if draw(st.booleans()):
        boxes = np.clip(boxes + 0.25, 0, [width, height, width, height])
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    made = ObjectSet.of_boxes(boxes, (height, width), "a")
    classes = tuple(["cell <&>", "é"][i % 2] for i in range(len(boxes)))
    scores = rng.random(len(boxes)) if draw(st.booleans()) and len(boxes) else None
    return made.with_(classes=classes or None, scores=scores)


def same(found, objects):
    assert found.boxes.tolist() == objects.boxes.tolist()
    assert found.classes == objects.classes
    assert (found.scores is None) == (objects.scores is None)
    assert found.scores is None or found.scores.tolist() == objects.scores.tolist()


@settings(deadline=None, max_examples=80)
@given(box_sets())
def test_round_trips(objects):
    names = ["é", "cell <&>"]
    same(yolo.decode(yolo.encode(objects, {n: i for i, n in enumerate(names)}), objects.size, names=names), objects)
    found = voc.decode(voc.encode(objects))
    same(found, objects)
    assert found.size == objects.size


def test_hand_worked():
    (line,) = yolo.encode(ObjectSet.of_boxes([[0, 0, 50, 100]], (100, 200)), {"": 0}).splitlines()
    assert line == "0 0.125 0.5 0.25 1.0"
    found = voc.decode(
        "<annotation><filename>x/a.jpg</filename><size><width>200</width><height>100</height></size><object>"
        "<name>RBC</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object></annotation>"
    )
    assert found.boxes.tolist() == [[0, 0, 200, 100]]  # pixels counted from 1, both ends belong to the box
    assert (found.name, found.classes) == ("a", ("RBC",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1", "line 1: wanted class x y width height, maybe a score; got 4 words"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.3 0.4", "outlines are not read"),
        ("0 0.5 0.5 0.1 0.1\n\n0 0.5 a 0.1 0.1", "line 3: wanted numbers"),
        ("0 nan 0.5 0.1 0.1", "wanted finite numbers"),
        ("2 0.5 0.5 0.1 0.1", "wanted a class number of 0 to 1, got 2"),
        ("0.5 0.5 0.5 0.1 0.1", "got 0.5"),
        ("-1 0.5 0.5 0.1 0.1", "got -1"),
        ("0 50 50 10 10", "the box leaves the image"),
        ("0 0.5 0.5 -0.1 0.1", "the box leaves the image"),
        ("0 .5 .5 .1 .1 .9\n0 .5 .5 .1 .1", "line 2: no score, unlike the lines before"),
    ],
)
def test_yolo_refusals(text, message):
    with pytest.raises(FormatError, match="image 'a', line") as caught:
        yolo.decode(text, (10, 10), names=["x", "y"], name="a")
    assert message in str(caught.value)


SIZE = "<size><width>20</width><height>10</height></size>"


def box(x0, x1, name="<name>c</name>"):
    corners = f"<xmin>{x0}</xmin><ymin>1</ymin><xmax>{x1}</xmax><ymax>2</ymax>"
    return f"<annotation>{SIZE}<object>{name}<bndbox>{corners}</bndbox></object></annotation>"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "declares a document type or entities"),
        (BOMB.encode("utf-16"), "declares a document type or entities"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        ("<annotation>" + "<a>" * 5000, "nests more than 32 deep"),
        ("<annotation>", "no valid XML"),
        ("", "no valid XML"),
        (b"\xff\xfe\x00", "no valid XML"),
        ("<html/>", "wanted <annotation>"),
        ("<annotation/>", "<height>: wanted a number, got ''"),
        (box(5, 4), "object 1, 'c': the box ends before it begins: x 5 to 4"),
        (box(5, "nan"), "<xmax>: wanted a number, got 'nan'"),
        (box(5, 6, ""), "object 1: no <name>"),
        (f"<annotation>{SIZE}<object><name>c</name></object></annotation>", "no <bndbox>"),
    ],
)
def test_voc_refusals(text, message):
    with pytest.raises(FormatError) as caught:
        voc.decode(text, name="a")
    assert message in str(caught.value)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_fuzz(data):
    with pytest.raises(FormatError):
        voc.decode(data)
    if isinstance(data, str):
        try:
            yolo.decode(data, (5, 5))
        except FormatError:
            return


def test_real_annotations(data_folder):
    files = sorted((data_folder / "bccd" / "annotations").glob("*.xml"))
    sets = [voc.decode(path.read_bytes()) for path in files]
    assert len(sets) == 292
    assert {c for s in sets for c in s.classes} == {"RBC", "WBC", "Platelets"}
    assert all((s.boxes >= 0).all() and (s.boxes[:, 2:] <= [s.size[1], s.size[0]]).all() for s in sets)
