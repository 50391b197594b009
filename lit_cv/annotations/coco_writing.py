"""Writing of COCO JSON files."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.annotations.layout import make_folder
from lit_cv.annotations.records import AnnotatedObject, AnnotationSet
from lit_cv.annotations.rle import outline_area
from lit_cv.atomic_files import write_text

__all__ = ["coco_dict", "write_coco"]

_SURROGATES = re.compile("[\ud800-\udfff]")  # occur in names that are not UTF-8


def write_coco(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `annotations/instances_SPLIT.json`; images are not copied.

    Args:
        sets: A set for each split; the split `all` is written to `annotations/instances.json`.
        root: The folder, created if missing.

    Returns:
        The written files.
    """
    written = []
    for split, annotations in sets.items():
        path = root / "annotations" / ("instances.json" if split == "all" else f"instances_{split}.json")
        make_folder(path.parent, root)
        text = json.dumps(coco_dict(annotations), ensure_ascii=False)
        write_text(path, _SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", text), "the annotations")
        written.append(path)
    return written


def coco_dict(annotations: AnnotationSet) -> dict[str, Any]:
    """Return a set in COCO format. Ids of images and annotations are kept if all exist and are unique."""
    images = annotations.images
    image_ids = _unique([image.id for image in images])
    object_ids = _unique([item.id for image in images for item in image.objects])
    ids = annotations.category_ids or list(range(1, len(annotations.categories) + 1))
    numbers = iter(object_ids)
    return {
        "info": {"description": "written by lit_cv"},
        "images": [
            {"id": number, "file_name": image.name, "height": image.height, "width": image.width}
            for number, image in zip(image_ids, images, strict=True)
        ],
        "categories": [{"id": n, "name": name} for n, name in zip(ids, annotations.categories, strict=True)],
        "annotations": [
            _entry(item, next(numbers), image_id, ids[item.category])
            for image_id, image in zip(image_ids, images, strict=True)
            for item in image.objects
        ],
    }


def _unique(numbers: Sequence[int | None]) -> list[int]:
    """Return the ids if all exist and are unique, otherwise new ids from 1."""
    counted = Counter(numbers)
    if None in counted or any(count > 1 for count in counted.values()):
        return list(range(1, len(numbers) + 1))
    return [number for number in numbers if number is not None]


def _entry(item: AnnotatedObject, number: int, image_id: int, category_id: int) -> dict[str, Any]:
    left, top, right, bottom = item.box
    outline = item.segmentation
    area = outline_area(outline) if outline else (right - left) * (bottom - top)
    if isinstance(outline, list):
        outline = [_rounded(polygon) for polygon in outline]
    elif isinstance(outline, dict) and isinstance(outline["counts"], bytes):
        outline = {**outline, "counts": outline["counts"].decode()}
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": _rounded([left, top, right - left, bottom - top]),
        "area": round(area, 4),
        "segmentation": outline or [],
        "iscrowd": int(item.crowd),
    }
    if item.score is not None:
        entry["score"] = round(item.score, 6)
    return {**item.attributes, **entry}


def _rounded(values: Iterable[float]) -> list[float | int]:
    rounded = [round(value, 4) for value in values]
    return [int(value) if value == int(value) else value for value in rounded]
