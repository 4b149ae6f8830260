"""Gaussian blur of a plane, by whichever of two exact ways is quicker."""

from __future__ import annotations

from math import ceil

import cv2
import numpy as np

__all__ = ["blur"]

# Above these a transform of the whole plane is quicker than a kernel of 8 sigma moved over it; it takes five times
# the plane's memory, which planes beyond the last figure are spared.
_WIDE_SIGMA, _LARGE_SIDE, _HUGE_PLANE = 10, 512, 1 << 26


def blur(part: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (y, x) or (y, x, c <= 4), float32, with a kernel cut off at 4 sigma; edges are mirrored (b a | a b)."""
    radius = ceil(4 * sigma)
    height, width = part.shape[:2]
    transform = sigma >= _WIDE_SIGMA and min(height, width) >= _LARGE_SIDE and height * width <= _HUGE_PLANE
    if not transform:
        side = 2 * radius + 1
        return cv2.GaussianBlur(part, (side, side), sigma, borderType=cv2.BORDER_REFLECT)
    if part.ndim == 2:
        return _by_transform(part, sigma, radius)
    planes = [_by_transform(part[..., c], sigma, radius) for c in range(part.shape[2])]
    return np.stack(planes, axis=-1)


def _by_transform(part: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    from scipy import fft

    padded = cv2.copyMakeBorder(part, radius, radius, radius, radius, cv2.BORDER_REFLECT)
    height, width = (fft.next_fast_len(n, real=True) for n in padded.shape)
    spectrum = fft.rfft2(padded, (height, width))
    spectrum *= _response(height, sigma, radius)[:, None]
    spectrum *= _response(width, sigma, radius)[: width // 2 + 1]
    result = fft.irfft2(spectrum, (height, width))
    return np.ascontiguousarray(result[radius : radius + part.shape[0], radius : radius + part.shape[1]], np.float32)


def _response(size: int, sigma: float, radius: int) -> np.ndarray:
    """Return what the kernel does to each frequency of a row of `size`: real, since the kernel is even."""
    kernel = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_64F).ravel()
    row = np.zeros(size)
    row[: radius + 1] = kernel[radius:]
    row[-radius:] = kernel[:radius]
    return np.fft.fft(row).real.astype(np.float32)
