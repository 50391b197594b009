"""Instance masks: boxes, outlines and classes from a value for each object."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from lit_cv.annotations import AnnotationSet, MaskOptions, Problems, decode_rle, read_annotations, save_mask
from tests.annotations.sets import save_image

VALUES = np.zeros((20, 30), dtype=np.uint16)
VALUES[2:5, 3:9] = 1
VALUES[4:10, 12:13] = 2
VALUES[15:20, 0:30] = 7
BOXES = [(3, 2, 9, 5), (12, 4, 13, 10), (0, 15, 30, 20)]


def read(root: Path, where: str | None = None, **options: Any) -> tuple[AnnotationSet, Problems]:
    problems = Problems()
    sets = read_annotations(root, problems, "instances", masks=MaskOptions(where=where), **options)
    return next(iter(sets.values())), problems


def boxes(part: AnnotationSet) -> list[tuple[str, tuple[float, ...]]]:
    return [(part.categories[item.category], item.box) for item in part.images[0].objects]


@pytest.mark.parametrize(("names", "expected"), [("", "object"), ("cell\n", "cell"), ("ground\ncell\n", "cell")])
@pytest.mark.parametrize("way", ["8 bits", "16 bits", "colors"])
def test_objects_of_one_class(tmp_path: Path, names: str, expected: str, way: str) -> None:
    save_image(tmp_path / "images/a.jpg", 20, 30)
    (tmp_path / "masks").mkdir()
    if names:
        (tmp_path / "classes.txt").write_text(names)
    values = {
        "8 bits": VALUES.astype(np.uint8),
        "16 bits": VALUES,
        "colors": np.stack([VALUES, VALUES * 3, VALUES * 0], -1).astype(np.uint8),
    }[way]
    Image.fromarray(values).save(tmp_path / "masks/a.png")
    part, problems = read(tmp_path)
    assert not len(problems)
    assert boxes(part) == [(expected, box) for box in BOXES]
    for value, item in zip((1, 2, 7), part.images[0].objects, strict=True):
        assert np.array_equal(decode_rle(item.segmentation), value == VALUES)  # type: ignore[arg-type]


def test_penn_fudan_layout(tmp_path: Path) -> None:
    save_image(tmp_path / "PNGImages/a.png", 20, 30)
    (tmp_path / "PedMasks").mkdir()
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "PedMasks/a_mask.png")
    data = AnnotatedImagesDataModule(
        str(tmp_path), format="instances", images="PNGImages", masks="PedMasks/{stem}_mask.png", image_size=[20, 30],
        num_workers=0, val_fraction=0, test_fraction=0,
    )  # fmt: skip
    data.setup()
    batch = data.train_dataset.__getitems__([0])
    assert batch["boxes"][0].tolist() == [list(box) for box in BOXES]
    assert (data.box_classes, data.mask_classes) == (["object"], ["background", "object"])
    assert np.array_equal(batch["mask"][0].numpy(), VALUES > 0)


def test_cityscapes_values(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.png", 20, 30)
    (tmp_path / "masks").mkdir()
    values = np.select([VALUES == 1, VALUES == 2, VALUES == 7], [2000, 1003, 7]).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "masks/a.png")
    part, problems = read(tmp_path)
    assert not len(problems)
    assert boxes(part) == [("1", BOXES[1]), ("2", BOXES[0])]
    (tmp_path / "classes.txt").write_text("road\ncar\nperson\n")
    assert boxes(read(tmp_path)[0]) == [("car", BOXES[1]), ("person", BOXES[0])]


def test_classes_from_voc_class_masks(tmp_path: Path) -> None:
    save_image(tmp_path / "JPEGImages/a.jpg", 20, 30)
    classes = np.select([VALUES == 1, VALUES == 2], [2, 1])
    values = np.where(VALUES == 7, 255, VALUES)
    values[0, 0], classes[0, 0] = 9, 255
    save_mask(values, tmp_path / "SegmentationObject/a.png")
    save_mask(classes, tmp_path / "SegmentationClass/a.png")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    part, problems = read(tmp_path)
    assert boxes(part) == [("dog", BOXES[0]), ("cat", BOXES[1])]
    assert "a.png, value 9: the class mask has no class there" in str(problems)
    assert len(problems) == 1


def test_invalid_instances(tmp_path: Path) -> None:
    for name in "abcd":
        save_image(tmp_path / f"images/{name}.png", 20, 30)
    (tmp_path / "masks").mkdir()
    Image.fromarray(VALUES[:, :29].astype(np.uint8)).save(tmp_path / "masks/a.png")
    (tmp_path / "masks/b.png").write_bytes(b"no image")
    noise = np.random.RandomState(0).randint(0, 256, (100, 100, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "masks/c.png")
    Image.fromarray(VALUES.astype(np.uint8) * 0).save(tmp_path / "masks/d.png")
    part, problems = read(tmp_path)
    assert [(image.name, image.objects) for image in part.images] == [("d.png", [])]
    for message in ("a.png", "30 x 20 pixels", "b.png", "c.png", "different values: too many for"):
        assert message in str(problems)
    assert len(problems) == 3
    (tmp_path / "classes.txt").write_text("ground\ncat\ndog\n")
    with pytest.raises(ValueError, match="number the objects, but not their classes"):
        read(tmp_path)
