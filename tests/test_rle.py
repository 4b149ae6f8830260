from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError
from cellkit.core.stage import spec_of
from cellkit.formats.rle import decode, decode_labels, encode_labels, encode_mask
from cellkit.stages.encode import rle
from strategies import label_images, masks


def slow_encode(mask):
    """One pixel at a time."""
    pairs, before = [], False
    for number, inside in enumerate(mask.ravel(order="F"), start=1):
        if inside and not before:
            pairs.append([number, 0])
        if inside:
            pairs[-1][1] += 1
        before = inside
    return " ".join(f"{start} {length}" for start, length in pairs)


def slow_decode(text, shape):
    flat = np.zeros(shape[0] * shape[1], bool)
    numbers = [int(n) for n in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape, order="F")


def coco_to_kaggle(counts):
    """Pairs of a compressed COCO string: varints of 5 bits, from the fourth run on as difference to two runs before."""
    runs, value, shift = [], 0, 0
    for byte in counts:
        byte -= 48
        value |= (byte & 31) << shift
        shift += 5
        if not byte & 32:
            value -= (byte >> 4 & 1) << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    starts = np.cumsum(runs) + 1
    return " ".join(f"{starts[i - 1]} {runs[i]}" for i in range(1, len(runs), 2))


def test_hand_worked():
    labels = np.array([[0, 1, 1], [2, 1, 0], [2, 1, 7]], np.int32)
    ids, texts = encode_labels(labels)
    assert ids.tolist() == [1, 2, 7]
    assert texts == ["4 4", "2 2", "9 1"]  # label 1 fills column 2 and goes on at the top of column 3
    assert encode_mask(labels == 0) == "1 1 8 1"
    np.testing.assert_array_equal(decode("4 4", (3, 3)), labels == 1)
    np.testing.assert_array_equal(decode(" 2\t1  3 1\n", (3, 3)), labels == 2)  # runs may touch


@settings(deadline=None, max_examples=60)
@given(label_images())
def test_labels_round_trip(labels):
    labels.setflags(write=False)
    ids, texts = encode_labels(labels)
    assert ids.tolist() == [i for i in np.unique(labels) if i]
    assert texts == [slow_encode(labels == i) for i in ids]
    decoded = decode_labels(texts, labels.shape, ids=ids)
    assert decoded.dtype == np.int32
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, labels)


@settings(deadline=None, max_examples=60)
@given(masks())
def test_mask_round_trip(mask):
    mask.setflags(write=False)
    text = encode_mask(mask)
    assert text == slow_encode(mask)
    decoded = decode(text, mask.shape)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(slow_decode(text, mask.shape), mask)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-2, 40), max_size=8), st.sampled_from([(1, 1), (4, 5), (1, 20), (20, 1)]))
def test_decode_gives_the_mask_or_refuses(numbers, shape):
    text = " ".join(map(str, numbers))
    starts, lengths = numbers[::2], numbers[1::2]
    fine = len(starts) == len(lengths) and all(n >= 1 for n in numbers)
    fine = fine and all(s + n - 1 <= shape[0] * shape[1] for s, n in zip(starts, lengths, strict=True))
    fine = fine and all(s + n <= after for s, n, after in zip(starts, lengths, starts[1:], strict=False))
    if fine:
        np.testing.assert_array_equal(decode(text, shape), slow_decode(text, shape))
    else:
        with pytest.raises(FormatError):
            decode(text, shape)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=12))
def test_decode_of_any_text_refuses_or_gives_a_mask(text):
    try:
        mask = decode(text, (5, 3))
    except FormatError:
        return
    assert mask.shape == (5, 3)


@settings(deadline=None, max_examples=40)
@given(label_images())
def test_equals_pycocotools(labels):
    coco = pytest.importorskip("pycocotools.mask")
    ids, texts = encode_labels(labels)
    stack = np.asfortranarray((labels[..., None] == ids).astype(np.uint8))
    assert texts == [coco_to_kaggle(found["counts"]) for found in coco.encode(stack)] if len(ids) else texts == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_dtype_and_layout(dtype):
    labels = np.zeros((7, 11), dtype)
    labels[2:4, 3:9] = 200
    labels[5, 5] = 3
    for view in (labels, np.asfortranarray(labels), labels[::-1, ::2]):
        ids, texts = encode_labels(view)
        assert ids.tolist() == [3, 200] if (view == 3).any() else ids.tolist() == [200]
        assert texts == [slow_encode(view == i) for i in ids]


def test_ids_may_be_anything_up_to_the_largest_int32():
    labels = np.zeros((3, 4), np.int32)
    labels[0, 0], labels[1:, 1], labels[0, 2] = 2**31 - 1, 70_000, 12
    ids, texts = encode_labels(labels)
    assert ids.tolist() == [12, 70_000, 2**31 - 1]
    assert texts == ["7 1", "5 2", "1 1"]
    np.testing.assert_array_equal(decode_labels(texts, (3, 4), ids=ids), labels)


def test_seventy_thousand_objects_and_numbers_of_every_width():
    labels = np.zeros((530, 530), np.int32)
    labels[::2, ::2] = np.arange(1, 265 * 265 + 1).reshape(265, 265)
    _, texts = encode_labels(labels)
    assert len(texts) == 265 * 265
    y, x = np.nonzero(labels)
    assert texts == [f"{start} 1" for start in (x * 530 + y + 1).tolist()]
    np.testing.assert_array_equal(decode_labels(texts, labels.shape), labels)
    tall = np.zeros((1, 123_456_790), np.bool_)
    tall[0, [0, 8, 9_999, 10_000, 99_999_999, 123_456_788]] = True
    assert encode_mask(tall) == "1 1 9 1 10000 2 100000000 1 123456789 1"


