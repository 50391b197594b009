"""Masks of objects, the targets of Mask R-CNN, from outlines in the formats of annotation tools."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from tests.annotations.sets import save_image

HEIGHT, WIDTH = 40, 60
ANGLE = [(4, 6), (14, 6), (14, 10), (8, 10), (8, 16), (4, 16)]
SQUARE = [(6, 8), (20, 8), (20, 30), (6, 30)]  # overlaps the angle
BAR = np.zeros((HEIGHT, WIDTH), dtype=bool)
BAR[30:33, 50:60], BAR[33:40, 55:57] = True, True  # down to the corner of the image
NAMES = ["cat", "dog"]
LABELS = [1, 0, 1]


def expected(bar: bool) -> np.ndarray:
    masks = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    masks[0, 6:10, 4:14] = masks[0, 10:16, 4:8] = True
    masks[1, 8:30, 6:20] = True
    masks[2] = BAR
    return masks if bar else masks[:2]


def save_yolo(root: Path) -> None:
    (root / "labels").mkdir()
    lines = [
        " ".join([str(label), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in polygon)])
        for label, polygon in zip(LABELS, (ANGLE, SQUARE), strict=False)
    ]
    (root / "labels" / "a.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("\n".join(NAMES))


def save_labelme(root: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(BAR[30:40, 50:60].astype(np.uint8) * 255).save(png, format="PNG")
    mask = {"points": [[50, 30], [59, 39]], "shape_type": "mask", "mask": base64.b64encode(png.getvalue()).decode()}
    polygons = [{"points": polygon, "shape_type": "polygon"} for polygon in (ANGLE, SQUARE)]
    shapes = [
        {"label": NAMES[label], "group_id": None, **shape}
        for label, shape in zip(LABELS, (*polygons, mask), strict=True)
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (root / "images" / "a.json").write_text(json.dumps(content))


def save_cvat(root: Path) -> None:
    shapes = [
        f'<polygon label="{NAMES[label]}" points="{";".join(f"{x}.00,{y}.00" for x, y in polygon)}"/>'
        for label, polygon in zip(LABELS, (ANGLE, SQUARE), strict=False)
    ]
    changes = np.flatnonzero(np.diff(BAR[30:40, 50:60].reshape(-1), prepend=False, append=~BAR[39, 59])).tolist()
    runs = np.diff([0, *changes]).tolist()  # the first run is 0 long: of zeros
    rle = ", ".join(map(str, runs))
    shapes.append(f'<mask label="{NAMES[LABELS[2]]}" left="50" top="30" width="10" height="10" rle="{rle}"/>')
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels>{labels}</labels></task></meta>"
        f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image></annotations>'
    )


@pytest.mark.parametrize(
    ("name", "save", "bar"), [("yolo", save_yolo, False), ("labelme", save_labelme, True), ("cvat", save_cvat, True)]
)
def test_masks_of_objects_equal_outlines(tmp_path: Path, name: str, save: Callable[[Path], None], bar: bool) -> None:
    save_image(tmp_path / "images" / "a.png", HEIGHT, WIDTH)
    save(tmp_path)
    options = {"format": name, "targets": "instances", "num_workers": 0, "val_fraction": 0.0, "test_fraction": 0.0}
    data = AnnotatedImagesDataModule(str(tmp_path), image_size=[HEIGHT, WIDTH], **options)
    data.prepare_data()
    data.setup()
    batch = data.train_dataset.__getitems__([0])
    masks = expected(bar)
    assert data.box_classes == NAMES
    assert batch["box_labels"][0].tolist() == LABELS[: len(masks)]
    assert np.array_equal(batch["masks"][0].numpy(), masks)
    edges = [[np.flatnonzero(mask.any(axis))[[0, -1]] + [0, 1] for axis in (0, 1)] for mask in masks]
    boxes = [[x[0], y[0], x[1], y[1]] for x, y in edges]
    assert batch["boxes"][0].numpy() == pytest.approx(np.array(boxes), abs=1e-3)
