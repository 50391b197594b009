"""COCO: one JSON file with the images, categories and annotations of a split."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign, count_masks
from lit_cv.annotations.checks import unknown_category
from lit_cv.annotations.coco_values import box_of, crowd_of, id_of, name_of, outline_of
from lit_cv.annotations.coco_writing import write_coco
from lit_cv.annotations.image_folder import as_on_disk, locate_images, report_left_out
from lit_cv.annotations.layout import SPLITS, split_in
from lit_cv.annotations.reading import class_name, decoded_text, open_plain, read_head
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_box
from lit_cv.annotations.split_folders import split_folders
from lit_cv.annotations.walk import files_below, subfolder
from lit_cv.errors import argument
from lit_cv.printable import printable

log = logging.getLogger("lit_cv")

__all__ = ["find_coco_files", "read_coco"]

_STANDARD_KEYS = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "score", "area")
_HEAD = 65536  # bytes at the start of a file that must contain the name of one of its lists
_TRIED = 100  # maximum number of files to inspect
_OTHER_TASKS = ("captions", "keypoints", "panoptic", "stuff", "image_info")


def find_coco_files(root: Path) -> dict[str, Path]:
    """Find the annotation file of each split by file or folder name.

    Args:
        root: The folder; searched directly, in `annotations`, and in the folders of the splits.

    Raises:
        ValueError: If a split has several files.
    """
    files = _candidates(root)
    found: dict[str, Path] = {}
    for path in [path for path in files[:_TRIED] if _looks_like_coco(path)] or files:
        split = split_in(path.stem) or (split_in(path.parent.name) if path.parent != root else None) or "all"
        if split in found:
            both = printable(f"{found[split]} and {path}", lines=False)
            raise ValueError(f"{both} both contain annotations of {split!r}: choose one ({argument('annotations')}).")
        found[split] = path
    if "train" in found and (ignored := found.pop("all", None)) is not None:
        shown = printable(str(ignored), lines=False)
        log.warning(
            "%s is ignored, as its name contains no split: choose the files with %s.", shown, argument("annotations")
        )
    return found


def _candidates(root: Path) -> list[Path]:
    places = [subfolder(root, "annotations"), *split_folders(root).values()]
    folders = dict.fromkeys([root, *(place for place in places if place is not None)])
    files = [path for folder in folders for path in files_below(folder, (".json",), deep=False)]
    return [path for path in files if not any(word in path.stem.lower() for word in _OTHER_TASKS)] or files


def _find(root: Path) -> Sign:
    files = _candidates(root)[:_TRIED]
    return Sign.SURE if any(map(_looks_like_coco, files)) else Sign.GUESS if files else Sign.NONE


def _looks_like_coco(path: Path) -> bool:
    try:
        head = read_head(path, _HEAD)
    except AnnotationError:
        return False
    return b'"images"' in head or b'"annotations"' in head


def read_coco(
    root: Path,
    problems: Problems,
    files: Mapping[str, Path] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> dict[str, AnnotationSet]:
    """Read COCO JSON files: boxes, polygons, run-length encodings, crowds, and prediction scores.

    Args:
        root: Folder in which files and images are searched.
        problems: Collects the entries that are skipped.
        files: The file of each split; `None` searches for them.
        folders: The image folder of each split; `None` searches for them.

    Returns:
        A set for each split; one named `all` if there is a single file. Classes are ordered by their ids in the
        training file.

    Raises:
        FileNotFoundError: If there is no file, or none of its first images exists.
        AnnotationError: If a file is invalid or not in COCO format.
    """
    files = find_coco_files(root) if files is None else files
    if not files:
        raise FileNotFoundError(f"{root.absolute()} contains no JSON files with annotations.")
    contents = {split: _load(path, problems) for split, path in files.items()}
    _drop_group(contents.values())
    first = "train" if "train" in contents else next(iter(contents))
    names, ids = _categories(files[first], contents[first], problems)
    sets = {}
    for split, content in contents.items():
        path = files[split]
        numbers = _numbers(path, content, names, Problems() if split == first else problems)
        images = _images(path, content, problems)
        _add_objects(path, content, images, numbers, problems)
        chosen, listed = (folders or {}).get(split), list(images.values())
        folder, listed = (chosen, as_on_disk(chosen, listed)) if chosen else _located(root, path, split, listed)
        sets[split] = AnnotationSet(folder, names, listed, ids, entry="annotation")
    report_left_out(sets.values())
    return sets


def _load(path: Path, problems: Problems) -> dict[str, Any]:
    try:
        with open_plain(path) as file:
            content = json.loads(decoded_text(file.read()))
    except AnnotationError:
        raise
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting included
        raise AnnotationError(f"{path} is not valid JSON: {error}") from None
    needed = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in needed):
        kind = "a list" if isinstance(content, list) else "other content"
        raise AnnotationError(f"{path} contains {kind}: COCO files contain the lists {', '.join(needed)}.")
    for key in needed:
        for position, entry in enumerate(content[key], 1):
            if not _is_entry(entry):
                problems.add(path, f"number {position} of {key}", "is not an object with numbers or strings as ids")
        content[key] = [entry for entry in content[key] if _is_entry(entry)]
    return content


def _is_entry(entry: Any) -> bool:
    keys = ("id", "image_id", "category_id", "name")
    return isinstance(entry, dict) and not any(isinstance(entry.get(key), list | dict) for key in keys)


def _categories(path: Path, content: Mapping[str, Any], problems: Problems) -> tuple[list[str], list[int] | None]:
    """Return category names and their ids, sorted by id if all ids are integers (otherwise ids are `None`)."""
    by_id: dict[int | str, str] = {}
    for position, category in enumerate(content["categories"], 1):
        number, name = id_of(category.get("id")), _category_name(category)
        if number is None or name is None:
            problems.add(path, f"category {position}", "has no id or no name")
        elif number in by_id or name in by_id.values():
            problems.add(path, f"category {position}", f"id {number} or name {name!r} occurs twice")
        else:
            by_id[number] = name
    ids = sorted(number for number in by_id if isinstance(number, int))
    if len(ids) < len(by_id):
        return list(by_id.values()), None
    return [by_id[number] for number in ids], ids


def _numbers(path: Path, content: Mapping[str, Any], names: list[str], problems: Problems) -> dict[int | str, int]:
    """Map the category ids of a file to classes by name, since files of one set may use different ids."""
    numbers: dict[int | str, int] = {}
    for category in content["categories"]:
        number, name = id_of(category.get("id")), _category_name(category)
        if name in names and number is not None:
            numbers.setdefault(number, names.index(name))
        elif name:
            problems.add(path, f"category {category.get('id')}", unknown_category(name, names))
    return numbers


def _category_name(category: Mapping[str, Any]) -> str | None:
    name = name_of(category.get("name"))
    return None if name is None else class_name(name)


def _images(path: Path, content: Mapping[str, Any], problems: Problems) -> dict[int | str | None, AnnotatedImage]:
    images: dict[int | str | None, AnnotatedImage] = {}
    for position, entry in enumerate(content["images"], 1):
        number, name = id_of(entry.get("id")), name_of(entry.get("file_name"))
        if number is None or name is None:
            problems.add(path, f"image {position} of the list", "has no id or no file_name")
        elif number in images:
            problems.add(path, f"image {name!r}", f"its id {number} occurs twice")
        else:
            name = name.replace("\\", "/")
            try:
                height, width = (int(float(entry.get(side) or 0)) for side in ("height", "width"))
            except (TypeError, ValueError, OverflowError):
                problems.add(path, f"image {name!r}", "its height or width is not a number")
            else:
                images[number] = AnnotatedImage(
                    name, height, width, id=number if isinstance(number, int) else None, source=path
                )
    return images


def _add_objects(
    path: Path,
    content: Mapping[str, Any],
    images: Mapping[int | str | None, AnnotatedImage],
    numbers: Mapping[int | str, int],
    problems: Problems,
) -> None:
    seen: dict[int | str, Any] = {}
    for position, entry in enumerate(content["annotations"], 1):
        number = id_of(entry.get("id", position))
        where = f"annotation {position if number is None else number}"
        image, category = images.get(id_of(entry.get("image_id"))), _class_of(entry, numbers)
        if number is not None and seen.setdefault(number, entry) is not entry and seen[number] == entry:
            problems.add(path, where, "its id occurs twice")
        elif image is None:
            problems.add(path, where, f"no image has the id {entry.get('image_id')}")
        elif category is None:
            valid = ", ".join(sorted(map(str, numbers))[:20])
            problems.add(path, where, f"unknown category {entry.get('category_id')}. Known: {valid}.")
        elif isinstance(item := _object(entry, category), str):
            problems.add(path, where, item)
        else:
            item.id = number if isinstance(number, int) else position
            image.objects.append(item)


def _class_of(entry: Mapping[str, Any], numbers: Mapping[int | str, int]) -> int | None:
    number = id_of(entry.get("category_id"))
    return None if number is None else numbers.get(number)


def _object(entry: Mapping[str, Any], category: int) -> AnnotatedObject | str:
    try:
        outline = outline_of(entry.get("segmentation"))
        if entry.get("bbox"):
            box = box_of(entry["bbox"])
        elif outline is not None:
            box = outline_box(outline)
        else:
            return "has neither bbox nor segmentation"
        score = None if entry.get("score") is None else float(entry["score"])
        crowd = crowd_of(entry.get("iscrowd"))
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        text = str(error)
        return text if text.startswith("its ") else f"its segmentation or score cannot be read: {text}"
    extra = {key: value for key, value in entry.items() if key not in _STANDARD_KEYS}
    return AnnotatedObject(category, box, outline, crowd, score, attributes=extra)


def _located(root: Path, path: Path, split: str, images: Sequence[AnnotatedImage]) -> tuple[Path, list[AnnotatedImage]]:
    """Return the image folder of a file, and the images with names relative to it."""
    words = dict.fromkeys([path.stem.removeprefix("instances_"), *SPLITS.get(split, ())])
    folder, names = locate_images(root, path, words, [image.name for image in images])
    return folder, [replace(image, name=name) for image, name in zip(images, names, strict=True)]


def _drop_group(contents: Iterable[Mapping[str, Any]]) -> None:
    """Drop the project's category that Roboflow puts first and that no object has."""
    contents = list(contents)
    categories = [category for content in contents for category in content["categories"]]
    groups = {category.get("supercategory") for category in categories} - {None, "", "none"}
    used = {entry.get("category_id") for content in contents for entry in content["annotations"]}
    lead = [c for c in categories if c.get("supercategory") in (None, "", "none") and c.get("name") in groups]
    if len(groups) != 1 or not lead or any(category.get("id") in used for category in lead):
        return
    log.info("Category %r is dropped: it groups the other categories and has no objects.", lead[0].get("name"))
    for content in contents:
        content["categories"][:] = [category for category in content["categories"] if category not in lead]


FORMAT = AnnotationFormat(
    "coco",
    _find,
    lambda source: read_coco(source.root, source.problems, source.files, source.folders),
    write_coco,
    order=60,
    place=lambda split: Path("images" if split == "all" else split),
    per_image=False,
    lost=lambda sets: {"class masks": count_masks(sets)},
)