def test_nothing_there():
    for shape in ((1, 1), (4, 3), (0, 5)):
        ids, texts = encode_labels(np.zeros(shape, np.int32))
        assert (ids.tolist(), texts) == ([], [])
        assert encode_mask(np.zeros(shape, bool)) == ""
        assert not decode("", shape).any()
        assert decode_labels([], shape).shape == shape
        assert not decode_labels(["", " "], shape).any()
    assert encode_mask(np.ones((3, 5), bool)) == "1 15"
    assert decode("1 15", (3, 5)).all()
    assert decode_labels(["", "2 2", ""], (1, 3)).tolist() == [[0, 2, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", r"image 'a01', mask 1, pair 2: no length; wanted pairs 'start length', got 3 numbers"),
        ("5", r"mask 1, pair 1: no length; .* got 1 number$"),
        ("0 2", r"pair 1: starts at 0; pixels are counted from 1"),
        ("1 2 4 0", r"pair 2: has length 0; wanted 1 or more"),
        ("1 -2", r"pair 1: -2 is negative"),
        ("1 1 -3 2", r"pair 2: -3 is negative"),
        ("13 1", r"pair 1: starts at 13, beyond the image: the image has 3 x 4 = 12 pixels"),
        ("1 1 11 3", r"pair 2: runs from 11 to 13, beyond the image: the image has 3 x 4 = 12 pixels"),
        ("1 3 3 2", r"pair 2: starts at 3, but the pair before it ends at 3; wanted ascending"),
        ("5 2 1 2", r"pair 2: starts at 1, but the pair before it ends at 6"),
        ("1 1 2.0 1", r"pair 2: wanted a whole number such as 1024, got '2.0'"),
        ("1 x", r"pair 1: wanted a whole number such as 1024, got 'x'"),
        ("1,2", r"pair 1: wanted a whole number .* got '1,2'"),
        ("1 \u0663", r"pair 1: wanted a whole number"),
        ("1 2\u00a03 4", r"wanted whole numbers separated by spaces"),
        ("1 999999999999999999", r"pair 1: runs from 1 to 999999999999999999, beyond the image"),
        ("999999999999999999 999999999999999999", r"pair 1: starts at 999999999999999999, beyond the image"),
        ("1 " + "9" * 5000, r"pair 1: wanted a whole number .* got a number of 5000 digits"),
        (float("nan"), r"mask 1: wanted text, got nan .*keep_default_na=False"),
    ],
)
def test_decoder_refuses(text, message):
    with pytest.raises(FormatError, match=message):
        decode(text, (3, 4), name="a01")


def test_decoder_names_the_mask():
    with pytest.raises(FormatError, match=r"image 'a01', mask 3, pair 2: has length 0"):
        decode_labels(["1 2", "", "4 1 6 0"], (3, 4), name="a01")
    with pytest.raises(FormatError, match=r"image 'a01', mask 2, pair 1: wanted a whole number .* got '1.5'"):
        decode_labels(["1 2", "1.5 2"], (3, 4), name="a01")
    with pytest.raises(FormatError, match=r"image 'a01': masks 1 and 3 share pixels, the first at row 1, column 1"):
        decode_labels(["1 1 5 2", "2 1", "3 3"], (3, 4), name="a01")
    with pytest.raises(FormatError, match="single text"):
        decode_labels("1 2", (3, 4))


@pytest.mark.parametrize("ids", [[1], [1, 1], [0, 1], [1, 2**31], [1.0, 2.0], [-1, 3]])
def test_decoder_refuses_ids(ids):
    with pytest.raises(FormatError, match="ids"):
        decode_labels(["1 1", "2 1"], (3, 4), ids=ids)


def test_encoders_refuse():
    with pytest.raises(FormatError, match=r"wanted labels, integers \(y, x\), got float32"):
        encode_labels(np.zeros((2, 2), np.float32))
    with pytest.raises(FormatError, match=r"got int32 \(2, 2, 1\)"):
        encode_labels(np.zeros((2, 2, 1), np.int32))
    with pytest.raises(FormatError, match="must not be negative, got -4"):
        encode_labels(np.full((2, 2), -4, np.int32))
    with pytest.raises(FormatError, match=r"wanted a mask, bool \(y, x\), got uint8"):
        encode_mask(np.zeros((2, 2), np.uint8))
    with pytest.raises(FormatError, match="wanted a shape"):
        decode("1 1", (3, 4, 1))


@settings(deadline=None, max_examples=30)
@given(label_images())
def test_stage(labels):
    labels.setflags(write=False)
    table = rle(labels)
    assert list(table.columns) == ["label", "EncodedPixels"]
    assert table["label"].dtype == np.int64
    assert table["label"].tolist() == [i for i in np.unique(labels) if i]
    assert table["EncodedPixels"].tolist() == [slow_encode(labels == i) for i in table["label"]]


def test_stage_declares_itself():
    spec = spec_of(rle)
    assert (spec.name, spec.out, [k.name for k in spec.returns]) == ("rle", "rle", ["table"])
    assert repr(spec.reach({})) == "WHOLE"
