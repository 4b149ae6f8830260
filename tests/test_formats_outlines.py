from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellkit.core import FormatError
from cellkit.formats import geojson
from cellkit.formats.objects import ObjectSet
from cellkit.formats.outlines import outlines
from strategies import label_images

shapely = pytest.importorskip("shapely", reason="needs shapely: pip install cellkit[test]")


@st.composite
def knotted(draw):
    """Labels in which objects touch themselves and each other at corners, with holes within holes."""
    h, w = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (rng.integers(1, draw(st.integers(2, 4)), (h, w)) * (rng.random((h, w)) < draw(st.floats(0, 1)))).astype(
        np.int32
    )


@settings(deadline=None, max_examples=150)
@given(st.one_of(knotted(), label_images()))
def test_polygons_are_valid_and_cover_exactly_their_object(labels):
    labels.setflags(write=False)
    objects = ObjectSet.of_labels(labels)
    for number, polygons in zip(objects.ids, outlines(objects), strict=True):
        shape = labels == number
        assert len(polygons) == ndimage.label(shape)[1]  # a polygon for each piece joined by sides
        made = [shapely.Polygon(p[0], p[1:]) for p in polygons]
        whole = shapely.MultiPolygon(made)
        assert whole.is_valid, shapely.is_valid_reason(whole)
        assert whole.area == shape.sum()
        assert all(shapely.LinearRing(p[0]).is_ccw for p in polygons)
        assert not any(shapely.LinearRing(hole).is_ccw for p in polygons for hole in p[1:])
        assert not any((ring[:-1] == ring[1:]).all(axis=1).any() for p in polygons for ring in p)


@settings(deadline=None, max_examples=150)
@given(st.one_of(knotted(), label_images()))
def test_label_polygon_label(labels):
    objects = ObjectSet.of_labels(labels, name="a", pixel_size=(0.5, 0.25))
    objects = objects.with_(
        scores=np.linspace(0, 1, len(objects)) if len(objects) else None,
        classes=tuple("ab"[i % 2] for i in range(len(objects))) or None,
    )
    text = geojson.encode(objects)
    back = geojson.decode(text)
    np.testing.assert_array_equal(back.labels(), labels)
    assert (back.name, back.size, back.pixel_size, back.classes) == ("a", labels.shape, (0.5, 0.25), objects.classes)
    assert (back.scores is None) == (objects.scores is None)
    assert geojson.encode(back) == text
    for feature in json.loads(text)["features"]:
        geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert geometry.is_valid
        assert not geometry.is_empty


def test_objects_that_overlap_and_images_too_large_to_draw_whole():
    first, second = ObjectSet.of_labels(np.eye(4, dtype=np.int32)), ObjectSet.of_labels(np.ones((4, 4), np.int32))
    from cellkit.formats._runs import merged

    both = merged(
        np.concatenate([first.runs.starts, second.runs.starts]),
        np.concatenate([first.runs.ends, second.runs.ends]),
        np.concatenate([first.runs.owner, second.runs.owner + 1]),
    )
    objects = ObjectSet.of_runs(both, (4, 4))
    back = geojson.decode(geojson.encode(objects))
    assert [back.mask(i)[0].sum() for i in range(2)] == [4, 16]
    with pytest.raises(FormatError, match="objects 1 and 2 share the pixel at row 0, column 0"):
        back.labels()
    wide = ObjectSet.of_runs(
        merged(np.array([5 * 10**9]), np.array([5 * 10**9 + 3]), np.array([0])), (100_000, 100_000)
    )
    assert outlines(wide)[0][0][0].tolist() == [[50_000, 0], [50_001, 0], [50_001, 3], [50_000, 3]]
    with pytest.raises(FormatError, match="more than the"):
        wide.labels()


def polygon(*rings, **properties):
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}
    return json.dumps({"type": "FeatureCollection", "features": [feature]})


SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4], [1, 1]]


