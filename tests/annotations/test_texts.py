"""Text files of other systems: byte order marks, UTF-16, quoted keys, repeated names."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import CSVDataModule
from datamodules.annotation_files import read_image_labels
from lit_cv.annotations import AnnotationError, AnnotationSet, Problems, convert, read_annotations, save_mask
from lit_cv.annotations.classes import read_class_table
from lit_cv.annotations.reading import read_lines, read_rows
from lit_cv.annotations.walk import FolderIndex
from tests.annotations.sets import save_coco, save_image

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


def read(root: Path) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems)
    problems.stop()
    return sets


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_yolo_encodings(tmp_path: Path, encoding: str) -> None:
    for name in ("ä", "b"):
        save_image(tmp_path / "pool" / f"{name}.png", 40, 80)
        (tmp_path / "pool" / f"{name}.txt").write_text("1 0.5 0.5 0.25 0.5\r\n", encoding=encoding)
    (tmp_path / "classes.txt").write_text("kätzchen\r\ndog\r\n", encoding=encoding)
    part = read(tmp_path)["all"]
    assert part.categories == ["kätzchen", "dog"]
    assert [item.category for image in part.images for item in image.objects] == [1, 1]
    (tmp_path / "data.yaml").write_text('"names": {"0": "kätzchen", "1": dog}\n"train": train.txt\n')
    (tmp_path / "train.txt").write_text("pool/ä.png\r\npool/b.png\r\n", encoding=encoding)
    part = read(tmp_path)["train"]
    assert (part.categories, [image.name for image in part.images]) == (["kätzchen", "dog"], ["ä.png", "b.png"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_voc_encodings(tmp_path: Path, encoding: str) -> None:
    save_image(tmp_path / "JPEGImages/a.png", 40, 80)
    (tmp_path / "Annotations").mkdir()
    text = (
        "<annotation><filename>a.png</filename><object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "Annotations/a.xml").write_text(text, encoding=encoding)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n", encoding=encoding)
    (tmp_path / "labels.txt").write_text("dog\n\ncat\n", encoding=encoding)
    part = read(tmp_path)["train"]
    assert (part.categories, [item.category for item in part.images[0].objects]) == (["dog", "cat"], [1])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_of_masks_tables_and_coco(tmp_path: Path, encoding: str) -> None:
    save_image(tmp_path / "images/a.png", 20, 30)
    save_mask(np.eye(20, 30, dtype=int), tmp_path / "masks/a.png")
    (tmp_path / "classes.txt").write_text("ground\ncell\n", encoding=encoding)
    assert read(tmp_path)["all"].mask_classes == ["ground", "cell"]
    (tmp_path / "images.csv").write_text("path,label\nimages/a.png,kätzchen\n", encoding=encoding)
    assert read_class_table(tmp_path / "images.csv", Problems())["all"].images[0].label == "kätzchen"
    (tmp_path / "tabs.csv").write_text("path\tlabel\nimages/a.png\tcat, dog\n", encoding=encoding)
    assert read_rows(tmp_path / "tabs.csv", ["path"]) == [{"path": "images/a.png", "label": "cat, dog"}]
    save_coco(tmp_path / "coco/instances.json", [])
    content = json.loads((tmp_path / "coco/instances.json").read_text())
    (tmp_path / "coco/instances.json").write_text(json.dumps(content), encoding=encoding)
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / "coco" / f"{name}.png", *side)
    assert read(tmp_path / "coco")["all"].categories == ["person", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\ncat\n", "classes.txt contains class 'cat' in lines 1 and 3: rename one"),
        ("cat\n\ndog\n", "classes.txt, line 2 is empty, which would shift the class numbers"),
        ("\ncat\ndog\n", "classes.txt, line 1 is empty"),
    ],
)
def test_error_names_repeated_or_empty_class(tmp_path: Path, text: str, message: str) -> None:
    save_image(tmp_path / "images/a.png", 20, 30)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path)
    (tmp_path / "labels/a.txt").unlink()
    save_mask(np.eye(20, 30, dtype=int), tmp_path / "masks/a.png")
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path)


def test_error_names_repeated_class_in_yaml(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.png", 20, 30)
    (tmp_path / "data.yaml").write_text("names: [cat, dog, cat]\n")
    with pytest.raises(AnnotationError, match="names has the class 'cat' twice"):
        read(tmp_path)


def test_backslashes_in_tables_and_lists(tmp_path: Path) -> None:
    save_image(tmp_path / "images/deep/a.png", 40, 80)
    (tmp_path / "images.csv").write_text("path,label\nimages\\deep\\a.png,cat\n")
    assert [image.name for image in read_class_table(tmp_path / "images.csv", Problems())["all"].images] == [
        "images/deep/a.png"
    ]
    data = CSVDataModule(str(tmp_path / "images.csv"), val_fraction=0, test_fraction=0)
    data.setup()
    assert data.train_dataset.sample_name(0) == "images/deep/a.png"
    (tmp_path / "labels/deep").mkdir(parents=True)
    (tmp_path / "labels/deep/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "train.txt").write_text(".\\images\\deep\\a.png\n")
    for place in ("train.txt", "images\\deep"):
        (tmp_path / "data.yaml").write_text(f"names: [cat]\ntrain: '{place}'\n")
        (image,) = read(tmp_path)["train"].images
        assert len(image.objects) == 1


def test_backslashes_in_label_table(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\ndeep\\a.png,day\n")
    assert read_image_labels(tmp_path / "labels.csv", {"deep/a.png"}, strict=True) == (["day"], {"deep/a.png": 0})


@pytest.mark.parametrize("names", [["photo 1.jpg"], ["photo 1.jpg", "photo.jpg"], ["a.b 2.jpg", "a.jpg"]])
@pytest.mark.parametrize("to", ["voc", "yolo", "coco"])
def test_names_with_spaces_survive_convert(tmp_path: Path, names: list[str], to: Any) -> None:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 5, 5 + k]} for k in range(len(names))]
    for name in names:
        save_image(tmp_path / "set/train" / name, 40, 60)
    save_coco(tmp_path / "set/annotations/instances_train.json", boxes, images=images)
    convert(str(tmp_path / "set"), str(tmp_path / "out"), to)
    found = {image.name: [item.box[3] for item in image.objects] for image in read(tmp_path / "out")["train"].images}
    assert found == {name: [6 + k] for k, name in enumerate(names)}


@pytest.mark.parametrize("names", ["[no, 1e3, 007, 1.0, ~]", "{0: no, 1: 1e3, '2': 007, 3: 1.0, 4: ~}"])
def test_yaml_class_names_stay_text(tmp_path: Path, names: str) -> None:
    save_image(tmp_path / "images/a.png", 20, 30)
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    assert read(tmp_path)["all"].categories == ["no", "1e3", "007", "1.0", "~"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_coco_splits_in_all_encodings(tmp_path: Path, encoding: str) -> None:
    for split, name in (("train", encoding), ("val", "utf-8")):
        save_coco(tmp_path / f"annotations/instances_{split}.json", [])
        text = (tmp_path / f"annotations/instances_{split}.json").read_text()
        (tmp_path / f"annotations/instances_{split}.json").write_text(text, encoding=name)
        for image, side in (("a", (40, 60)), ("b", (30, 30))):
            save_image(tmp_path / split / f"{image}.png", *side)
    assert list(read(tmp_path)) == ["train", "val"]


def test_list_may_start_like_byte_order_mark(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff\xfe1"), "b"]
    for name in names:
        save_image(tmp_path / "pool" / f"{name}.png", 40, 80)
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: train.txt\n")
    (tmp_path / "train.txt").write_bytes(b"".join(os.fsencode(f"pool/{name}.png\n") for name in names))
    assert [image.name for image in read(tmp_path)["train"].images] == [f"{name}.png" for name in names]
    (tmp_path / "list.txt").write_bytes(b"".join(os.fsencode(f"{name}\n") for name in names))
    assert read_lines(tmp_path / "list.txt", files=True) == names


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_either_normal_form(tmp_path: Path, forms: tuple[Any, Any]) -> None:
    ours, theirs = (unicodedata.normalize(form, "é") for form in forms)
    save_image(tmp_path / "yolo" / "images" / f"{ours}.png", 40, 80)
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / f"{theirs}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "yolo" / "classes.txt").write_text(f"{theirs}\n")
    part = read(tmp_path / "yolo")["all"]
    assert (part.categories, len(part.images[0].objects)) == (["\u00e9"], 1)
    save_image(tmp_path / "masks" / "images" / f"{ours}.png", 40, 80)
    save_mask(np.zeros((40, 80), np.uint8), tmp_path / "masks" / "masks" / f"{theirs}.png")
    assert len(read(tmp_path / "masks")["all"].images) == 1
    (tmp_path / "table.csv").write_text(
        f"path,label\nyolo/images/{theirs}.png,{ours}\nmasks/images/{ours}.png,{theirs}\n"
    )
    data = CSVDataModule(str(tmp_path / "table.csv"), image_size=8, val_fraction=0.0, test_fraction=0.0)
    data.setup()
    assert (data.class_names, len(data.train_dataset)) == (["\u00e9"], 2)
    assert data.train_dataset[0]["image"].shape == (3, 8, 8)


def test_tables_with_spaces_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" path , label\na.png, cat\n,\n\nb.png,dog,\n")
    assert read_rows(tmp_path / "t.csv") == [{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": "dog"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,cat\nb.png,New York, NY\n", r"t\.csv, line 3: more cells .* Quote cells that contain ','"),
        ("path;label\na.png;New; York\n", r"line 2: more cells .* Quote cells that contain ';'"),
        ("path,label,label\na.png,cat,dog\n", "two columns named 'label'"),
    ],
)
def test_error_names_extra_cells(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_rows(tmp_path / "t.csv")


def test_files_may_differ_only_in_normal_form(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for name in names:
        (tmp_path / f"{name}.txt").touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    index = FolderIndex(tmp_path, (".txt",))
    for name in names:
        assert index.named(Path(name)) == [Path(f"{name}.txt")]
    (tmp_path / f"{names[0]}.txt").unlink()
    assert FolderIndex(tmp_path, (".txt",)).named(Path(names[0])) == [Path(f"{names[1]}.txt")]
