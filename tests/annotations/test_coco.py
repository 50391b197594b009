"""COCO files and the images that they list."""

import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from lit_cv.annotations import AnnotationSet, Problems, read_annotations
from tests.annotations.sets import save_image


def save(root: Path, split: str, names: list[str], **changes: Any) -> None:
    for name in names:
        save_image(root / "images" / name, 40, 60)
    content: dict[str, Any] = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [2, 3, 10, 6]} for k in range(len(names))
        ],
        "categories": [{"id": 1, "name": "x"}],
    }  # fmt: skip
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content | changes))


def read(root: Path) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems)
    problems.stop()
    return sets


def test_warns_about_file_without_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, names in {"instances_train": ["a.png"], "dev": ["b.png"], "holdout": ["c.png"]}.items():
        save(tmp_path, split, names)
    assert {split: [image.name for image in part.images] for split, part in read(tmp_path).items()} == {
        "train": ["a.png"],
        "val": ["b.png"],
    }
    assert "holdout.json is ignored, as its name contains no split: choose the files with `annotations`" in caplog.text


def test_annotation_ids_that_are_not_unique(tmp_path: Path) -> None:
    boxes = [{"id": 1, "image_id": k, "category_id": 1, "bbox": [2, 3, 10, 6]} for k in range(3)]
    save(tmp_path, "instances", ["a.png", "b.png", "c.png"], annotations=boxes)
    assert [len(image.objects) for image in read(tmp_path)["all"].images] == [1, 1, 1]


def test_image_listed_twice_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path, "instances", ["a.png", "./a.png"])
    with pytest.raises(ValueError, match=r"image './a\.png': is listed twice"):
        read(tmp_path)


def test_warns_about_unlisted_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, "train", ["a.png"])
    save(tmp_path, "val", ["b.png"])
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert not caplog.records
    save_image(tmp_path / "images" / "c.png", 40, 60)
    read(tmp_path)
    assert "1 of 3 images in" in caplog.text
    assert "have no annotations and are skipped, starting with c.png" in caplog.text


@pytest.mark.parametrize(("ours", "theirs"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_other_normal_form(tmp_path: Path, ours: Any, theirs: Any) -> None:
    name, other = (unicodedata.normalize(form, "é.png") for form in (ours, theirs))
    save(tmp_path, "train", [name], categories=[{"id": 1, "name": unicodedata.normalize(ours, "ö")}])
    save(tmp_path, "val", ["b.png"], categories=[{"id": 1, "name": unicodedata.normalize(theirs, "ö")}])
    (tmp_path / "images" / name).rename(tmp_path / "images" / other)
    sets = read(tmp_path)
    assert [image.name for image in sets["train"].images] == [other]
    assert [len(image.objects) for part in sets.values() for image in part.images] == [1, 1]
