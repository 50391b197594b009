import logging
from pathlib import Path

import pytest

from lit_cv.annotations import AnnotatedObject, AnnotationError, AnnotationSet, Problems, convert, read_yolo, write_yolo
from lit_cv.annotations.convert import place_images
from tests.annotations.sets import content, example, save_coco, save_image

BOX = "0 0.5 0.5 0.5 0.5\n"


def read(root: Path) -> dict[str, AnnotationSet]:
    problems = Problems()
    sets = read_yolo(root, problems)
    problems.stop()
    return sets


def counts(root: Path) -> dict[str, list[int]]:
    """Return the number of objects of each image by split."""
    return {split: [len(image.objects) for image in part.images] for split, part in read(root).items()}


def save(root: Path, image: str, labels: str, text: str = BOX) -> None:
    save_image(root / image, 40, 60)
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    (root / labels).write_text(text)
    (root / "classes.txt").write_text("x\ny\n")


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/a.jpg", "images/a.txt"),  # beside, in a folder `images`
        ("images/train/a.jpg", "images/train/a.txt"),
        ("Images/a.jpg", "Labels/a.txt"),
        ("Images/a.JPG", "labels/a.TXT"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("Train/Images/a.jpg", "Train/Labels/a.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("images/images/a.jpg", "labels/images/a.txt"),
        ("JPEGImages/a.jpg", "labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_labels_are_found(tmp_path: Path, image: str, labels: str) -> None:
    root = tmp_path / "images" / "set"  # below a folder of that name outside the set
    save(root, image, labels)
    (tmp_path / "labels" / "set").mkdir(parents=True)
    (tmp_path / "labels" / "set" / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n" * 2)
    assert list(counts(root).values()) == [[1]]


def test_labels_of_images_outside_the_root(tmp_path: Path) -> None:
    save(tmp_path / "images", "train/a.jpg", "classes.txt")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text(BOX)
    (tmp_path / "labels" / "other").mkdir()
    (tmp_path / "labels" / "other" / "b.txt").write_text(BOX)  # labels of another set
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.yaml").write_text(f"names: [x]\ntrain: {tmp_path}/images/train\n")
    assert counts(tmp_path / "set") == {"train": [1]}


@pytest.mark.parametrize("missing", [1, 5])
def test_missing_label_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: int) -> None:
    for number in range(20):
        save(tmp_path, f"images/{number}.png", f"labels/{number}.txt")
    for number in range(missing):
        (tmp_path / "labels" / f"{number}.txt").unlink()
    with caplog.at_level(logging.INFO, "lit_cv"):
        read(tmp_path)
    (record,) = caplog.records
    assert f"{missing} of 20 images in {tmp_path / 'images'} have no label file" in record.getMessage()
    assert record.levelno == (logging.WARNING if missing == 5 else logging.INFO)


def test_warns_about_images_outside_split_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("train/a", "Val/b", "more/c"):
        save(tmp_path, f"images/{place}.png", f"labels/{place}.txt")
    assert counts(tmp_path) == {"train": [1], "val": [1]}
    assert (
        f"1 images are in no folder of a split and are skipped, starting with {tmp_path / 'images/more/c.png'}"
        in caplog.text
    )


def test_labels_without_image_are_problems(tmp_path: Path) -> None:
    save(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "labels" / "train" / "b.txt").write_text(BOX)
    (tmp_path / "images" / "train" / "c.txt").write_text(BOX)
    problems = Problems()
    read_yolo(tmp_path, problems)
    assert len(problems) == 2
    assert "b.txt: there is no image of that name" in str(problems)
    assert "c.txt: there is no image of that name" in str(problems)


def test_yaml_paths_in_another_case(tmp_path: Path) -> None:
    save(tmp_path, "Images/Train/a.png", "Labels/Train/a.txt")
    (tmp_path / "data.yaml").write_text("names: [x]\ntrain: ../images/train\n")
    assert counts(tmp_path) == {"train": [1]}


@pytest.mark.parametrize("values", [3, 2])
def test_keypoints(tmp_path: Path, values: int) -> None:
    points = "0.25 0.5 2 0 0 0" if values == 3 else "0.25 0.5 0 0"
    save(tmp_path, "images/train/a.png", "labels/train/a.txt", f"1 0.5 0.5 0.5 0.25 {points}\n0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text(f"names: [x, y]\nkpt_shape: [2, {values}]\ntrain: images/train\n")
    posed, plain = read(tmp_path)["train"].images[0].objects
    assert (posed.box, posed.segmentation, posed.score) == ((15, 15, 45, 25), None, None)
    assert posed.attributes == {"keypoints": [15, 20, 2, 0, 0, 0], "num_keypoints": 1}
    assert (plain.box[0], plain.attributes) == (27, {})
    (tmp_path / "labels/train/a.txt").write_text("1 0.1 0.1 0.2 0.1 0.2 0.2\n")
    with pytest.raises(AnnotationError, match=f"line 1: has 7 numbers: a box needs 5, or {5 + 2 * values} with keyp"):
        read(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [x, y]\nkpt_shape: 17\ntrain: images/train\n")
    with pytest.raises(AnnotationError, match=r"kpt_shape is 17: it must be \[number of keypoints, 2 or 3\]"):
        read(tmp_path)


def test_error_names_repeated_class(tmp_path: Path) -> None:
    save(tmp_path, "images/a.png", "labels/a.txt")
    (tmp_path / "data.yaml").write_text("names: [x, y, x]\n")
    with pytest.raises(AnnotationError, match="names has the class 'x' twice: rename one"):
        read(tmp_path)


@pytest.mark.parametrize("folder", ["images", "train", "images/train", "labels", "deep/er", "Images"])
def test_coco_names_with_folders_round_trip(tmp_path: Path, folder: str) -> None:
    names = [f"{folder}/a.png", "val/b.png"]
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 6, 6 + i]} for i in range(2)]
    save_coco(tmp_path / "set" / "coco.json", boxes, images=images)
    for name in names:
        save_image(tmp_path / "set" / name, 40, 60)
    sets = convert(str(tmp_path / "set"), str(tmp_path / "yolo"), "yolo", "coco")
    assert content(read(tmp_path / "yolo")) == content(sets)
    parts = {"train": sets["all"], "val": sets["all"]}
    write_yolo(parts, tmp_path / "split")
    place_images(
        {tmp_path / "split" / "images" / s / i.name: p.folder / i.name for s, p in parts.items() for i in p.images},
        "copy",
    )
    assert content(read(tmp_path / "split")) == content(parts)


def test_label_paths_of_other_readers(tmp_path: Path) -> None:
    """Ultralytics replaces only the last folder `images`."""
    sets = example(tmp_path / "source", ("train",))
    part = sets["train"]
    part.images[0].name = "images/deep/a.png"
    part.images[0].objects = [AnnotatedObject(0, (1.0, 1.0, 9.0, 9.0))]
    written = {path.relative_to(tmp_path).as_posix() for path in write_yolo(sets, tmp_path)}
    assert "images/train/labels/deep/a.txt" in written
    assert "labels/train/train_1.txt" in written


@pytest.mark.parametrize("names", ["train2017 val2017", "Training Validation", "my_train my_val"])
@pytest.mark.parametrize("place", ["{part}/{split}", "{split}/{part}"])
def test_split_folders_with_other_names(tmp_path: Path, names: str, place: str) -> None:
    for split, images in zip(names.split(), ("ab", "c"), strict=True):
        for name in images:
            image, label = (place.format(part=part, split=split) for part in ("images", "labels"))
            save(tmp_path, f"{image}/{name}.jpg", f"{label}/{name}.txt")
    assert counts(tmp_path) == {"train": [1, 1], "val": [1]}
