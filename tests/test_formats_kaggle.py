from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError
from cellkit.formats import kaggle, rle
from cellkit.formats.objects import ObjectSet
from strategies import label_images


def csv(*rows):
    return "\n".join(["ImageId,EncodedPixels", *rows]) + "\n"


@settings(deadline=None, max_examples=60)
@given(st.lists(label_images(), min_size=1, max_size=3))
def test_round_trip(images):
    names = ["a", "b,c", 'd"e']
    sets = [ObjectSet.of_labels(labels, name=name) for labels, name in zip(images, names, strict=False)]
    text = kaggle.HEADER + "\n" + "".join(row for objects in sets for row in kaggle.encode(objects))
    sizes = {o.name: o.size for o in sets}
    for labels, objects, found in zip(images, sets, kaggle.decode(text, sizes), strict=True):
        assert found.name == objects.name
        np.testing.assert_array_equal(objects.ids[found.ids - 1][found.runs.owner], objects.ids[objects.runs.owner])
        np.testing.assert_array_equal(found.labels() > 0, labels > 0)
        assert [code for _, code in kaggle.rows(text)[found.name] if code] == rle.encode_labels(labels)[1]
    assert kaggle.check_submission(text, sizes) == []


def test_rows_of_other_writers():
    text = '\ufeffId,EncodedPixels,ImageId\r\n7,"1 2",a\r\n8,"4 1",a\r\n9,,"b"\r\n'
    found = kaggle.decode(text, {"a": (2, 2), "b": (2, 2)})
    np.testing.assert_array_equal(found[0].labels(), [[1, 0], [1, 2]])
    assert len(found[1]) == 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (csv("a,1 1"), "1 of 2 images are missing: b"),
        (csv("a,1 1", "b,", "c,1 1"), "1 images are unknown: c"),
        (csv("a,1 2", "a,2 1", "b,"), "image 'a': objects 1 and 2 share the pixel at row 1, column 0"),
        (csv("a,4 2", "b,"), "image 'a', mask 1, pair 1: runs from 4 to 5, beyond the image"),
        (csv("a,1 1", "a,", "b,"), "image 'a': line 3 says it has no objects, but it has 2 lines"),
        (csv("a,1", "b,"), "no length"),
        (csv("a,1 1,9", "b,"), "line 2: wanted 2 cells, got 3"),
        (csv("a", "b,"), "line 2: wanted 2 cells, got 1"),
        (csv(",1 1"), "line 2: the ImageId is empty"),
        (csv('a"b,1 1'), "a quotation mark in the wrong place"),
        ("a,b\n", "wanted the header ImageId,EncodedPixels, got 'a,b'"),
        ("", "wanted the header"),
    ],
)
def test_the_checker_says_what_is_wrong(text, fault):
    faults = kaggle.check_submission(text, {"a": (2, 2), "b": (2, 2)})
    assert len(faults) == 1
    assert fault in faults[0]


def test_the_checker_says_everything_at_once():
    faults = kaggle.check_submission(csv("a,9 1", "b,0 1", "x,"), {"a": (2, 2), "b": (2, 2), "c": (1, 1)})
    assert len(faults) == 4


def test_refusals():
    with pytest.raises(FormatError, match="the size of image 'a' is not known"):
        kaggle.decode(csv("a,1 1"), {})
    with pytest.raises(FormatError, match="cannot hold this name"):
        list(kaggle.encode(ObjectSet.of_labels(np.ones((1, 1), int), name="a\nb")))
    with pytest.raises(FormatError, match="RLE needs masks"):
        list(kaggle.encode(ObjectSet.of_boxes([[0, 0, 1, 1]], (2, 2))))


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from('ab0123456789 ,"\n\r-.'), max_size=40))
def test_fuzz(body):
    sizes = {"a": (3, 4), "b": (3, 4)}
    text = csv(body)
    try:
        found = kaggle.decode(text, sizes)
    except FormatError:
        assert kaggle.check_submission(text, sizes)
        return
    for objects in found:
        codes = [code for _, code in kaggle.rows(text)[objects.name] if code]
        np.testing.assert_array_equal(objects.labels(), rle.decode_labels(codes, (3, 4)))