@pytest.mark.parametrize("turned", [False, True])
def test_reads_polygons_of_other_programs(turned):
    ring = SQUARE[::-1] if turned else SQUARE
    text = polygon(ring, [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]], classification={"name": "Tumor"}, name="7")
    found = geojson.decode(text, size=(6, 5), name="a")
    expected = np.zeros((6, 5), np.int32)
    expected[1:4, 1:4] = 7
    expected[2, 2] = 0
    np.testing.assert_array_equal(found.labels(), expected)
    assert found.classes == ("Tumor",)
    # By pixel centres where points lie between pixels, and cut off at the image's edge.
    loose = polygon([[-3, 0.5], [1.6, 0.5], [1.6, 9], [-3, 9], [-3, 0.5]])
    np.testing.assert_array_equal(geojson.decode(loose, size=(3, 3)).labels(), [[1, 1, 0]] * 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (polygon(SQUARE[:-1]), "feature 1, ring 1: wanted 4 points or more, the last equal to the first"),
        (polygon([[1, 1], [4, 4], [4, 1], [1, 4], [1, 1]]), "feature 1: the polygon crosses itself"),
        (polygon(SQUARE, [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]), "or a hole lies outside"),
        (polygon([[1, 1], [4, "x"], [4, 4], [1, 1]]), "wanted a list of lists of 2 numbers"),
        (polygon([[1, 1], [4], [4, 4], [1, 1]]), "wanted a list of lists of 2 numbers"),
        (polygon([[1, 1], [1e300, 1], [4, 4], [1, 1]]), "beyond any image"),
        (polygon(), "a polygon without rings"),
        (polygon(SQUARE).replace("Polygon", "LineString"), "wanted a Polygon or MultiPolygon, got 'LineString'"),
        ('{"type":"FeatureCollection","features":7}', "features: wanted a list, got 7"),
        ("[" * 100_000, "nests too deeply"),
        ('{"a": NaN}', "NaN is no number"),
        ("{", "no valid JSON"),
        ('"x"', "wanted a FeatureCollection"),
    ],
)
def test_geojson_refusals(text, message):
    with pytest.raises(FormatError) as caught:
        geojson.decode(text, size=(5, 5), name="a")
    assert message in str(caught.value)


def test_needs_a_size_and_the_right_one():
    with pytest.raises(FormatError, match="give its image"):
        geojson.decode(polygon(SQUARE))
    with pytest.raises(FormatError, match="of 2 x 2 px, the image has 3 x 2"):
        geojson.decode(geojson.encode(ObjectSet.of_labels(np.ones((2, 2), np.uint8))), size=(3, 2))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "x"]), inner, max_size=2),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(JSON, st.sampled_from(["features", "feature", "geometry", "coordinates", "ring", "point", "size"]))
def test_fuzzed_geojson_is_refused_or_read_within_the_image(value, place):
    document = json.loads(polygon(SQUARE, classification={"name": "a"}))
    feature = document["features"][0]
    spots = {
        "features": (document, "features"), "feature": (document["features"], 0), "geometry": (feature, "geometry"),
        "coordinates": (feature["geometry"], "coordinates"), "ring": (feature["geometry"]["coordinates"], 0),
        "point": (feature["geometry"]["coordinates"][0], 1), "size": (document.setdefault("cellkit", {}), "size"),
    }  # fmt: skip
    holder, key = spots[place]
    holder[key] = value
    try:
        found = geojson.decode(json.dumps(document), size=None if place == "size" else (5, 5))
    except FormatError:
        return
    assert found.areas.sum() <= 25 * len(found) or place == "size"


def test_size_is_checked_before_memory_is_taken():
    text = polygon([[1, 1], *([4, 1], [4, "x" * 100_000]), *[[4, 4]] * 50_000, [1, 1]])
    with pytest.raises(FormatError, match="wanted a list of lists of 2 numbers, got list of 50004"):
        geojson.decode(text, size=(5, 5))
    zigzag = [[x, y] for y in range(60) for x in (0, 10**5)]
    with pytest.raises(FormatError, match="feature 1: the polygon is too long"):
        geojson.decode(polygon([*zigzag, zigzag[0]]), size=(10, 10**5))
    with pytest.raises(FormatError, match="more than any image has"):
        geojson.decode(polygon(SQUARE), size=(2**30, 2**30))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(-5, 15)), min_size=3, max_size=8))
def test_any_polygon_is_filled_by_pixel_centres_or_refused(points):
    text = polygon([*map(list, points), list(points[0])])
    try:
        found = geojson.decode(text, size=(10, 10))
    except FormatError:
        assert not shapely.Polygon(points).is_valid
        return
    made = shapely.Polygon(points)
    if not made.is_valid:
        return
    y, x = np.mgrid[:10, :10] + 0.5
    near = shapely.distance(made.exterior, shapely.points(x, y)) < 1e-9
    inside = shapely.contains_xy(made, x, y)
    assert ((found.labels() > 0) == inside)[~near].all()
