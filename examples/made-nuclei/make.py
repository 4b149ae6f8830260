"""Make the pictures that masks.yaml is trained on: 80 fields of nuclei with their truth, below a folder.

Run it as ``python make.py made``.
"""

import sys
from pathlib import Path

from cellkit.io import fluorescence_field, write_image, write_labels

folder = Path(sys.argv[1])
(folder / "images").mkdir(parents=True, exist_ok=True)
(folder / "labels").mkdir(exist_ok=True)
for seed in range(100, 180):
    image, labels = fluorescence_field(192, seed=seed)
    write_image(folder / "images" / f"{seed}.png", image)
    write_labels(folder / "labels" / f"{seed}.png", labels)
