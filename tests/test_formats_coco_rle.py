from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from cellkit.core import FormatError
from cellkit.formats.coco_rle import decode_labels, decode_runs, decompress, encode_labels
from strategies import label_images

# pycocotools asks numpy 2 for an array in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_hand_worked():
    labels = np.array([[1, 0], [1, 2]], np.int32)
    ids, texts = encode_labels(labels)
    assert ids.tolist() == [1, 2]
    assert texts == ["022", "31"]  # runs 0 2 2 and 3 1: the first count is of background, and may be 0
    counts, numbers = decompress(["0220", b"31"])  # the fourth count is a difference to the second
    assert counts.tolist() == [0, 2, 2, 2, 3, 1]
    assert numbers.tolist() == [4, 2]


@settings(deadline=None, max_examples=80)
@given(label_images())
def test_bytes_are_those_of_pycocotools_and_the_way_back_is_exact(labels):
    labels.setflags(write=False)
    ids, texts = encode_labels(labels)
    assert ids.tolist() == [i for i in np.unique(labels) if i]
    assert texts == [reference(labels == i) for i in ids]
    decoded = decode_labels(texts, labels.shape, ids=ids)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, labels)
    np.testing.assert_array_equal(decode_labels([t.encode() for t in texts], labels.shape, ids=ids), labels)


def test_many_objects_and_long_runs():
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)  # 89,999 objects of one pixel
    ids, texts = encode_labels(labels)
    assert len(ids) == 89_999
    np.testing.assert_array_equal(decode_labels(texts, labels.shape, ids=ids), labels)
    wide = np.zeros((1, 3_000_000), np.uint8)
    wide[0, 1::1_000_003] = 1
    assert encode_labels(wide)[1] == [reference(wide)]


@st.composite
def odd_texts(draw):
    """Counts that no encoder writes: zeros in the middle, a wrong total at times, characters changed."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cuts = sorted(draw(st.lists(st.integers(0, height * width), max_size=6)))
    counts = np.diff([0, *cuts, height * width + draw(st.sampled_from([0, 0, 0, 1]))]).tolist()
    text = "".join(encode_count(c - counts[i - 2] if i > 2 else c) for i, c in enumerate(counts))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + chr(draw(st.integers(47, 112))) + text[at + 1 :]
    return text, height, width


@settings(deadline=None, max_examples=300)
@given(odd_texts())
def test_what_is_accepted_is_the_mask_of_pycocotools(odd):
    text, height, width = odd
    try:
        decoded = decode_labels([text], (height, width))
    except FormatError:
        return
    theirs = coco.decode({"size": [height, width], "counts": text.encode()})
    np.testing.assert_array_equal(decoded > 0, theirs > 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("31", "add up to 4 pixels, the size 2 x 3 has 6"),
        ("3Q", "end within a number"),
        ("3~", "character '~'"),
        ("3é", "ASCII"),
        ("PPPPPPP1", "more than 33 bits"),
        ("N5", "a count of -2; wanted 0 to 6"),
        (7, "as text, got int"),
        ("", "add up to 0 pixels"),
    ],
)
def test_refusals_name_image_and_object(text, message):
    with pytest.raises(FormatError, match="image 'a', object 2: ") as caught:
        decode_labels(["6", text], (2, 3), name="a")
    assert message in str(caught.value)


def test_refuses_overlap_and_what_is_no_label_image():
    with pytest.raises(FormatError, match="objects 1 and 2 share the pixel at row 0, column 1"):
        decode_labels(["13", "22"], (2, 2), name="a")
    with pytest.raises(FormatError, match="negative, got -1"):
        encode_labels(np.array([[-1]], np.int32))
    with pytest.raises(FormatError, match="integers"):
        encode_labels(np.zeros((2, 2), np.float32))


def test_a_huge_image_takes_no_memory_until_it_is_drawn():
    size, text = (50_000, 80_000), encode_count(10**9) + encode_count(5) + encode_count(3 * 10**9 - 5)
    assert decode_runs([text], size).areas(1).tolist() == [5]
    with pytest.raises(FormatError, match="50000 x 80000 px is more than the 2147483648 px that are drawn at once"):
        decode_labels([text], size)


def encode_count(value):
    text = ""
    while True:
        digit, value = value & 31, value >> 5
        more = value != (-1 if digit & 16 else 0)
        text += chr(48 + digit + 32 * more)
        if not more:
            return text
