"""What a protocol reports of a data set, and how counts of images become its numbers and their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

import numpy as np

from cellkit.core.errors import UsageError, suggest
from cellkit.metrics.pooling import Empty, S, drawn, ends, image_means, resampled, stacked, total

__all__ = [
    "EMPTY_TEXT", "POOLING_TEXT", "Interval", "Pooling", "Protocol", "Report", "Settings", "Summary", "finite",
    "summary",
]  # fmt: skip

Interval = tuple[float, float]
Pooling = Literal["set", "images"]
EMPTY_TEXT: Mapping[Empty, str] = {"one": "counts as 1", "skip": "does not count", "zero": "counts as 0"}
POOLING_TEXT: Mapping[Pooling, str] = {"set": "all images pooled", "images": "mean of images"}


@dataclass(frozen=True)
class Settings:
    """How a report is made.

    `empty`: how an image counts that holds nothing on either side. `pooling` and `variant`: those of the protocol by
    default. `groups`: the slide, plate or patient of each image by name; intervals then come from drawing groups.
    `draws`: whether the report keeps the numbers of every resample.
    """

    empty: Empty = "one"
    pooling: Pooling | None = None
    variant: str | None = None
    groups: Mapping[str, Hashable] | None = None
    draws: bool = False

    def units(self, images: Sequence[str]) -> list[Hashable] | None:
        """Return the group of each image, None where images stand for themselves."""
        if self.groups is None:
            return None
        missing = [name for name in images if name not in self.groups]
        if missing:
            hint = suggest(missing[0], map(str, self.groups)) or f"groups are known of {len(self.groups):,} images"
            raise UsageError(f"{len(missing):,} images have no group, the first {missing[0]!r}; {hint}")
        return [self.groups[name] for name in images]


@dataclass(frozen=True)
class Report:
    """The scores of a data set.

    `value` is the headline number and `low` to `high` its 95 % bootstrap interval; all three NaN where nothing counts.
    `empty_images` have no object (no foreground, no class but 0) on either side. `scores` are further numbers by name,
    `intervals` those of them that have one, `rules` what single numbers mean, `top` numbers that stand beside the
    headline; `per_image` one row for each image, in the order given. `draws`, where they were asked for: the numbers
    that have an interval, and ``value``, in each resample, float64 (r,); reports on the same images and groups have
    the same resamples.
    """

    value: float
    low: float
    high: float
    rule: str
    pooling: str
    empty_images: int
    scores: Mapping[str, Any]
    per_image: tuple[Mapping[str, Any], ...]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    top: Mapping[str, float] = field(default_factory=dict)
    draws: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Protocol:
    """One way to score: `count` one image pair, then `report` on the counts of all images by name.

    `variants` and `poolings` are the choices there are, the default first.
    """

    name: str
    headline: str
    count: Callable[[np.ndarray, np.ndarray], Any]
    make: Callable[[Mapping[str, Any], Settings], Report]
    poolings: tuple[Pooling, ...] = ("set", "images")
    variants: tuple[str, ...] = ()

    def report(self, counts: Mapping[str, Any], settings: Settings | Empty = "one") -> Report:
        """Return the report on `counts`, by image. Raises `UsageError` for a pooling or variant there is not."""
        settings = settings if isinstance(settings, Settings) else Settings(settings)
        pooling, variant = settings.pooling or self.poolings[0], settings.variant
        if pooling not in self.poolings:
            raise UsageError(
                f"{self.name} is by definition the {POOLING_TEXT[self.poolings[0]]}; leave the pooling out"
            )
        if variant is not None and variant not in self.variants:
            choices = f"has {' and '.join(self.variants)}" if self.variants else "has no variants"
            raise UsageError(f"{self.name} {choices}, not {variant!r}")
        variant = variant or next(iter(self.variants), None)
        return self.make(counts, Settings(settings.empty, pooling, variant, settings.groups, settings.draws))


@dataclass(frozen=True)
class Summary(Generic[S]):
    """Numbers by name: of all images `pooled`, of each of the `images` (n,), and their `means`, with intervals.

    `draws`: those ``pooled ...`` and ``means ...`` in each resample, where the settings ask for them.
    """

    total: S
    pooled: dict[str, float]
    images: dict[str, np.ndarray]
    means: dict[str, float]
    pooled_intervals: dict[str, Interval]
    mean_intervals: dict[str, Interval]
    draws: dict[str, np.ndarray] = field(default_factory=dict)

    def chosen(self, pooling: Pooling | None, name: str) -> tuple[float, float, float]:
        """Return a number and its interval, pooled or as mean of images."""
        if pooling == "images":
            return self.means[name], *self.mean_intervals[name]
        return self.pooled[name], *self.pooled_intervals[name]

    def drawn(self, pooling: Pooling | None, headline: str, means: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Return every number in each resample by the names of `scores`, alone as chosen, and the headline's as value.

        Those called `means` are means of images alone too.
        """
        if not self.draws:
            return {}
        plain = {
            n: self.draws[f"{'means' if pooling == 'images' or n in means else 'pooled'} {n}"] for n in self.pooled
        }
        long = {"pooled": "pooled", "means": "image_mean"}
        named = {f"{long[how]}_{n}": self.draws[f"{how} {n}"] for how in long for n in self.pooled}
        return {**named, **plain, "value": plain[headline]}

    def scores(self) -> tuple[dict[str, float], dict[str, Interval]]:
        """Return every number, named ``pooled_...`` and ``image_mean_...``, and the intervals."""
        parts = (("pooled", self.pooled, self.pooled_intervals), ("image_mean", self.means, self.mean_intervals))
        scores = {f"{how}_{name}": value for how, values, _ in parts for name, value in values.items()}
        intervals = {f"{how}_{name}": span for how, _, spans in parts for name, span in spans.items()}
        return scores, intervals


def summary(
    counts: Mapping[str, S], nothing: S, numbers: Callable[[S], Mapping[str, Any]], settings: Settings
) -> Summary[S]:
    """Make the numbers of all images from their counts.

    `numbers` turns counts, or stacked ones, into scores by name; `nothing` are the counts of no image.
    """
    every = total(counts.values(), nothing)
    names = list(numbers(stacked([nothing])))
    if not counts:
        none, unknown = dict.fromkeys(names, math.nan), dict.fromkeys(names, (math.nan, math.nan))
        return Summary(every, none, {name: np.zeros(0) for name in names}, none, unknown, unknown)
    images = stacked(list(counts.values()))
    each = {name: np.asarray(value, np.float64) for name, value in numbers(images).items()}

    def again(times: np.ndarray) -> dict[str, np.ndarray]:
        pooled = {f"pooled {name}": value for name, value in numbers(drawn(images, times)).items()}
        return {**pooled, **{f"means {name}": image_means(value, times) for name, value in each.items()}}

    draws = resampled(len(counts), settings.units(list(counts)), again)
    spans = {name: ends(values) for name, values in draws.items()}
    return Summary(
        every,
        {name: float(value[0]) for name, value in numbers(stacked([every])).items()},
        each,
        {name: float(image_means(value)[0]) for name, value in each.items()},
        {name: spans[f"pooled {name}"] for name in names},
        {name: spans[f"means {name}"] for name in names},
        draws if settings.draws else {},
    )


def finite(value: Any) -> Any:
    """Return `value` with None for every NaN and infinity inside, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
