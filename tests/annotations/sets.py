"""Sets of annotated images, in memory and as the files of real tools."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_cv.annotations import AnnotatedImage, AnnotatedObject, AnnotationSet


def save_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    Image.fromarray(np.stack([x, y, x * 0], -1).astype(np.uint8)).save(path)


def example(folder: Path, splits: tuple[str, ...] = ("train", "val")) -> dict[str, AnnotationSet]:
    """Return sets with boxes at integer and fractional pixels and an image without objects, and save the images."""
    random = np.random.RandomState(0)
    sets = {}
    for split in splits:
        images = []
        for index in range(5):
            height, width = 50 + 7 * index, 90 - 5 * index
            name = f"{split}_{index}.png" if index else f"deep/{split}.png"
            save_image(folder / split / name, height, width)
            objects = []
            for k in range(index):
                left, top = (random.rand(2) * [width / 2, height / 2]).round(2 * (k % 2)).tolist()
                w, h = (1 + random.rand(2) * [width / 2 - 2, height / 2 - 2]).round(2 * (k % 2)).tolist()
                box = (left, top, round(left + w, 2), round(top + h, 2))
                extra: dict[str, Any] = {"difficult": "1", "truncated": "0", "pose": "Left"} if k == 2 else {}
                objects.append(AnnotatedObject(int(random.randint(3)), box, id=10 * index + k, attributes=extra))
            images.append(AnnotatedImage(name, height, width, objects, id=100 + index))
        sets[split] = AnnotationSet(folder / split, ["zebra", "cat", "dog"], images, [7, 9, 30])
    return sets


def content(sets: dict[str, AnnotationSet], digits: int = 4) -> dict[str, Any]:
    """Return what every format can store: names, sizes, categories and boxes."""
    return {
        split: sorted(
            (
                image.name,
                image.height,
                image.width,
                [(part.categories[o.category], tuple(round(v, digits) for v in o.box)) for o in image.objects],
            )
            for image in part.images
        )
        for split, part in sets.items()
    }


def save_coco(path: Path, annotations: list[dict[str, Any]], **changes: Any) -> None:
    """Write a COCO file of two images of 40 x 60 and 30 x 30 pixels, and the images."""
    content = {
        "info": {"year": 2017},
        "images": [
            {"id": 11, "file_name": "a.png", "height": 40, "width": 60, "license": 1},
            {"id": 5, "file_name": "b.png", "height": 30, "width": 30},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}],
        "annotations": annotations,
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def png16(values: np.ndarray[Any, Any], clear: tuple[int, ...] = ()) -> bytearray:
    """Return a 16-bit PNG with an optional transparent value, as Pillow cannot write one in color."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    transparent = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    parts = chunk(b"IHDR", header) + transparent + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return bytearray(b"\x89PNG\r\n\x1a\n" + parts)
