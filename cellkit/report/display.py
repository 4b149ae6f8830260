"""Bring an image of any range and number of channels to what a screen shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cellkit.core.errors import KindError, suggest

__all__ = ["display", "every", "limits", "nearest", "ranges", "spread"]

_LOW, _HIGH = 0.5, 99.8
_SAMPLED = 1 << 18
_RED_GREEN_BLUE = ({"red", "r"}, {"green", "g"}, {"blue", "b"})


Range = tuple[float, float]


def display(
    image: np.ndarray,
    *,
    channels: Sequence[int | str] = (),
    names: Sequence[str] = (),
    spans: Sequence[Range] = (),
) -> np.ndarray:
    """Return an image as a picture, uint8 (y, x, 3), stretched from its 0.5th to its 99.8th percentile.

    `image`: (y, x) or (y, x, c), any bool, integer or float dtype. One channel is shown grey; two as magenta and
    green, which colour-blind eyes tell apart; three as red, green and blue; of more, the first three. `channels`
    picks up to three, by place or by the `names` of the channels. Plain colour images keep their hues: one stretch
    serves all three channels; named or separate stains are stretched each for itself.
    `spans`: from where to where each channel shown is stretched, see `ranges`, instead of its own percentiles.
    A picture, uint8 (y, x, 3), is returned as it is. Raises `KindError` where the shape is no image's or a channel
    does not exist.
    """
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and not len(channels):
        return image
    stack, wanted = _shown(image, channels, names)
    chosen = spans or _ranges(stack, wanted, names)
    shown = [_eight_bit(stack[..., i], *span) for i, span in zip(wanted, chosen, strict=True)]
    if len(shown) == 1:
        shown *= 3
    elif len(shown) == 2:
        shown = [shown[0], shown[1], shown[0]]
    return np.stack(shown, axis=2)


def ranges(image: np.ndarray, *, channels: Sequence[int | str] = (), names: Sequence[str] = ()) -> list[Range]:
    """Return from where to where `display` stretches each channel that it shows, to show parts of an image alike."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and not len(channels):
        return []
    return _ranges(*_shown(image, channels, names), names)


def _shown(image: np.ndarray, channels: Sequence[int | str], names: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    stack = image[..., None] if image.ndim == 2 else image
    if stack.ndim != 3 or not stack.shape[2]:
        raise KindError(f"a picture is made of an image (y, x) or (y, x, c), got shape {image.shape}")
    return stack, _places(channels, names, stack.shape[2])


def _ranges(stack: np.ndarray, wanted: Sequence[int], names: Sequence[str]) -> list[Range]:
    if len(wanted) == 3 and stack.shape[2] == 3 and _plain_colour([names[i] for i in wanted] if names else []):
        return [limits(stack)] * 3
    return [limits(stack[..., i]) for i in wanted]


def nearest(layer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return ids, or a picture, (y, x, ...), at the size of `shape`: of each of its pixels what lies in its middle."""
    rows, columns = (
        ((np.arange(to) + 0.5) * side / to).astype(np.int64)
        for to, side in zip(shape[:2], layer.shape[:2], strict=True)
    )
    return layer[np.ix_(rows, columns)]


def limits(values: np.ndarray) -> tuple[float, float]:
    """Return the 0.5th and 99.8th percentile of finite `values`, estimated on an even sample of large arrays.

    Where these are equal (nearly all pixels alike), the smallest and largest value; where those are, 0 and 1.
    """
    sample = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1)[:: every(values.size)]
    return spread(sample, lambda: (float(np.nanmin(values)), float(np.nanmax(values))))


def every(size: int) -> int:
    """Return of how many pixels `limits` looks at one, in raster order, for an array of `size` values."""
    return max(1, size // _SAMPLED)


def spread(sample: np.ndarray, ends: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Return the limits by a sample, any shape; `ends` finds the smallest and largest value where it tells nothing."""
    flat = sample[np.isfinite(sample)].astype(np.float64)
    if not flat.size:
        return 0.0, 1.0
    low, high = np.percentile(flat, [_LOW, _HIGH])
    if high <= low:
        low, high = ends()
    return (float(low), float(high)) if low < high else (0.0, 1.0)


def _places(channels: Sequence[int | str], names: Sequence[str], count: int) -> list[int]:
    if not len(channels):
        return list(range(min(3, count)))
    if len(channels) > 3:
        raise KindError(f"a picture has three colours, but {len(channels)} channels are to be shown")
    places = []
    for channel in channels:
        if isinstance(channel, str):
            if channel not in names:
                raise KindError(f"no channel is called {channel!r}; {suggest(channel, names) or f'have {list(names)}'}")
            places.append(list(names).index(channel))
        elif not 0 <= channel < count:
            raise KindError(f"no channel {channel}: the image has {count}, counted from 0")
        else:
            places.append(channel)
    return places


def _plain_colour(names: Sequence[str]) -> bool:
    return not names or all(name.lower() in known for name, known in zip(names, _RED_GREEN_BLUE, strict=True))


def _eight_bit(channel: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.subtract(channel, np.float32(low), dtype=np.float32)
    scaled *= np.float32(255.0 / (high - low))
    scaled += np.float32(0.5)
    np.nan_to_num(scaled, copy=False)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)
