"""Numbers about objects: sizes, shapes, intensities, and how many there are of each class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import KINDS, Boxes, Classes, Image, Instances, Labels, Table, validate
from cellkit.core.stage import WHOLE, FromSample, stage

if TYPE_CHECKING:
    from cellkit.stages._sums import Sums, Wanted

__all__ = ["measure", "tally"]

Property = Literal["area", "centroid", "box", "axes", "eccentricity", "solidity", "perimeter", "mean", "intensity"]
Columns = dict[str, Any]
PixelSize = tuple[float, float]

_EVERYTHING: tuple[Property, ...] = (
    "area",
    "centroid",
    "box",
    "axes",
    "eccentricity",
    "solidity",
    "perimeter",
    "intensity",
)


@stage(reach=WHOLE)
def measure(
    objects: Labels | Boxes | Instances,
    raw: Image,
    /,
    *,
    properties: tuple[Property, ...] = _EVERYTHING,
    pixel_size: Annotated[tuple[float, float] | None, FromSample("pixel_size")] = None,
    channels: Annotated[tuple[str, ...], FromSample("names:raw")] = (),
    class_names: Annotated[tuple[str, ...], FromSample("names:objects")] = (),
) -> Table:
    """Measure every object: one row each, in ascending order of its label.

    A column belongs to one of the `properties`:

    ============  =====================================================================================================
    (always)      label; for boxes and instances also score and class (its name where known)
    area          area, equivalent_diameter
    centroid      centroid_y, centroid_x
    box           bbox_y0, bbox_x0, bbox_y1, bbox_x1 (half-open)
    axes          major_axis, minor_axis, orientation (radians between the y axis and the major axis)
    eccentricity  eccentricity
    solidity      solidity: area by the area of the convex hull of the pixels' corners
    perimeter     perimeter
    mean          mean_<channel>
    intensity     mean_<channel>, sd_<channel>, min_<channel>, max_<channel>
    ============  =====================================================================================================

    A channel goes by its name, else by its number from 0; a single channel without a name is called `intensity`. The
    centre of a pixel has whole coordinates. A fragmented object is one object; boxes have no axes, eccentricity,
    solidity, perimeter and equivalent_diameter, and their intensities are those of the pixels that the box, rounded
    outwards, covers. Of masks only what lies inside the image is measured, and their box is that of their pixels.
    What no pixel defines is NaN.

    Units are pixels. Where a pixel size is known there are also area_um2, equivalent_diameter_um, centroid_y_um,
    centroid_x_um, major_axis_um, minor_axis_um and, with square pixels, perimeter_um; orientation and eccentricity are
    then those of the object in micrometres, so that pixels that are not square do not distort them.

    Raises `KindError` where labels and `raw` differ in size, or a mask and its box.
    Source: scikit-image `regionprops` (moments, perimeter: Benkrid, Crookes, Design and FPGA implementation of a
    perimeter estimator, 2000); the convex hull is the polygon's, not its pixels'.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> table = ck.stages.measure(truth, image, properties=("area", "centroid", "mean"))
    >>> int(table["area"].sum()) == int((truth > 0).sum())
    True
    """
    import pandas as pd

    from cellkit.stages._sums import sum_boxes, sum_instances, sum_labels

    wanted, size = _wanted(properties), pixel_size
    raw = _array("image", raw, "raw")
    if isinstance(objects, np.ndarray):
        objects = _array("labels", objects, "objects")
        _same_size(objects, raw, "raw")
        ids, sums = sum_labels(objects, raw, wanted)
        columns = {"label": ids, **_shape(sums, properties, size)}
        columns |= _intensities(sums.values, sums.table[:, 0], raw, channels)
        return pd.DataFrame(columns)
    columns = {"label": np.arange(1, len(objects) + 1)}
    if isinstance(objects, Instances):
        sums = sum_instances(objects, raw, wanted)
        columns |= _shape(sums, properties, size) | _detection(objects.boxes, class_names)
        columns |= _intensities(sums.values, sums.table[:, 0], raw, channels)
    else:
        counts, values = sum_boxes(objects, raw, wanted)
        columns |= _rectangles(objects.xyxy.astype(np.float64), properties, size) | _detection(objects, class_names)
        columns |= _intensities(values, counts, raw, channels)
    return pd.DataFrame(columns)


@stage(reach=WHOLE, out="tally")
def tally(
    objects: Labels | Boxes | Instances,
    classes: Classes | None = None,
    /,
    *,
    label_names: Annotated[tuple[str, ...], FromSample("names:objects")] = (),
    class_names: Annotated[tuple[str, ...], FromSample("names:classes")] = (),
) -> Table:
    """Count the objects of every class.

    One row per class: class (its name where known, else its number), count and share (count by the number of all
    objects; 0 where there is none). With names, every class that has one is listed, those without an object too;
    else those that occur. Labels belong to the class that most of their pixels have in `classes`, the lowest of
    several; without `classes` there is one row, named "all". Boxes and instances bring their own classes.

    Raises `KindError` where labels and `classes` differ in size.

    >>> import cellkit as ck
    >>> picture, classes = ck.io.darkfield(128)
    >>> labels = ck.stages.components(ck.stages.select(classes))
    >>> table = ck.stages.tally(labels, classes, class_names=("background", "cell", "bacteria"))
    >>> int(table["count"].sum()) == int(labels.max())
    True
    """
    import pandas as pd

    from cellkit.stages._sums import label_ids

    if isinstance(objects, np.ndarray):
        objects = _array("labels", objects, "objects")
        if classes is None:
            number = len(label_ids(objects))
            return pd.DataFrame(
                {"class": pd.Series(["all"], dtype=str), "count": [number], "share": [float(number > 0)]}
            )
        classes = _array("classes", classes, "classes")
        _same_size(objects, classes, "classes")
        found, names = _majority(objects, classes), class_names
    else:
        found = (objects.boxes if isinstance(objects, Instances) else objects).classes.astype(np.int64)
        names = label_names
    kinds, counts = np.unique(np.concatenate([found, np.arange(len(names))]), return_counts=True)
    counts[(kinds >= 0) & (kinds < len(names))] -= 1
    shares = counts / max(1, len(found))
    return pd.DataFrame({"class": _named(kinds, names), "count": counts.astype(np.int64), "share": shares})


def _wanted(properties: tuple[Property, ...]) -> Wanted:
    from cellkit.stages._sums import SPREAD, Wanted

    return Wanted(
        moments="axes" in properties or "eccentricity" in properties,
        border="perimeter" in properties,
        hull="solidity" in properties,
        values=SPREAD if "intensity" in properties else int("mean" in properties),
    )


def _array(kind: str, value: np.ndarray, name: str) -> np.ndarray:
    """Return a layer as the compiled loops take it: of its kind, row by row."""
    validate(KINDS[kind], value, name)
    return np.ascontiguousarray(value)


def _same_size(labels: np.ndarray, layer: np.ndarray, name: str) -> None:
    if labels.shape != layer.shape[:2]:
        raise KindError(
            f"the objects are labels of {labels.shape[0]} x {labels.shape[1]} px, but `{name}` has "
            f"{layer.shape[0]} x {layer.shape[1]}; both must cover the same frame (inside a bracket that changes the "
            f"frame, name the layer with `in:` or move this step behind the bracket)"
        )


def _shape(sums: Sums, properties: tuple[Property, ...], size: PixelSize | None) -> Columns:
    """Return the columns of sizes and shapes."""
    from cellkit.stages import _moments as m

    table, area = sums.table, sums.table[:, m.AREA]
    with np.errstate(invalid="ignore"):  # a mask without pixels has no centre: NaN
        y, x = table[:, m.SUM_Y] / area, table[:, m.SUM_X] / area
    columns: Columns = {}
    if "area" in properties:
        columns |= {"area": area.astype(np.int64), "equivalent_diameter": np.sqrt(4 / math.pi * area)}
        if size:
            columns["area_um2"] = area * (size[0] * size[1])
            columns["equivalent_diameter_um"] = np.sqrt(4 / math.pi * columns["area_um2"])
    if "centroid" in properties:
        columns |= _centroid(table[:, m.Y0] + y, table[:, m.ORIGIN] + x, size)
    if "box" in properties:
        columns |= _box(table[:, [m.Y0, m.X0, m.Y1, m.X1]].astype(np.int64))
    if "axes" in properties or "eccentricity" in properties:
        with np.errstate(invalid="ignore"):
            central = table[:, [m.SUM_YY, m.SUM_XY, m.SUM_XX]] / area[:, None] - np.stack([y * y, y * x, x * x], axis=1)
        columns |= _ellipse(central, properties, size)
    if "solidity" in properties:
        with np.errstate(invalid="ignore"):
            columns["solidity"] = area / sums.hull
    if "perimeter" in properties:
        perimeter = sums.border @ np.array([0.0, 1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2])
        columns["perimeter"] = np.where(area > 0, perimeter, np.nan)
        if size and math.isclose(*size, rel_tol=1e-6):  # the estimator counts square pixels
            columns["perimeter_um"] = columns["perimeter"] * size[0]
    return columns


def _rectangles(xyxy: np.ndarray, properties: tuple[Property, ...], size: PixelSize | None) -> Columns:
    """Return the columns that boxes have; `xyxy` float64 (n, 4)."""
    x0, y0, x1, y1 = xyxy.T
    columns: Columns = {}
    if "area" in properties:
        columns["area"] = (y1 - y0) * (x1 - x0)
        if size:
            columns["area_um2"] = columns["area"] * (size[0] * size[1])
    if "centroid" in properties:  # a pixel reaches half a pixel to each side of its centre
        columns |= _centroid((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2, size)
    if "box" in properties:
        columns |= _box(xyxy[:, [1, 0, 3, 2]])
    return columns


def _centroid(y: np.ndarray, x: np.ndarray, size: PixelSize | None) -> Columns:
    columns = {"centroid_y": y, "centroid_x": x}
    if size:
        columns |= {"centroid_y_um": y * size[0], "centroid_x_um": x * size[1]}
    return columns


def _box(corners: np.ndarray) -> Columns:
    return {name: corners[:, i] for i, name in enumerate(("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"))}


def _ellipse(central: np.ndarray, properties: tuple[Property, ...], size: PixelSize | None) -> Columns:
    """Return the columns of the ellipse with the same second central moments (yy, xy, xx), (n, 3) in pixels."""
    columns: Columns = {}
    major, minor, orientation = _axes(*central.T)
    if "axes" in properties:
        columns |= {"major_axis": major, "minor_axis": minor}
    if size:
        major, minor, orientation = _axes(*(central * [size[0] ** 2, size[0] * size[1], size[1] ** 2]).T)
        if "axes" in properties:
            columns |= {"major_axis_um": major, "minor_axis_um": minor}
    if "axes" in properties:
        columns["orientation"] = orientation
    if "eccentricity" in properties:
        ratio = np.divide(minor, major, out=np.where(major == 0, 1.0, np.nan), where=major > 0)
        columns["eccentricity"] = np.sqrt(1 - ratio * ratio)
    return columns


def _axes(yy: np.ndarray, xy: np.ndarray, xx: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return major axis, minor axis and orientation from second central moments."""
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    angle = np.where((yy == xx) & (xy == 0), -math.pi / 4, np.arctan2(2 * xy, yy - xx) / 2)
    return 4 * np.sqrt(np.maximum(middle + half, 0)), 4 * np.sqrt(np.maximum(middle - half, 0)), angle


