"""Splits: no group on two sides, everything covered, strata balanced within what groups allow."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cellkit.core import FormatError, UsageError
from cellkit.io.datasets import open_dataset
from cellkit.train.splits import (
    Row,
    Split,
    balanced_weights,
    hold_out,
    make_folds,
    read_split,
    split_of,
    write_split,
)


@st.composite
def splits(draw, pure=False):
    """Rows in groups and strata; `pure`: no group straddles two strata."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for group in range(draw(st.integers(2, 30))):
        stratum = "abc"[rng.integers(3)]
        alone = rng.random() < 0.3
        for i in range(1 if alone else rng.integers(1, 9)):
            kind = stratum if pure else "abc"[rng.integers(3)]
            rows.append(Row(f"{group}-{i}", "", "" if alone else f"g{group}", -1, {"kind": kind}))
    rng.shuffle(rows)
    return Split(tuple(rows))


def sides_of_groups(split, side):
    sides = defaultdict(set)
    for row in split:
        sides[row.group or row.name].add(side(row))
    return sides


def sizes(split):
    return Counter(row.group or row.name for row in split)


@given(split=splits(), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_cover_all_and_cut_no_group(split, folds, seed):
    assume(len(sizes(split)) >= folds)
    made = make_folds(split, folds, stratify="kind", seed=seed)
    assert [row.name for row in made] == [row.name for row in split]
    assert {row.fold for row in made} == set(range(folds))
    assert all(len(sides) == 1 for sides in sides_of_groups(made, lambda row: row.fold).values())
    assert made == make_folds(split, folds, stratify="kind", seed=seed)
    judged = Counter()
    for number in range(folds):
        one = made.fold(number)
        judged.update(row.name for row in one.part("val"))
        assert len(one.part("train", "val")) == len(split)
        assert not {row.group for row in one.part("val")} & {row.group for row in one.part("train") if row.group}
    assert set(judged.values()) == {1}


@given(split=splits(pure=True), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_strata_are_balanced_within_the_largest_group(split, folds, seed):
    made = make_folds(split, folds, stratify="kind", seed=seed) if len(sizes(split)) >= folds else None
    assume(made is not None and all(count >= folds for count in groups_by_kind(split).values()))
    for kind in "abc":
        rows = [row for row in made if row.fields["kind"] == kind]
        if rows:
            counts = Counter(row.fold for row in rows)
            spread = max(counts.values()) - min(counts[fold] for fold in range(folds))
            assert spread <= max(sizes(rows).values())


def groups_by_kind(split):
    return Counter(kind for kind, _ in {(row.fields["kind"], row.group or row.name) for row in split})


@given(split=splits(pure=True), share=st.sampled_from([0.1, 0.2, 0.5, 0.8]), seed=st.integers(0, 9))
def test_hold_out_takes_about_its_share_of_each_stratum(split, share, seed):
    made = hold_out(split, share, stratify="kind", seed=seed)
    assert {row.part for row in made} == {"train", "val"}
    assert all(len(sides) == 1 for sides in sides_of_groups(made, lambda row: row.part).values())
    assume(min(groups_by_kind(split).values()) > 2)
    for kind in "abc":
        rows = [row for row in made if row.fields["kind"] == kind]
        if rows:
            held = sum(row.part == "val" for row in rows)
            # What a part may take too much is its share of the largest group; so is what it lacks, of the other part.
            assert abs(held - share * len(rows)) <= max(sizes(rows).values())


def test_a_large_group_does_not_starve_a_fold():
    rows = [Row(f"big{i}", group="big") for i in range(90)] + [Row(f"s{i}") for i in range(10)]
    made = make_folds(Split(tuple(rows)), 3)
    counts = Counter(row.fold for row in made)
    assert sorted(counts.values()) == [5, 5, 90]


def test_seeds_matter_where_there_is_a_choice():
    split = Split(tuple(Row(f"r{i}") for i in range(40)))
    assert make_folds(split, 4, seed=1) != make_folds(split, 4, seed=2)
    assert set(Counter(row.fold for row in make_folds(split, 4, seed=1)).values()) == {10}


@given(split=splits())
def test_writing_and_reading(tmp_path_factory, split):
    path = tmp_path_factory.mktemp("splits") / "split.csv"
    for one in (split, hold_out(split, 0.3), make_folds(split, 2)):
        write_split(path, one)
        assert read_split(path).rows == one.rows


def test_reading_other_columns(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("file,Subset,patient,stain\na.ome.tif,train,p1,he\nb.png,val,p2,\n")
    split = read_split(path)
    assert [(row.name, row.part, row.group, dict(row.fields)) for row in split] == [
        ("a", "train", "p1", {"stain": "he"}),
        ("b", "val", "p2", {"stain": ""}),
    ]
    assert split.values("stain") == ["he", ""]
    assert split.values("part") == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id,part\n", "names no image"),
        ("img,part\na,train\n", "no column of names"),
        ("id,part\na,train\na,val\n", "names 'a' twice"),
        ("id,part,group\na,train,g\nb,val,g\n", "the group 'g' lies in the parts 'train' and 'val'"),
        ("id,fold,group\na,0,g\nb,1,g\n", "the group 'g' lies in the folds '0' and '1'"),
        ("id,fold\na,one\n", "line 2: fold: wanted a whole number"),
        ("id,part\na\n", "line 2 has 1 values"),
    ],
)
def test_faults_of_files(tmp_path, text, message):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_split(path)


def test_wrong_use():
    split = Split((Row("a", "train", "g", -1, {"kind": "x"}), Row("b", "val", "h")), "s.csv")
    with pytest.raises(UsageError, match="did you mean 'train'"):
        split.part("trian")
    with pytest.raises(UsageError, match="did you mean 'kind'"):
        split.values("kinds")
    with pytest.raises(UsageError, match="2 groups cannot be dealt out to 3"):
        make_folds(split, 3)
    with pytest.raises(UsageError, match="at least 2 folds"):
        make_folds(split, 1)
    with pytest.raises(UsageError, match="no fold 0; there are 0"):
        split.fold(0)
    for share in (0, 1, -0.1):
        with pytest.raises(UsageError, match="share between 0 and 1"):
            hold_out(split, share)


def test_weights_balance():
    values = ["a"] * 90 + ["b"] * 9 + ["c"]
    weights = balanced_weights(values)
    assert weights.sum() == pytest.approx(1)
    sums = defaultdict(float)
    for value, weight in zip(values, weights, strict=True):
        sums[value] += weight
    assert all(total == pytest.approx(1 / 3) for total in sums.values())
    assert np.allclose(balanced_weights(values, power=0), 0.01)
    half = balanced_weights(values, power=0.5)
    assert half[:90].sum() / half[90:99].sum() == pytest.approx(np.sqrt(10))
    with pytest.raises(UsageError, match="no images"):
        balanced_weights([])
    with pytest.raises(UsageError, match="power"):
        balanced_weights(values, power=2)


def test_the_split_of_the_nuclei(data_folder):
    dataset = open_dataset(data_folder / "dsb2018")
    own, read = split_of(dataset), read_split(data_folder / "dsb2018" / "split.csv")
    assert {row.name: row for row in own} == {row.name: row for row in read}
    train = read.part("train")
    made = make_folds(train, 5, stratify="modality")
    for modality, count in Counter(train.values("modality")).items():
        found = Counter(row.fold for row in made if row.fields["modality"] == modality)
        largest = max(sizes([row for row in train if row.fields["modality"] == modality]).values())
        assert all(abs(found[fold] - count / 5) <= largest for fold in range(5))
    pairs = made.fold(0).part("val").pairs(dataset)
    assert {pair.split for pair in pairs} == {"val"}
    with pytest.raises(UsageError, match="names 'nowhere'"):
        Split((Row("nowhere"),)).pairs(dataset)
