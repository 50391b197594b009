import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_cv.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotationError,
    AnnotationSet,
    Problems,
    decode_rle,
    encode_rle,
    find_format,
    load_mask,
    read_annotations,
    read_coco,
    save_mask,
    write_coco,
    write_masks,
    write_voc,
    write_yolo,
)
from lit_cv.annotations.classes import read_class_table
from lit_cv.annotations.coco_writing import coco_dict
from tests.annotations.sets import content, example, save_coco, save_image


def read(root: Path, **options: Any) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_annotations(root, problems, **options)
    problems.stop()
    return sets


def saved(sets: dict[str, AnnotationSet], format: str, root: Path) -> dict[str, AnnotationSet]:
    """Write sets with their images in a format, and read them back."""
    writers = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
    folders = {"coco": "images/{}", "voc": "JPEGImages", "yolo": "images/{}"}
    writers[format](sets, root)
    for split, part in sets.items():
        for image in part.images:
            path = root / folders[format].format(split) / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((part.folder / image.name).read_bytes())
    assert find_format(root) == format
    return read(root)


def test_round_trip_through_all_formats(tmp_path: Path) -> None:
    sets = example(tmp_path / "source")
    first = saved(sets, "coco", tmp_path / "1")
    assert content(first) == content(sets)
    voc = saved(first, "voc", tmp_path / "2")
    assert content(voc) == content(sets)
    assert [o.attributes for o in voc["train"].images[3].objects][2] == {
        "pose": "Left",
        "truncated": "0",
        "difficult": "1",
    }
    yolo = saved(voc, "yolo", tmp_path / "3")
    assert content(yolo) == content(sets)
    last = saved(yolo, "coco", tmp_path / "4")
    assert content(last) == content(sets)
    assert all(part.categories == ["zebra", "cat", "dog"] for found in (voc, yolo, last) for part in found.values())
    assert (tmp_path / "2/Annotations/deep/train.xml").is_file()


def test_coco_keeps_ids_outlines_and_attributes(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = True
    annotations = [
        {"id": 3, "image_id": 11, "category_id": 18, "bbox": [1.25, 2, 30, 20.5], "iscrowd": 0, "area": 80.0,
         "segmentation": [[1.25, 2, 31.25, 2, 31.25, 22.5], [3, 3, 9, 3, 9, 9, 3, 9.5]], "my_note": "blurred"},
        {"id": 8, "image_id": 11, "category_id": 1, "bbox": [10, 5, 20, 15], "iscrowd": 1,
         "segmentation": encode_rle(mask)},
        {"id": 9, "image_id": 11, "category_id": 1, "iscrowd": 1,
         "segmentation": {"size": [40, 60], "counts": [405, 15, 1980]}},
    ]  # fmt: skip
    save_coco(tmp_path / "annotations" / "instances_val2017.json", annotations)
    save_image(tmp_path / "val2017" / "a.png", 40, 60)
    save_image(tmp_path / "val2017" / "b.png", 30, 30)
    found = read(tmp_path)["val"]
    assert found.categories == ["person", "dog"]  # in the order of their ids
    assert found.category_ids == [1, 18]
    first, second = found.images
    assert (first.name, first.id, second.objects) == ("a.png", 11, [])
    assert [(o.id, o.category, o.crowd) for o in first.objects] == [(3, 1, False), (8, 0, True), (9, 0, True)]
    assert first.objects[0].box == (1.25, 2, 31.25, 22.5)
    assert first.objects[2].box == (10, 5, 11, 20)  # from the run-length encoding: column 10, rows 5 to 19
    assert np.array_equal(decode_rle(first.objects[1].segmentation), mask)
    again = coco_dict(found)
    assert again["images"][1] == {"id": 5, "file_name": "b.png", "height": 30, "width": 30}
    entry = again["annotations"][0]
    assert {key: entry[key] for key in ("id", "image_id", "category_id", "bbox", "segmentation", "my_note")} == {
        key: annotations[0][key] for key in ("id", "image_id", "category_id", "bbox", "segmentation", "my_note")
    }
    assert entry["area"] == pytest.approx(30 * 20.5 / 2 + (6 + 6.5) / 2 * 6)
    assert again["annotations"][1]["segmentation"] == annotations[1]["segmentation"]
    assert again["annotations"][1]["area"] == 300


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    module = pytest.importorskip("faster_coco_eval")
    sets = example(tmp_path / "source", ("train",))
    (path,) = write_coco(sets, tmp_path)
    coco = module.COCO(str(path))
    assert len(coco.getImgIds()) == 5
    assert coco.getCatIds() == [7, 9, 30]
    boxes = [annotation["bbox"] for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[104]))]
    expected = [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in (o.box for o in sets["train"].images[4].objects)]
    assert np.allclose(boxes, expected, atol=1e-3)


