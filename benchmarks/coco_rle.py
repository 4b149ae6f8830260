"""COCO RLE of a whole label image: cellkit in one pass against pycocotools, one mask at a time.

Run as ``python benchmarks/coco_rle.py``. Prints the best of several runs in milliseconds, the ratios, and whether both
give the same bytes and the same labels.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco
from rle import best, nuclei

from cellkit.formats.coco_rle import decode_labels, encode_labels


def encode_each(labels: np.ndarray, ids: np.ndarray) -> list[bytes]:
    """Encode as is usual: a mask of every object, then pycocotools."""
    columns = np.asfortranarray(labels)
    return [coco.encode((columns == i).view(np.uint8))["counts"] for i in ids]


def decode_each(texts: list[bytes], size: tuple[int, int], ids: np.ndarray) -> np.ndarray:
    """Decode every object with pycocotools and paint its mask."""
    labels = np.zeros(size, np.int32, order="F")
    for i, counts in zip(ids, texts, strict=True):
        labels[coco.decode({"size": list(size), "counts": counts}).view(np.bool_)] = i
    return labels


def measure(side: int, count: int) -> None:
    """Measure and print one size."""
    labels = nuclei(side, count)
    size = labels.shape
    ids, texts = encode_labels(labels)
    theirs = encode_each(labels, ids)
    same = [text.encode() for text in texts] == theirs
    same &= np.array_equal(decode_labels(texts, size, ids=ids), labels)
    same &= np.array_equal(decode_each(theirs, size, ids), labels)
    print(f"{side} x {side} px, {len(ids)} objects; equal: {same}")
    ours, other = best(lambda: encode_labels(labels), 10), best(lambda: encode_each(labels, ids), 1)
    print(f"encode  cellkit {ours:8.1f} ms   pycocotools {other:9.1f} ms   ratio {other / ours:7.1f}")
    ours, other = best(lambda: decode_labels(texts, size, ids=ids), 10), best(lambda: decode_each(theirs, size, ids), 1)
    print(f"decode  cellkit {ours:8.1f} ms   pycocotools {other:9.1f} ms   ratio {other / ours:7.1f}")


def main() -> None:
    """Measure an image of usual size and a large one."""
    for side, count in ((1024, 850), (2048, 3400)):
        measure(side, count)


if __name__ == "__main__":
    main()
