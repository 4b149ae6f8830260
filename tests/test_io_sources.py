"""Which files inputs stand for, what they are called, and how channel files are grouped."""

from __future__ import annotations

import os
import re
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import ReadError, UsageError
from cellkit.core.recipe import ReadOptions
from cellkit.io import Source, find, probe
from cellkit.io.naming import Named, natural, safe, unique
from cellkit.io.pattern import compiled

PNG = imagecodecs.png_encode(np.zeros((3, 4), np.uint8))


def place(folder, *names, data=PNG):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def names(sources):
    return [source.name for source in sources]


def test_folder_gives_its_images_in_natural_order(tmp_path):
    place(tmp_path, "s10.png", "s2.png", "s1.tif", "B.PNG", "deeper/x.png", ".hidden.png", "._s1.tif")
    place(tmp_path, "Thumbs.db", "notes.txt", "table.csv", "meta.json", "README", data=b"text")
    place(tmp_path, "no_suffix", "odd.suffix")
    place(tmp_path, "broken.tif", "slide.czi", data=b"text")
    (tmp_path / "folder.png").mkdir()
    assert names(find([tmp_path])) == ["B", "broken", "no_suffix", "odd", "s1", "s2", "s10", "slide"]
    with pytest.raises(ReadError, match=r"broken\.tif: is no image"):
        ck.read(find([tmp_path])[1])


def test_order_and_names_do_not_depend_on_the_order_of_inputs(tmp_path):
    place(tmp_path, "b/1.png", "a/1.png", "a/2.png", "c.png")
    inputs = [tmp_path / "b", tmp_path / "c.png", tmp_path / "a"]
    assert find(inputs) == find(inputs[::-1]) == find([*inputs, *inputs])
    assert names(find(inputs)) == ["c", "a__1", "2", "b__1"]


