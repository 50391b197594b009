from pathlib import Path

import pytest

from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.split_folders import split_folders


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "Testing"), ("Training", None, "Testing")),
        (("TRAIN", "TEST"), ("TRAIN", None, "TEST")),
        (("train", "Val"), ("train", "Val", None)),
        (("seg_train", "seg_test", "seg_pred"), ("seg_train", None, "seg_test")),
        (("training_set", "test_set"), ("training_set", None, "test_set")),
        (("trainset", "valset"), ("trainset", "valset", None)),
        (("train2017", "val2017"), ("train2017", "val2017", None)),
        (("asl_alphabet_train", "asl_alphabet_test"), ("asl_alphabet_train", None, "asl_alphabet_test")),
        (("train", "Train", "valid", "val"), ("train", "val", None)),
        (("train", "seg_train", "seg_test"), ("train", None, None)),
        (("train_station", "bus_station"), (None, None, None)),
        (("freight_train", "steam_train", "crash_test"), (None, None, None)),
        (("a_train", "a_test", "b_train", "b_test"), (None, None, None)),
        (("latest", "strain", "trainers"), (None, None, None)),
        (("@eaDir", ".train", "cat"), (None, None, None)),
    ],
)
def test_split_folders_are_found(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[str | None, str | None, str | None]
) -> None:
    for name in names:
        (tmp_path / name / "cat").mkdir(parents=True)
    wanted = {split: tmp_path / name for split, name in zip(("train", "val", "test"), expected, strict=True) if name}
    assert split_folders(tmp_path) == wanted


def test_nested_folder_of_same_name(tmp_path: Path) -> None:
    for name in ("seg_train", "seg_test"):
        (tmp_path / name / name / "cat").mkdir(parents=True)
        (tmp_path / name / "@eaDir").mkdir()
    assert split_folders(tmp_path)["train"] == tmp_path / "seg_train" / "seg_train"
    assert split_folders(tmp_path / "nowhere") == {}


def test_system_files_are_clutter() -> None:
    assert all(map(is_clutter, ("@eaDir", "._a.png", ".DS_Store", "Thumbs.db", "__MACOSX", "desktop.ini")))
    assert not any(map(is_clutter, ("a.png", "eaDir", "thumbs")))
