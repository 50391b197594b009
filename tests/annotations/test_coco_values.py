"""COCO values as various programs write them: valid variants are read, and invalid ones are named in errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_cv.annotations import AnnotationSet, Problems, coco_dict, read_coco
from tests.annotations.sets import save_coco, save_image

BOX = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [2, 2, 6, 6]}
SQUARE = [2.0, 2, 8, 2, 8, 8, 2, 8]


def read(root: Path, annotations: list[Any], **changes: Any) -> tuple[AnnotationSet, Problems]:
    save_coco(root / "instances.json", annotations, **changes)
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(root / f"{name}.png", *side)
    problems = Problems()
    return read_coco(root, problems)["all"], problems


@pytest.mark.parametrize(
    ("value", "crowd"),
    [("0", False), ("1", True), (0, False), (1, True), (1.0, True), (False, False), (True, True), (None, False),
     ("false", False), ("True", True), ("", False)],
)  # fmt: skip
def test_iscrowd_values(tmp_path: Path, value: Any, crowd: bool) -> None:
    part, problems = read(tmp_path, [BOX | {"iscrowd": value}])
    assert not len(problems)
    assert part.images[1].objects[0].crowd is crowd


@pytest.mark.parametrize("value", [2, "yes", [0], {}, -1])
def test_error_names_invalid_iscrowd(tmp_path: Path, value: Any) -> None:
    part, problems = read(tmp_path, [BOX | {"iscrowd": value}])
    assert "annotation 1: its iscrowd" in str(problems)
    assert part.images[1].objects == []


@pytest.mark.parametrize("name", [7, 0, 1.5, "0", " "])
def test_category_names_may_be_numbers(tmp_path: Path, name: Any) -> None:
    categories = [{"id": 1, "name": name}, {"id": 0, "name": "dog"}]
    part, problems = read(tmp_path, [BOX, BOX | {"id": 2, "category_id": 0}], categories=categories)
    if name == " ":
        assert "category 1: has no id or no name" in str(problems)
        return
    assert not len(problems)
    assert [part.categories[item.category] for item in part.images[1].objects] == [str(name), "dog"]


def test_ids_may_mix_text_and_numbers(tmp_path: Path) -> None:
    images = [{"id": "11", "file_name": "a.png"}, {"id": "0005", "file_name": "b.png"}]
    categories = [{"id": "18", "name": "dog"}, {"id": 1, "name": "person"}]
    found = [BOX, BOX | {"id": "2", "image_id": "11", "category_id": 18}, BOX | {"id": 3.0, "image_id": 5.0}]
    part, problems = read(tmp_path, found, images=images, categories=categories)
    assert not len(problems)
    assert (part.categories, part.category_ids) == (["person", "dog"], [1, 18])
    assert [[item.category for item in image.objects] for image in part.images] == [[1], [0, 0]]
    assert [image.id for image in part.images] == [11, 5]


def test_ids_may_be_any_text(tmp_path: Path) -> None:
    images = [{"id": "x-1", "file_name": "a.png"}, {"id": "x-2", "file_name": "b.png"}]
    categories = [{"id": "z", "name": "dog"}, {"id": "a", "name": "person"}]
    found = [BOX | {"id": key, "image_id": "x-2", "category_id": "a"} for key in ("p", "q")]
    part, problems = read(tmp_path, found, images=images, categories=categories)
    assert not len(problems)
    assert part.categories == ["dog", "person"]
    assert [item.category for item in part.images[1].objects] == [1, 1]
    written = coco_dict(part)
    assert [entry["id"] for entry in written["annotations"]] == [1, 2]
    assert [entry["image_id"] for entry in written["annotations"]] == [2, 2]
    assert [entry["category_id"] for entry in written["annotations"]] == [2, 2]


@pytest.mark.parametrize(
    "outline",
    [[SQUARE], SQUARE, json.dumps([SQUARE]), json.dumps(SQUARE), [SQUARE, []],
     [[[2, 2], [8, 2], [8, 8], [2, 8]]], [[2, 2], [8, 2], [8, 8], [2, 8]]],
)  # fmt: skip
@pytest.mark.parametrize("box", [BOX["bbox"], None, "[2, 2, 6, 6]"])
def test_outline_variants(tmp_path: Path, outline: Any, box: Any) -> None:
    part, problems = read(tmp_path, [BOX | {"segmentation": outline, "bbox": box}])
    assert not len(problems)
    (item,) = part.images[1].objects
    assert (item.segmentation, item.box) == ([SQUARE], (2, 2, 8, 8))


@pytest.mark.parametrize("outline", ["", "[]", [], None, {}, [[]], " "])
def test_empty_outline_is_none(tmp_path: Path, outline: Any) -> None:
    part, problems = read(tmp_path, [BOX | {"segmentation": outline}])
    assert not len(problems)
    assert part.images[1].objects[0].segmentation is None


@pytest.mark.parametrize("box", [BOX["bbox"], None])
@pytest.mark.parametrize("outline", [7, 1.5, True, "many", "[[1, 2", [["a", "b"]], [None], {"size": 3}, [{}], [True]])
def test_error_names_invalid_outline(tmp_path: Path, outline: Any, box: Any) -> None:
    part, problems = read(tmp_path, [BOX | {"segmentation": outline, "bbox": box}, BOX | {"id": 2}])
    assert len(problems) == 1
    assert "annotation 1: its segmentation" in str(problems)
    assert [item.id for item in part.images[1].objects] == [2]


@pytest.mark.parametrize("entry", [None, 7, "x", [], BOX | {"image_id": [5]}])
def test_invalid_entries_are_skipped(tmp_path: Path, entry: Any) -> None:
    part, problems = read(tmp_path, [entry, BOX])
    assert "number 1 of annotations: is not an object" in str(problems)
    assert len(part.images[1].objects) == 1


def test_image_sizes_may_be_text(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "b.png", "height": "30", "width": "30.0"}]
    part, problems = read(tmp_path, [BOX], images=images)
    assert not len(problems)
    assert (part.images[0].height, part.images[0].width) == (30, 30)
