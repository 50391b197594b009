"""Folds hold out each image once, keep class proportions and separate groups."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from lit_cv.studies.folds import groups_by_pattern, groups_from_table, make_folds

LABELS = np.repeat([0, 1, 2], [60, 30, 15])


def test_folds_partition_images_and_are_stratified() -> None:
    folds = make_folds(LABELS, folds=5, repeats=2, seed=3)
    assert [(fold.repeat, fold.number) for fold in folds] == [(r, n) for r in (1, 2) for n in range(1, 6)]
    for repeat in (1, 2):
        held_out = np.concatenate([fold.held_out for fold in folds if fold.repeat == repeat])
        assert sorted(held_out) == list(range(len(LABELS)))
    for fold in folds:
        assert np.bincount(LABELS[fold.held_out]).tolist() == [12, 6, 3]
    assert not np.array_equal(folds[0].held_out, folds[5].held_out)
    expected = next(StratifiedKFold(5, shuffle=True, random_state=3).split(LABELS, LABELS))[1]
    assert np.array_equal(folds[0].held_out, expected)


def test_unlabeled_images_are_never_held_out() -> None:
    labels = np.where(np.arange(len(LABELS)) % 3 == 0, -1, LABELS)
    held_out = np.concatenate([fold.held_out for fold in make_folds(labels, folds=3)])
    assert sorted(held_out) == np.flatnonzero(labels >= 0).tolist()


@pytest.mark.parametrize("stratified", [True, False])
def test_groups_stay_together(stratified: bool) -> None:
    groups = [f"patient {k // 5}" for k in range(len(LABELS))]
    folds = make_folds(LABELS, folds=3, stratified=stratified, groups=groups)
    for fold in folds:
        inside = {groups[k] for k in fold.held_out}
        outside = {groups[k] for k in set(range(len(LABELS))) - set(fold.held_out.tolist())}
        assert not inside & outside
        assert 25 <= len(fold.held_out) <= 45


def test_multi_label_folds() -> None:
    labels = np.eye(3)[LABELS]
    assert len(make_folds(labels, folds=4)) == 4
    with pytest.raises(ValueError, match="cannot be stratified"):
        make_folds(labels, stratified=True)


def test_too_few_images_or_groups_are_rejected() -> None:
    with pytest.raises(ValueError, match="class 2 has 15 images, too few for 20 folds"):
        make_folds(LABELS, folds=20)
    with pytest.raises(ValueError, match="folds=1"):
        make_folds(LABELS, folds=1)
    with pytest.raises(ValueError, match="2 groups are too few for 3 folds"):
        make_folds(LABELS, folds=3, groups=[str(k % 2) for k in range(len(LABELS))])


def test_groups_from_names_and_tables(tmp_path) -> None:
    assert groups_by_pattern(["a/p1_x.png", "b/p2_x.png", "c/p1_y.png"], r"p(\d+)") == ["1", "2", "1"]
    with pytest.raises(ValueError, match="does not match 'b'"):
        groups_by_pattern(["p1", "b"], r"p\d")
    with pytest.raises(ValueError, match="is not a regular expression"):
        groups_by_pattern(["p1"], "(")
    table = tmp_path / "groups.csv"
    table.write_text("image,group\na.png,x\nb.png,y\n")
    assert groups_from_table(["b.png", "a.png"], table) == ["y", "x"]
    with pytest.raises(ValueError, match="1 of 2 images are not in"):
        groups_from_table(["a.png", "c.png"], table)
