"""A stage of one's own: ``cellkit run recipe.yaml images/ -o out --with my_stage.py``.

The signature is all that cellkit needs: `image` becomes a layer, `gain` a key in YAML with a checked range.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

import cellkit as ck


@ck.stage(reach=0)  # every pixel on its own: tiles need no halo
def brighten(image: ck.Image, /, *, gain: Annotated[float, ck.Span(0.1, 10)] = 2.0) -> ck.Image:
    """Multiply the intensities and clip them at 1."""
    return np.minimum(image * np.float32(gain), 1)