def test_same_file_by_other_ways_counts_once(tmp_path, monkeypatch):
    place(tmp_path, "a/1.png")
    monkeypatch.chdir(tmp_path)
    assert len(find(["a", "a/1.png", "./a/../a/1.png", tmp_path / "a", "a/*.png"])) == 1
    try:
        os.symlink(tmp_path / "a", tmp_path / "link", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert len(find(["a", "link"])) == 1


def test_globs(tmp_path, monkeypatch):
    place(tmp_path, "p1/a.png", "p1/b.tif", "p2/a.png", "p2/deep/c.png", "odd[1].png")
    place(tmp_path, "p1/notes.txt", data=b"text")
    monkeypatch.chdir(tmp_path)
    assert names(find(["p1/*"])) == ["a", "b"]
    assert names(find(["p?/a.png"])) == ["p1__a", "p2__a"]
    assert names(find(["**/*.png"])) == ["odd[1]", "p1__a", "p2__a", "c"]
    assert names(find(["p*"])) == ["p1__a", "b", "p2__a"]
    assert names(find(["odd[1].png"])) == ["odd[1]"]
    assert names(find([str(tmp_path / "p2" / "**")])) == ["a", "c"]


def test_nothing_found_says_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no images are given"):
        find([])
    with pytest.raises(UsageError, match="no images in this folder, no files"):
        find([tmp_path])
    place(tmp_path, "a.txt", "b.txt", data=b"text")
    with pytest.raises(UsageError, match="no images in this folder, 2 files of other kinds"):
        find([tmp_path])
    with pytest.raises(UsageError, match=r"x\*\.png: matches nothing"):
        find(["x*.png"])
    with pytest.raises(UsageError, match=r"\*\.txt: matches 2 files and folders, none of them an image"):
        find(["*.txt"])
    with pytest.raises(UsageError, match="empty path"):
        find([""])


def test_missing_file_stays_in_the_list(tmp_path):
    place(tmp_path, "a.png")
    found = find([tmp_path / "a.png", tmp_path / "gone.png"])
    assert names(found) == ["a", "gone"]
    with pytest.raises(ReadError, match="no such file"):
        ck.read(found[1])


def test_nothing_but_missing_files_is_a_wrong_call(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.png, .*lost\.png: no such file or folder"):
        find([tmp_path / "gone.png", tmp_path / "lost.png"])


def test_one_path_is_enough(tmp_path):
    place(tmp_path, "a.png")
    assert names(find(tmp_path / "a.png")) == ["a"]
    assert names(find(str(tmp_path))) == ["a"]


CLASHES = [
    (["x/a.png", "y/a.png"], ["x__a", "y__a"]),
    (["x/a.png", "x/a.tif"], ["a_png", "a_tif"]),
    (["x/a.png", "x/a.ome.tif"], ["a_ome_tif", "a_png"]),
    (["p/x/a.png", "q/x/a.png"], ["p__x__a", "q__x__a"]),
    (["x/a.png", "x/a.tif", "y/a.png"], ["x__a_png", "x__a_tif", "y__a"]),
    (["x/a.png", "y/A.png"], ["x__a", "y__A"]),
    (["x/a.png", "x__a.png", "y/a.png"], ["x__a", "x__a_png", "y__a"]),
]


@pytest.mark.parametrize(("files", "wanted"), CLASHES)
def test_equal_stems_are_told_apart(tmp_path, files, wanted):
    place(tmp_path, *files)
    found = find([tmp_path / file for file in files])
    assert sorted(names(found)) == sorted(wanted)
    by_file = {source.paths[0].relative_to(tmp_path).as_posix(): source.name for source in found}
    assert len(by_file) == len(files)


STEMS = st.text(st.sampled_from("aAbß.  _-12é:/*con\0\u0301"), max_size=12) | st.sampled_from(
    ["CON", "nul.x", "a" * 300]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.builds(Named, STEMS, st.tuples(STEMS, STEMS), st.sampled_from(["png", "tif", ""])), max_size=12))
def test_names_are_unique_and_safe(items):
    result = unique(items)
    folded = {name.casefold() for name in result}
    assert len(result) == len(items) == len(folded)
    for name in result:
        assert name == safe(name)
        assert name
        assert len(name.encode()) <= 200
        assert not re.search(r'[\x00-\x1f<>:"/\\|?*]', name)
        assert not name.startswith(".")
        assert name.rstrip(". ") == name
        assert name.partition(".")[0].casefold() not in {"con", "nul", "aux", "com1"}
    assert unique(items) == result


def test_names_of_undecodable_files():
    assert safe("a\udcff") == "a_"
    assert safe("") == safe("...") == "image"
    long = [safe("x" * 300 + end) for end in "ab"]
    assert long[0] != long[1]


def test_natural_order():
    assert sorted(["a10", "a9", "A2", "b", "10", "9"], key=natural) == ["9", "10", "A2", "a9", "a10", "b"]


# Patterns


def fields(pattern, name):
    found = compiled(pattern).match(name)
    return None if found is None else found[0]


MATCHES = [
    ("{plate}_{well}_s{site}_w{channel}", "P1_A01_s3_w2", {"plate": "P1", "well": "A01", "site": "3", "channel": "2"}),
    ("{plate}_{well}", "week_1_A01", {"plate": "week_1", "well": "A01"}),
    ("{plate}_{well}", "A01", None),
    ("{well}", "", None),
    ("a.b+({well})", "a.b+(C3)", {"well": "C3"}),
    ("a.b{well}", "aXbC3", None),
    ("{well}_W{channel:1}*", "A01_w1 7F3B-99", {"well": "A01", "channel": "1"}),
    ("*_{well}_*", "x_y_A01_z", {"well": "A01"}),
    ("{row:1}{column:2}f{site}", "B07f12", {"row": "B", "column": "07", "site": "12"}),
    ("{plate}/{well}/img_{channel}", "p/A1/img_3", {"plate": "p", "well": "A1", "channel": "3"}),
    ("{plate}/{well}", "p/q/A1", None),
]


@pytest.mark.parametrize(("pattern", "name", "wanted"), MATCHES)
def test_patterns(pattern, name, wanted):
    assert fields(pattern, name) == wanted


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("plain", "has no field"),
        ("{a}{b}", "nothing tells a from b"),
        ("{a}*", r"nothing tells a from \*"),
        ("{a}_{a}", r"\{a\} occurs twice"),
        ("{a", "brace is left open"),
        ("{}", "no field"),
        ("{a.__class__}", "no field"),
        ("{a!r}", "no field"),
        ("{1}", "no field"),
    ],
)
def test_wrong_patterns(tmp_path, pattern, words):
    place(tmp_path, "a.png")
    with pytest.raises(UsageError, match=words):
        find([tmp_path], ReadOptions(pattern=pattern))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["{a}", "{b}", "{c:2}", "*", "_", "x", "-s"]), max_size=8), st.text("ax_-s1", max_size=30)
)
def test_patterns_agree_with_regular_expressions(parts, name):
    pattern = "".join(parts)
    try:
        template = compiled(pattern)
    except UsageError:
        return
    regex = "".join(
        {"{a}": "(?P<a>[^/]+)", "{b}": "(?P<b>[^/]+)", "{c:2}": "(?P<c>[^/]{2})", "*": "[^/]*"}.get(p, re.escape(p))
        for p in parts
    )
    wanted = re.fullmatch(regex, name, re.IGNORECASE)
    found = template.match(name)
    assert (None if found is None else found[0]) == (None if wanted is None else wanted.groupdict())