def test_ultralytics_yolo_with_polygons_and_confidences(tmp_path: Path) -> None:
    for split, stem in (("train", "a"), ("train", "b"), ("valid", "c")):
        save_image(tmp_path / split / "images" / f"{stem}.png", 40, 80)
        (tmp_path / split / "labels").mkdir(exist_ok=True)
    (tmp_path / "train/labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.1 0.1 0.75\n\n")
    (tmp_path / "valid/labels/c.txt").write_text("0 0.25 0.25 0.75 0.25 0.5 0.75\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['x', 'y']\n")
    found = read(tmp_path)
    a, b = found["train"].images
    assert a.objects[0].box == (30, 10, 50, 30)
    assert (a.objects[1].score, a.objects[0].category, b.objects) == (0.75, 1, [])
    (c,) = found["val"].images
    assert c.objects[0].segmentation == [[20, 10, 60, 10, 40, 30]]
    assert c.objects[0].box == (20, 10, 60, 30)
    again = saved(found, "yolo", tmp_path / "again")
    assert again["train"].images[0].objects[1].score == 0.75
    assert again["val"].images[0].objects[0].segmentation == c.objects[0].segmentation


def test_masks_round_trip(tmp_path: Path) -> None:
    save_image(tmp_path / "images/train/a.png", 20, 30)
    save_image(tmp_path / "images/val/b.png", 20, 30)
    mask = np.arange(600).reshape(20, 30) % 3
    mask[0, 0] = 255
    for path in ("train/a", "val/b"):
        save_mask(mask, tmp_path / "masks" / f"{path}.png")
    assert np.array_equal(load_mask(tmp_path / "masks/train/a.png"), mask)
    with Image.open(tmp_path / "masks/train/a.png") as image:
        colors = np.array(image.convert("RGB"))
    assert colors[0, 1].tolist() == [128, 0, 0]  # VOC's first color
    assert colors[0, 2].tolist() == [0, 128, 0]
    assert colors[0, 0].tolist() == [224, 224, 192]  # and that of its border
    assert read(tmp_path)["train"].mask_classes == ["0", "1", "2"]
    (tmp_path / "classes.txt").write_text("ground\ntree\nhouse\n")
    found = read(tmp_path)
    assert found["val"].mask_classes == ["ground", "tree", "house"]
    write_masks(found, tmp_path / "again")
    assert np.array_equal(load_mask(tmp_path / "again/masks/val/b.png"), mask)


def test_masks_from_outlines(tmp_path: Path) -> None:
    save_coco(tmp_path / "instances.json", [
        {"id": 1, "image_id": 5, "category_id": 1, "bbox": [2, 2, 6, 6], "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]},
        {"id": 2, "image_id": 5, "category_id": 18, "bbox": [0, 0, 20, 20],
         "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]},
        {"id": 3, "image_id": 5, "category_id": 1, "bbox": [24, 24, 4, 4]},
    ])  # fmt: skip
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / f"{name}.png", *side)
    write_masks(read(tmp_path), tmp_path)
    mask = load_mask(tmp_path / "masks/b.png")
    assert mask[3, 3] == 1  # the smaller object covers the larger one
    assert mask[10, 10] == 2
    assert mask[25, 25] == 255  # a box without an outline
    assert np.bincount(mask.reshape(-1))[[0, 1, 2, 255]].tolist() == [900 - 400 - 16, 36, 364, 16]
    assert (tmp_path / "classes.txt").read_text().split() == ["background", "person", "dog"]


BOX = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [2, 2, 6, 6]}


