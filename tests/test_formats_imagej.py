from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError
from cellkit.formats import imagej
from cellkit.formats.objects import ObjectSet
from strategies import label_images

roifile = pytest.importorskip("roifile", reason="needs roifile: pip install cellkit[test]")


def zipped(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def area(rings):
    """Shoelace formula, holes running the other way."""
    total = 0
    for ring in rings:
        x, y = np.asarray(ring, float).T
        total += np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)
    return total / 2


@settings(deadline=None, max_examples=100)
@given(label_images())
def test_label_roi_label_and_what_roifile_reads(labels):
    objects = ObjectSet.of_labels(labels, name="a", pixel_size=(0.5, 0.25))
    n = len(objects)
    objects = objects.with_(scores=np.arange(n) / 7 if n else None, classes=("ä b",) * n or None)
    data = imagej.encode(objects)
    back = imagej.decode(data)
    np.testing.assert_array_equal(back.labels(), labels)
    np.testing.assert_array_equal(back.ids, objects.ids)
    assert (back.name, back.pixel_size, back.classes) == ("a", (0.5, 0.25), objects.classes)
    assert n == 0 or (back.scores == objects.scores).all()
    assert imagej.encode(back) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for entry, number in zip(archive.namelist(), objects.ids, strict=True):
            roi = roifile.ImagejRoi.frombytes(archive.read(entry))
            y, x = np.nonzero(labels == number)
            assert (roi.left, roi.top, roi.right, roi.bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert int(roi.name) == number
            assert f"label: {number}\n" in roi.props
            rings = [c[:-1] for c in roi.coordinates(multi=True)] if roi.composite else [roi.coordinates()]
            assert area(rings) == len(y)


def test_reads_what_roifile_writes():
    square = roifile.ImagejRoi.frompoints([[2, 1], [5, 1], [5, 4], [2, 4]], name="5")
    square.roitype = roifile.ROI_TYPE.POLYGON
    loose = roifile.ImagejRoi.frompoints(np.array([[0.4, 6.0], [3.6, 6.0], [3.6, 7.2], [0.4, 7.2]]), name="8")
    found = imagej.decode(zipped(**{"5.roi": square.tobytes(), "8.roi": loose.tobytes()}), size=(9, 9), name="a")
    expected = np.zeros((9, 9), np.int32)
    expected[1:4, 2:5] = 5
    expected[6, 0:4] = 8
    np.testing.assert_array_equal(found.labels(), expected)


def roi(*, kind=1, box=(1, 1, 4, 4), count=0, shape=0, subtype=0, body=b""):
    fields = (b"Iout", 228, kind, *box, count, 0, shape, 0, 0, subtype, 0, 0, 0, 0, 0, 0)
    return struct.pack(">4shBxhhhhH16xhiiihhBBhii", *fields) + body


def test_rectangles_ovals_and_single_rois():
    rect = imagej.decode(roi(box=(1, 2, 3, 5)), size=(5, 6), name="a")
    assert rect.labels()[1:3, 2:5].all()
    assert rect.areas.tolist() == [6]
    oval = imagej.decode(roi(kind=2, box=(0, 0, 4, 4)), size=(5, 6), name="a").labels()
    np.testing.assert_array_equal(oval[:4, :4], [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]])
    far = ObjectSet.of_labels(np.pad(np.ones((1, 1), np.uint8), ((0, 0), (60_000, 0))))
    np.testing.assert_array_equal(imagej.decode(imagej.encode(far)).labels(), far.labels())
    with pytest.raises(FormatError, match="reach to 60535 px"):
        imagej.encode(ObjectSet.of_labels(np.pad(np.ones((1, 1), np.uint8), ((0, 0), (60_600, 0)))))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (roi(kind=3), "wanted an area, got a ROI of type line"),
        (roi(kind=10), "type point"),
        (roi(subtype=1), "subtype 1"),
        (roi(box=(4, 4, 1, 1)), "no area"),
        (roi(kind=0, count=60_000), "announces 60000 points, which 64 bytes do not hold"),
        (roi(kind=0, count=2, body=b"\0" * 8), "announces 2 points"),
        (roi(shape=2**30), "a path of 1073741824 numbers"),
        (roi(shape=3, body=struct.pack(">3f", 2, 0, 0)), "step 2 is none"),
        (roi(shape=3, body=struct.pack(">3f", 0, 0, float("nan"))), "no finite number"),
        (roi(shape=3, body=struct.pack(">3f", 0, 0, 0)), "fewer than 3 points"),
        (b"Iout", "no ImageJ ROI"),
        (b"hello, world" * 9, "no ImageJ ROI"),
    ],
)
def test_roi_refusals(data, message):
    with pytest.raises(FormatError) as caught:
        imagej.decode(zipped(**{"1.roi": data}), size=(9, 9), name="a")
    assert "image 'a', ROI '1.roi'" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["../1.roi", "a/../../1.roi", "/etc/1.roi", "C:/1.roi", "..\\1.roi"])
def test_refuses_paths_that_leave_their_folder(name):
    with pytest.raises(FormatError, match="leaves its folder"):
        imagej.decode(zipped(**{name: roi()}), size=(9, 9))


def test_refuses_zip_bombs_before_they_go_off():
    bomb = zipped(**{"1.roi": b"\0" * 2**27})
    assert len(bomb) < 2**18
    with pytest.raises(FormatError, match="this is no zip of ROIs"):
        imagej.decode(bomb, size=(9, 9))
    # One that says it is small: neither more is inflated than announced, nor is it taken for a ROI.
    at = bomb.index(b"PK\x01\x02") + 24
    liar = bomb[:22] + struct.pack("<I", 100) + bomb[26:at] + struct.pack("<I", 100) + bomb[at + 4 :]
    with pytest.raises(FormatError):
        imagej.decode(liar, size=(9, 9))


def test_passes_over_folders_and_macos_litter():
    data = zipped(**{"cells/": b"", "cells/1.roi": roi(), "__MACOSX/._1.roi": b"x"})
    assert imagej.decode(data, size=(9, 9)).areas.tolist() == [9]
    with pytest.raises(FormatError, match="do not say the image's size"):
        imagej.decode(data)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_fuzzed_zips_and_rois_are_refused_or_lie_in_the_image(data):
    labels = np.zeros((6, 7), np.int32)
    labels[1:5, 1:6], labels[2, 2] = 1, 0
    good = imagej.encode(ObjectSet.of_labels(labels))
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        inner = archive.read(archive.namelist()[0])
    whole = data.draw(st.booleans())
    bad = bytearray(good if whole else inner)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(bad)[: data.draw(st.integers(0, len(bad)))] if data.draw(st.booleans()) else bytes(bad)
    try:
        found = imagej.decode(bad if whole else zipped(**{"1.roi": bad}), size=None if whole else (6, 7))
    except FormatError:
        return
    assert found.runs.ends.max(initial=0) <= found.size[0] * found.size[1]