def test_no_name_makes_a_pattern_hang():
    template = compiled("_".join("{" + letter + "}" for letter in "abcdefghijkl") + "!")
    assert template.match("_" * 255) is None
    assert compiled("*a" * 12 + "{x:1}!").match("a" * 255) is None


GROUPED = ReadOptions(pattern="{plate}_{well}_s{site}_w{channel}")


def channel_file(folder, name, value, shape=(5, 6)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.full(shape, value, np.uint8)))


def test_channels_in_separate_files(tmp_path):
    for well in ("A01", "A02"):
        for channel in (1, 2, 10):
            channel_file(tmp_path, f"P_{well}_s1_w{channel}.png", channel)
    found = find([tmp_path], GROUPED)
    assert names(found) == ["P_A01_s1", "P_A02_s1"]
    assert found[0].fields == {"plate": "P", "well": "A01", "site": "1"}
    assert found[0].channels == ("1", "2", "10")
    sample = ck.read(found[0], GROUPED)
    assert sample["image"].shape == (5, 6, 3)
    np.testing.assert_allclose(sample["image"][0, 0] * 255, [1, 2, 10])
    assert sample.layer("image").names == ("1", "2", "10")
    assert sample.name == "P_A01_s1"
    assert dict(sample.fields) == {"plate": "P", "well": "A01", "site": "1"}
    assert probe(found[0], GROUPED).shape == (5, 6, 3)
    assert probe(found[0], GROUPED).channels == ("1", "2", "10")


def test_declared_channels_give_the_order_or_the_names(tmp_path):
    for channel, value in (("dapi", 1), ("gfp", 2)):
        channel_file(tmp_path, f"A01_{channel}.png", value)
    options = ReadOptions(pattern="{well}_{channel}", channels=("gfp", "dapi"))
    (source,) = find([tmp_path], options)
    sample = ck.read(source, options)
    np.testing.assert_allclose(sample["image"][0, 0] * 255, [2, 1])
    assert sample.layer("image").names == ("gfp", "dapi")
    options = ReadOptions(pattern="{well}_{channel}", channels=("blue", "green"))
    (source,) = find([tmp_path], options)
    sample = ck.read(source, options)
    np.testing.assert_allclose(sample["image"][0, 0] * 255, [1, 2])
    assert sample.layer("image").names == ("blue", "green")
    options = ReadOptions(pattern="{well}_{channel}", channels=("a", "b", "c"))
    with pytest.raises(ReadError, match=r"A01: 3 channels are declared \(a, b, c\), but there are 2 files"):
        ck.read(find([tmp_path], options)[0], options)


def test_missing_channel_is_named(tmp_path):
    for name in ("P_A1_s1_w1", "P_A1_s1_w2", "P_A2_s1_w2"):
        channel_file(tmp_path, f"{name}.png", 1)
    good, bad = find([tmp_path], GROUPED)
    assert ck.read(good, GROUPED)["image"].shape[2] == 2
    for function in (ck.read, probe):
        with pytest.raises(ReadError, match=r"P_A2_s1_w2\.png: channel 1 of this field is missing; there is 2"):
            function(bad, GROUPED)
    options = ReadOptions(pattern="{well}_{channel}", channels=("dapi", "gfp"))
    channel_file(tmp_path / "other", "A1_gfp.png", 1)
    with pytest.raises(ReadError, match="channel dapi of this field is missing"):
        ck.read(find([tmp_path / "other"], options)[0], options)