@pytest.mark.parametrize(
    ("annotations", "changes", "message"),
    [
        ([BOX, BOX], {}, "instances.json, annotation 1: its id occurs twice"),
        ([BOX | {"image_id": 4}], {}, "annotation 1: no image has the id 4"),
        ([BOX | {"category_id": 2}], {}, "annotation 1: unknown category 2. Known: 1, 18"),
        ([BOX | {"bbox": [2, 2, 0, 6]}], {}, r"annotation 1: its box \(2, 2, 2, 8\) has no area"),
        ([BOX | {"bbox": [2, 2, 30, 6]}], {}, "is not inside the image of 30 x 30"),
        ([BOX | {"bbox": [2, 2, 6]}], {}, r"its bbox has 3 numbers: four are needed, \[left, top, width, height\]"),
        ([BOX | {"bbox": [9, 2, -6, 6]}], {}, r"its bbox \[9, 2, -6, 6\] has a negative width: the order is \[left"),
        ([BOX | {"bbox": [9, 9, 6, -6]}], {}, "has a negative height"),
        ([BOX | {"bbox": [2, 2, "x", 6]}], {}, "must contain four numbers"),
        ([BOX | {"bbox": {"x": 2}}], {}, "is not a list: four are needed"),
        ([BOX | {"bbox": None}], {}, "has neither bbox nor segmentation"),
        ([BOX | {"segmentation": [[1, 2, 3, 4]]}], {}, "its polygon has 4 numbers"),
        ([BOX | {"segmentation": [[1, 2, 33, 4, 5, 5]]}], {}, "its polygon is not inside"),
        (
            [BOX | {"segmentation": [[0, 0, 30, 30] * 80_000]}],
            {},
            "its polygon is 4800000 pixels long: at most 4194304",
        ),
        ([BOX | {"segmentation": {"size": [30, 31], "counts": [930]}}], {}, r"RLE has size \[30, 31\]"),
        ([BOX | {"segmentation": {"size": [30, 30], "counts": [930]}}], {}, "its runs cover 930 pixels, not 30 x 30"),
        ([BOX | {"score": 1.5}], {}, r"its score 1.5 is not in \[0, 1\]"),
        ([], {"images": [{"id": 1, "file_name": "a.png"}] * 2}, "image 'a.png': its id 1 occurs twice"),
        ([], {"images": [{"id": i, "file_name": "a.png"} for i in (1, 2)]}, "image 'a.png': is listed twice"),
        ([], {"images": [{"id": i, "file_name": f"{c}.png"} for i, c in enumerate("ac")]}, "'c.png': there is no such"),
        (
            [],
            {"images": [{"id": 1, "file_name": "a.png", "height": 1, "width": 2}]},
            "60 x 40 pixels, but its .* 2 x 1",
        ),
        ([], {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category 2: id 1 or name 'b' occurs"),
    ],
)
def test_invalid_coco_entries(tmp_path: Path, annotations: list[Any], changes: dict[str, Any], message: str) -> None:
    save_coco(tmp_path / "instances.json", annotations, **changes)
    save_image(tmp_path / "a.png", 40, 60)
    save_image(tmp_path / "b.png", 30, 30)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path)
    problems = Problems()
    read_annotations(tmp_path, problems)
    assert len(problems) == 1


def test_invalid_coco_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(AnnotationError, match=r"contains a list: COCO files contain the lists images"):
        read(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(AnnotationError, match="is not valid JSON"):
        read(tmp_path)
    (tmp_path / "y.json").write_text("{}")
    with pytest.raises(ValueError, match="both contain annotations of 'all'"):
        read(tmp_path)
    (tmp_path / "y.json").unlink()
    save_coco(tmp_path / "x.json", [])
    with pytest.raises(FileNotFoundError, match=r"a.png of .*`images`"):
        read(tmp_path)


def test_categories_of_splits_are_matched_by_name(tmp_path: Path) -> None:
    save_coco(tmp_path / "train.json", [])
    other = [{"id": 18, "name": "person"}, {"id": 1, "name": "dgo"}]
    save_coco(tmp_path / "val.json", [BOX | {"category_id": 18}], categories=other)
    for name, side in (("a", (40, 60)), ("b", (30, 30))):
        save_image(tmp_path / f"{name}.png", *side)
    problems = Problems()
    found = read_coco(tmp_path, problems)
    assert found["val"].images[1].objects[0].category == 0
    assert "category 1: unknown category 'dgo': did you mean 'dog'?" in str(problems)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt, line 2: class 2 is out of range: there are 2"),
        ("0 0.5 0.5 0.1", "line 2: has 4 numbers"),
        ("0 0.5 0.5 x 0.1", "is not `class x y width height`"),
        ("0 0.5 0.5 0 0.1", "line 2: its box .* has no area"),
        ("0 0.9 0.5 0.4 0.1", "line 2: its box .* is not inside"),
        ("1 0.5 0.5 0.25 0.5", "line 2: is a duplicate"),
    ],
)
def test_invalid_yolo_lines(tmp_path: Path, line: str, message: str) -> None:
    save_image(tmp_path / "images/a.png", 40, 80)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"1 0.5 0.5 0.25 0.5\n{line}\n")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path)