def _intensities(values: np.ndarray, counts: np.ndarray, raw: np.ndarray, channels: tuple[str, ...]) -> Columns:
    """Return the columns of intensity; `values` (n, channels, sums), `counts` pixels per object."""
    from cellkit.stages import _moments as m

    number = raw.shape[2]
    names = channels if len(set(channels)) == number else tuple(map(str, range(number)))
    if number == 1 and not channels:
        names = ("intensity",)
    columns: Columns = {}
    for name, sums in zip(names, np.moveaxis(values, 1, 0), strict=False):  # no channel where not wanted
        with np.errstate(invalid="ignore"):
            mean = sums[:, m.TOTAL] / counts
            if sums.shape[1] < m.SPREAD:
                columns[f"mean_{name}"] = mean
                continue
            variance = sums[:, m.SQUARES] / counts - mean * mean
        columns[f"mean_{name}"] = sums[:, m.SHIFT] + mean
        columns[f"sd_{name}"] = np.sqrt(np.maximum(variance, 0))
        columns[f"min_{name}"] = np.where(counts > 0, sums[:, m.LEAST], np.nan)
        columns[f"max_{name}"] = np.where(counts > 0, sums[:, m.MOST], np.nan)
    return columns


def _detection(boxes: Boxes, names: tuple[str, ...]) -> Columns:
    return {"score": boxes.scores.astype(np.float64), "class": _named(boxes.classes.astype(np.int64), names)}


def _named(classes: np.ndarray, names: tuple[str, ...]) -> Any:
    """Return classes by name where names are known (its number where one has none), else as they are."""
    import pandas as pd

    if not names:
        return classes
    return pd.Series([names[k] if 0 <= k < len(names) else str(k) for k in classes.tolist()], dtype=str)


def _majority(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the class that most pixels of each object have, int64 (objects,)."""
    from cellkit.stages._moments import count_classes
    from cellkit.stages._sums import DENSE, compact

    kinds = int(classes.max(initial=0)) + 1
    labels, _ = compact(labels, DENSE // kinds)
    counts = np.zeros((int(labels.max(initial=0)) + 1, kinds), np.int64)
    count_classes(labels, classes, counts)
    return np.argmax(counts[counts.any(axis=1)], axis=1)
