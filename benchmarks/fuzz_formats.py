"""Throw mutated bytes at every decoder: each must answer with objects or a `FormatError`, soon and within memory.

Needs atheris (``pip install atheris``), which follows the code's branches. ``python benchmarks/fuzz_formats.py
coco -max_total_time=60 -rss_limit_mb=1000 -timeout=5``; arguments after the format are libFuzzer's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["cellkit.formats"]):
    from cellkit.core.errors import FormatError
    from cellkit.formats import coco, coco_rle, geojson, imagej, kaggle, rle, voc, yolo
    from cellkit.formats.objects import ObjectSet

SIZE = (37, 53)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "coco": coco.decode_dataset,
    "coco-results": coco.decode_results,
    "coco-rle": lambda data: coco_rle.decode_labels([data], SIZE),
    "geojson": lambda data: geojson.decode(data, size=SIZE).labels(),
    "imagej": lambda data: imagej.decode(data, size=SIZE).labels(),
    "kaggle": lambda data: kaggle.decode("ImageId,EncodedPixels\n" + _text(data), {"a": SIZE}),
    "rle": lambda data: rle.decode(_text(data), SIZE),
    "voc": voc.decode,
    "yolo": lambda data: yolo.decode(_text(data), SIZE),
}


def seeds() -> dict[str, bytes]:
    """Return a valid file of every format, to be mutated."""
    labels = np.zeros(SIZE, np.int32)
    labels[2:9, 3:12], labels[4:6, 5:8], labels[20:30, 30:50] = 1, 0, 7
    objects = ObjectSet.of_labels(labels, name="a")
    _, texts = coco_rle.encode_labels(labels)
    _, codes = rle.encode_labels(labels)
    return {
        "coco": _bytes(coco.encode_dataset([objects])),
        "coco-results": json.dumps(
            [
                {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"size": SIZE, "counts": text}}
                for text in map(_str, texts)
            ]
        ).encode(),
        "coco-rle": _bytes(texts[0]),
        "geojson": _bytes(geojson.encode(objects)),
        "imagej": _bytes(imagej.encode(objects)),
        "kaggle": f"a,{codes[0]}\na,{codes[1]}\n".encode(),
        "rle": codes[0].encode(),
        "voc": b"<annotation><filename>a.png</filename><size><width>53</width><height>37</height></size><object>"
        b"<name>cell</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
        b"</annotation>",
        "yolo": b"0 0.5 0.5 0.25 0.25\n",
    }


def _str(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode()


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


def main() -> None:
    """Fuzz the decoder named by the first argument."""
    name = sys.argv.pop(1)
    decode, start = DECODERS[name], seeds()[name]
    decode(start)

    def once(data: bytes) -> None:
        # Half of the inputs are the valid file with a piece replaced: from nothing a fuzzer rarely finds a format.
        if data[:1] < b"\x80":
            at = int.from_bytes(data[1:3], "little") % (len(start) + 1)
            data = start[:at] + data[3:] + start[at + len(data[3:]) :]
        try:
            decode(data)
        except FormatError as error:
            if not str(error):
                raise AssertionError("a refusal without a word") from error

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