def test_invalid_masks(tmp_path: Path) -> None:
    for name in "abcd":
        save_image(tmp_path / f"images/{name}.png", 20, 30)
    save_mask(np.zeros((20, 31), int), tmp_path / "masks/a.png")
    save_mask(np.zeros((20, 31), int), tmp_path / "masks/e.png")
    save_mask(np.full((20, 30), 3), tmp_path / "masks/b.png")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "masks/c.png")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    problems = Problems()
    found = read_annotations(tmp_path, problems)
    assert found["all"].images == []
    for message in (
        "a.png: the mask has 31 x 20 pixels, but its image has 30 x 20",
        "b.png: the mask contains the value 3: valid are 0 to 2 (x, y, z) and 255",
        "c.png: the mask has the color (255, 0, 0): give a file that names the colors (`palette`)",
        "e.png: there is no image of that name",
    ):
        assert message in str(problems)


def test_fractional_pixels_survive_voc(tmp_path: Path) -> None:
    sets = example(tmp_path / "source", ("all",))
    part = sets["all"]
    image = part.images[2]
    image.objects = [replace(image.objects[0], box=(0.1234, 5.5, 7.0, 9.8765), score=0.25)]
    text = write_voc(sets, tmp_path / "voc")[2].read_text()
    assert "<xmin>1.1234</xmin>" in text
    assert "<xmax>7</xmax>" in text
    again = saved(sets, "voc", tmp_path / "voc")["all"]
    (found,) = next(other for other in again.images if other.name == image.name).objects
    assert found.box == pytest.approx((0.1234, 5.5, 7.0, 9.8765), abs=1e-9)
    assert found.score == 0.25
    assert json.dumps(coco_dict(again))


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "..\\a.png", "C:\\a.png"])
def test_names_outside_the_folder(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": name, "height": 40, "width": 60}, {"id": 2, "file_name": "b.png"}]
    save_coco(tmp_path / "set" / "instances.json", [], images=images)
    save_image(tmp_path / "set" / "b.png", 30, 30)
    save_image(tmp_path / "a.png", 40, 60)
    with pytest.raises(AnnotationError, match="its name points outside the image folder"):
        read(tmp_path / "set")
    image = AnnotatedImage(name, 40, 60, [AnnotatedObject(0, (1.0, 1.0, 5.0, 5.0))])
    before = sorted(tmp_path.rglob("*"))
    for write in (write_voc, write_yolo, write_masks):
        with pytest.raises(ValueError, match="points outside"):
            write({"train": AnnotationSet(tmp_path / "set", ["x"], [image])}, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_voc_lists_and_tables_outside_the_folder(tmp_path: Path) -> None:
    sets = example(tmp_path / "set" / "JPEGImages", ("train",))
    write_voc({"train": sets["train"]}, tmp_path / "set")
    (tmp_path / "out.xml").write_text("<annotation><size><width>9</width><height>9</height></size></annotation>")
    listed = tmp_path / "set" / "ImageSets" / "Main" / "train.txt"
    listed.write_text("../../out\n")
    problems = Problems()
    read_annotations(tmp_path / "set", problems)
    assert "points outside the image folder" in str(problems)
    save_image(tmp_path / "a.png", 9, 9)
    (tmp_path / "set" / "images.csv").write_text("path,label\n../a.png,x\n")
    problems = Problems()
    assert read_class_table(tmp_path / "set" / "images.csv", problems) == {}
    assert "points outside the image folder" in str(problems)


def test_xml_bombs_are_problems(tmp_path: Path) -> None:
    """The parser stops on entities that expand to gigabytes (billion laughs)."""
    entities = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 50 if k else "ha" * 50}">' for k in range(9))
    (tmp_path / "a.xml").write_text(f"<!DOCTYPE x [{entities}]><annotation>&a8;</annotation>")
    save_image(tmp_path / "a.png", 9, 9)
    with pytest.raises(AnnotationError, match=r"a\.xml: is not valid XML"):
        read(tmp_path)


def test_warns_about_several_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "images" / "a.png", 40, 60)
    save_image(tmp_path / "images" / "b.png", 30, 30)
    save_coco(tmp_path / "annotations" / "instances.json", [])
    assert find_format(tmp_path) == "coco"
    assert not caplog.text
    save_mask(np.zeros((40, 60), int), tmp_path / "masks" / "a.png")
    assert find_format(tmp_path) == "masks"
    assert "several formats: masks is read, not coco (choose with `format`)" in caplog.text
    caplog.clear()
    (tmp_path / "annotations" / "instances.json").write_text('{"version": 3}')  # no annotations
    assert find_format(tmp_path) == "masks"
    assert not caplog.text


def test_voc_masks_are_not_a_second_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "JPEGImages" / "a.png", 40, 60)
    save_mask(np.zeros((40, 60), int), tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation/>")
    assert find_format(tmp_path) == "voc"
    assert not caplog.text