def test_names_that_do_not_fit_the_pattern(tmp_path):
    channel_file(tmp_path, "P_A1_s1_w1.png", 1)
    channel_file(tmp_path, "thumbnail.png", 1)
    found = find([tmp_path], GROUPED)
    assert names(found) == ["P_A1_s1", "thumbnail"]
    with pytest.raises(ReadError, match=r"thumbnail\.png: the name does not fit the pattern '\{plate\}"):
        ck.read(found[1], GROUPED)


def test_channel_twice(tmp_path):
    channel_file(tmp_path, "P_A1_s1_w1.png", 1)
    channel_file(tmp_path, "P_A1_s1_w1.tif", 1)
    with pytest.raises(ReadError, match="several files are channel 1"):
        ck.read(find([tmp_path], GROUPED)[0], GROUPED)


def test_channel_files_must_fit_together(tmp_path):
    channel_file(tmp_path, "P_A1_s1_w1.png", 1)
    channel_file(tmp_path, "P_A1_s1_w2.png", 1, (5, 7))
    with pytest.raises(ReadError, match=r"w2\.png: is 5 x 7 px uint8, but P_A1_s1_w1\.png .* is 5 x 6 px uint8"):
        ck.read(find([tmp_path], GROUPED)[0], GROUPED)
    (tmp_path / "P_A1_s1_w2.png").write_bytes(imagecodecs.png_encode(np.zeros((5, 6), np.uint16)))
    with pytest.raises(ReadError, match="uint16, but"):
        ck.read(find([tmp_path], GROUPED)[0], GROUPED)
    colour = np.zeros((5, 6, 3), np.uint8)
    (tmp_path / "P_A1_s1_w2.png").write_bytes(imagecodecs.png_encode(colour))
    assert ck.read(find([tmp_path], GROUPED)[0], GROUPED)["image"].shape == (5, 6, 2)
    colour[0, 0, 1] = 9
    (tmp_path / "P_A1_s1_w2.png").write_bytes(imagecodecs.png_encode(colour))
    with pytest.raises(ReadError, match="has 3 channels, but a file of a group is one channel"):
        ck.read(find([tmp_path], GROUPED)[0], GROUPED)


def test_pattern_with_folders_and_without_channel(tmp_path):
    for plate in ("p1", "p2"):
        channel_file(tmp_path, f"{plate}/A01_red.png", 1)
        channel_file(tmp_path, f"{plate}/A01_blue.png", 2)
    options = ReadOptions(pattern="{plate}/{well}_{channel}")
    found = find([tmp_path / "p1", tmp_path / "p2"], options)
    assert names(found) == ["p1__A01", "p2__A01"]
    assert found[1].fields == {"plate": "p2", "well": "A01"}
    assert found[1].channels == ("blue", "red")
    options = ReadOptions(pattern="{well}_{stain}.png")
    found = find([tmp_path / "p1"], options)
    assert names(found) == ["A01_blue", "A01_red"]
    assert found[0].fields == {"well": "A01", "stain": "blue"}
    assert found[0].channels == ()


def test_channels_in_folders_of_their_own(tmp_path):
    channel_file(tmp_path, "red/A01.png", 1)
    channel_file(tmp_path, "blue/A01.png", 2)
    options = ReadOptions(pattern="{channel}/{well}")
    (source,) = find([str(tmp_path / "*" / "*.png")], options)
    assert (source.name, source.channels) == ("A01", ("blue", "red"))


def test_wildcards_do_not_part_a_group(tmp_path):
    channel_file(tmp_path, "A01_w1 7F3B.png", 1)
    channel_file(tmp_path, "A01_w2 99AA.png", 2)
    (source,) = find([tmp_path], ReadOptions(pattern="{well}_w{channel:1}*"))
    assert (source.name, source.channels) == ("A01", ("1", "2"))


def test_source_is_what_it_says():
    source = Source("a", (Path("a.png"),))
    assert (source.fields, source.channels, source.fault) == ({}, (), "")


def test_many_files_are_found_once_each(tmp_path):
    place(tmp_path, *(f"f{i:03}.png" for i in range(300)))
    assert names(find([tmp_path])) == [f"f{i:03}" for i in range(300)]
