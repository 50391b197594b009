"""Lists of images in Pascal VOC's layout."""

import os
import shutil
from pathlib import Path

import pytest

from lit_cv.annotations import Problems, read_annotations
from tests.annotations.sets import save_image

XML = (
    "<annotation><filename>{0}.png</filename><object><name>x</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax>"
    "<ymax>9</ymax></bndbox></object></annotation>"
)


def save(root: Path, names: str = "abcdef") -> Path:
    for name in names:
        save_image(root / "JPEGImages" / f"{name}.png", 40, 60)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name))
    return root


def save_list(path: Path, names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names))


def read(root: Path) -> dict[str, str]:
    problems = Problems()
    sets = read_annotations(root, problems)
    problems.stop()
    return {split: "".join(image.name[0] for image in part.images) for split, part in sets.items()}


@pytest.mark.parametrize("folder", ["ImageSets/Main", "imagesets/main", "ImageSets/Segmentation", "ImageSets", "."])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("trainval", "test"), ("Train", "TEST")])
def test_splits_come_from_lists(tmp_path: Path, folder: str, train: str, test: str) -> None:
    save(tmp_path)
    save_list(tmp_path / folder / f"{train}.txt", "abcd")
    save_list(tmp_path / folder / f"{test}.txt", "ef")
    assert read(tmp_path) == {"train": "abcd", "test": "ef"}


def test_val_is_removed_from_trainval(tmp_path: Path) -> None:
    save(tmp_path)
    for name, listed in {"train": "abc", "val": "d", "trainval": "abcd", "test": "ef"}.items():
        save_list(tmp_path / "ImageSets" / "Main" / f"{name}.txt", listed)
    assert read(tmp_path) == {"train": "abc", "val": "d", "test": "ef"}


def test_warns_about_unlisted_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path)
    save_list(tmp_path / "ImageSets" / "Main" / "test.txt", "ef")
    assert read(tmp_path) == {"all": "abcdef"}
    assert "has no list train.txt or trainval.txt, so its other lists are ignored (test.txt)" in caplog.text
    caplog.clear()
    save_list(tmp_path / "ImageSets" / "Main" / "train.txt", "ab")
    assert read(tmp_path) == {"train": "ab", "test": "ef"}
    assert "2 annotations are in no list of" in caplog.text


def test_other_text_files_are_not_lists(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "train.txt").write_text("trained with 8 GPUs\n")
    assert read(tmp_path) == {"all": "abcdef"}


def test_warns_about_images_without_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path)
    for name in "ef":
        os.unlink(tmp_path / "Annotations" / f"{name}.xml")
    assert read(tmp_path) == {"all": "abcd"}
    assert "2 of 6 images in" in caplog.text
    assert "have no annotations and are skipped, starting with e.png" in caplog.text


@pytest.mark.parametrize("names", ["train2017 val2017", "Training Testing", "my_train my_test"])
def test_split_folders_with_other_names(tmp_path: Path, names: str) -> None:
    train, test = names.split()
    save(tmp_path / "set")
    for folder, listed in ((train, "abcd"), (test, "ef")):
        for name in listed:
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(tmp_path / "set" / "Annotations" / f"{name}.xml", tmp_path / folder)
            shutil.copy(tmp_path / "set" / "JPEGImages" / f"{name}.png", tmp_path / folder)
    shutil.rmtree(tmp_path / "set")
    assert list(read(tmp_path).values()) == ["abcd", "ef"]
