"""Pascal VOC: an XML file for each image, and a list of images for each split."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign, count_masks
from lit_cv.annotations.checks import unknown_category
from lit_cv.annotations.image_folder import report_left_out
from lit_cv.annotations.layout import IMAGE_FOLDERS, inside, make_folder
from lit_cv.annotations.reading import class_name, is_file, read_names
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Problems
from lit_cv.annotations.split_folders import split_folders
from lit_cv.annotations.voc_lists import listed_files
from lit_cv.annotations.walk import MASK_SUFFIXES, FolderIndex, files_below, subfolder
from lit_cv.annotations.xml_files import is_cvat, parse_xml
from lit_cv.atomic_files import write_text
from lit_cv.image_formats import IMAGE_SUFFIXES

__all__ = ["invalid_in_xml", "read_voc", "voc_image", "write_voc"]

_XML = (".xml",)
_TRIED = 20  # files to inspect
_ANNOTATIONS = ("Annotations", "annots", "annotation", "xmls", "xml")
_INVALID_IN_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_voc(
    root: Path,
    problems: Problems,
    folders: Mapping[str, Path] | None = None,
    lists: str = "Main",
) -> dict[str, AnnotationSet]:
    """Read a folder in Pascal VOC's layout.

    The layout is `Annotations/*.xml`, `JPEGImages/*` and lists `ImageSets/Main/{train,val,test}.txt` (or
    `trainval.txt` instead of `train.txt`). Alternatives are `annotations` and `images`, optionally with folders
    `train`, `valid`, `test` below or above them, and XML files beside their images, optionally in such folders.
    As in the VOC challenge, pixels are counted from 1 and the last one is included, so a box is (xmin - 1, ymin - 1,
    xmax, ymax). Class masks are read from `SegmentationClass/*.png`. The classes are the lines of `labels.txt`, or the
    sorted classes of the training images.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        folders: Image folder of each split; `None` searches for them.
        lists: Folder of lists in `ImageSets`.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there are no files in this layout.
    """
    parts = _find_parts(root, lists)
    trees = {
        split: [(xml, tree) for xml in part.files if (tree := _parse(xml, problems)) is not None]
        for split, part in parts.items()
    }
    class_file = root / "labels.txt"
    categories = read_names(class_file, numbered=False) if class_file.is_file() else []
    if not categories:
        training = trees.get("train") or trees.get("all") or [tree for part in trees.values() for tree in part]
        categories = sorted({name for _, tree in training for name in _names(tree)})
    masks = FolderIndex(root / "SegmentationClass", MASK_SUFFIXES)
    sets = {}
    for split, found in trees.items():
        part = parts[split]
        index = FolderIndex((folders or {}).get(split, part.images))
        images = [_image(part.base, index, masks, xml, tree, categories, problems) for xml, tree in found]
        sets[split] = AnnotationSet(index.root, categories, [image for image in images if image])
    if not any(part.listed for part in parts.values()):
        report_left_out(sets.values())
    return sets


class _Part(NamedTuple):
    """Files of a split: the base folder of XML names, the image folder, the XML files, and whether lists name them."""

    base: Path
    images: Path
    files: list[Path]
    listed: bool = False


def _find_parts(root: Path, lists: str) -> dict[str, _Part]:
    annotations = subfolder(root, *_ANNOTATIONS)
    if annotations is not None and any(files_below(annotations, _XML)):
        images = _image_folder(root)
        listed = listed_files(root, annotations, lists)
        files = listed or _by_folder(annotations)
        return {split: _Part(annotations, images, part, bool(listed)) for split, part in files.items()}
    by_split = {split: _part_of_split(folder) for split, folder in split_folders(root).items()}
    found = {split: part for split, part in by_split.items() if part.files}
    if "train" not in found:
        found = {"all": _Part(root, root, sorted(files_below(root, _XML)))}
    if not any(part.files for part in found.values()):
        raise FileNotFoundError(f"{root.absolute()} contains no folder Annotations and no XML files.")
    return found


def _image_folder(folder: Path) -> Path:
    images = subfolder(folder, "JPEGImages", *IMAGE_FOLDERS)
    return images if images is not None and any(files_below(images, IMAGE_SUFFIXES)) else folder


def _part_of_split(folder: Path) -> _Part:
    """Return the files in the folder of a split: XML files in a separate folder, or beside their images."""
    annotations = subfolder(folder, *_ANNOTATIONS)
    if annotations is not None and any(files_below(annotations, _XML)):
        return _Part(annotations, _image_folder(folder), sorted(files_below(annotations, _XML)))
    return _Part(folder, folder, sorted(files_below(folder, _XML)))


def _by_folder(annotations: Path) -> dict[str, list[Path]]:
    """Return the files by the split in the name of their folder, or all as `all` if not every file has one."""
    folders, files = split_folders(annotations), sorted(files_below(annotations, _XML))
    found = {split: [xml for xml in files if xml.is_relative_to(folder)] for split, folder in folders.items()}
    return found if found.get("train") and sum(map(len, found.values())) == len(files) else {"all": files}


def _parse(xml: Path, problems: Problems) -> ET.Element | None:
    if not is_file(xml):
        problems.add(xml, "", "is in a list of images, but there is no such file")
        return None
    tree = parse_xml(xml, problems)
    if tree is not None and tree.tag != "annotation":
        problems.add(xml, "", f"is not a Pascal VOC annotation: its root element is {tree.tag[:40]!r}")
        return None
    return tree


def _names(tree: ET.Element) -> list[str]:
    return [name for item in tree.iterfind("object") if (name := class_name(item.findtext("name") or ""))]


def _image(
    base: Path,
    index: FolderIndex,
    masks: FolderIndex,
    xml: Path,
    tree: ET.Element,
    categories: Sequence[str],
    problems: Problems,
) -> AnnotatedImage | None:
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        problems.add(xml, "size", "is not a number of pixels")
        return None
    name = _image_name(index, xml.relative_to(base).with_suffix(""), tree)
    mask = next(iter(masks.named(Path(name).with_suffix(""))), None)
    image = AnnotatedImage(name, height, width, mask=masks.root / mask if mask else None, source=xml)
    for position, item in enumerate(tree.iterfind("object"), 1):
        parsed = _object(item, categories)
        if isinstance(parsed, str):
            problems.add(xml, f"object {position}", parsed)
        else:
            parsed.id = position
            image.objects.append(parsed)
    return image


def _image_name(index: FolderIndex, stem: Path, tree: ET.Element) -> str:
    """Return the image's path relative to its folder: named like the XML file, or the file's `filename`."""
    file_name = (tree.findtext("filename") or "").replace("\\", "/").rpartition("/")[2]
    named = [name for name in dict.fromkeys((file_name, file_name.strip())) if name]
    # Renamed files keep their old `filename`, so the name of the XML file takes precedence if both exist.
    same_stem = index.named(stem) + ([] if stem.parent == Path() else index.named(Path(stem.name)))
    candidates = [folder / name for folder in dict.fromkeys((stem.parent, Path())) for name in named]
    both = [path for path in candidates if path in same_stem]
    choices = [*both, *same_stem, *(path for path in candidates if is_file(index.root / path))]
    missing = candidates[0] if candidates else stem.with_name(f"{stem.name}.jpg")
    return (choices[0] if choices else missing).as_posix()


def _object(item: ET.Element, categories: Sequence[str]) -> AnnotatedObject | str:
    name = class_name(item.findtext("name") or "")
    if name not in categories:
        return unknown_category(name, categories)
    try:
        left, top, right, bottom = (float(item.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return "its bndbox needs the numbers xmin, ymin, xmax and ymax"
    extra = {tag: text for tag in ("pose", "truncated", "difficult", "occluded") if (text := item.findtext(tag))}
    score = item.findtext("confidence")
    try:
        value = float(score) if score else None
    except ValueError:
        return f"its confidence {score!r} is not a number"
    return AnnotatedObject(
        categories.index(name),
        (left - 1, top - 1, right, bottom),
        score=value,
        attributes=extra,
    )


def write_voc(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `Annotations/*.xml`, the lists in `ImageSets/Main`, and the class names to `labels.txt`.

    Images are not copied; they belong in `JPEGImages`. Boxes keep fractions of pixels. The format cannot store
    outlines, ids and crowds; crowds are skipped.

    Args:
        sets: A set for each split; there is no list for the split `all`.
        root: The folder, created if missing.

    Returns:
        The written files.
    """
    written = []
    for split, annotations in sets.items():
        for image in annotations.images:
            path = inside(root / "Annotations", image.name).with_suffix(".xml")
            make_folder(path.parent, root)
            write_text(path, voc_image(image, annotations.categories), "the annotations", sync=False)
            written.append(path)
        if split != "all":
            path = root / "ImageSets" / "Main" / f"{split}.txt"
            make_folder(path.parent, root)
            stems = [Path(image.name).with_suffix("").as_posix() for image in annotations.images]
            write_text(path, "".join(f"{stem}\n" for stem in stems), "the list of images")
            written.append(path)
    categories = next((part.categories for part in sets.values()), [])
    make_folder(root, root)
    write_text(root / "labels.txt", "".join(f"{name}\n" for name in categories), "the classes' names")
    return [*written, root / "labels.txt"]


def invalid_in_xml(name: str) -> bool:
    """Return whether a name cannot be stored in XML: it has bytes that are not UTF-8, or control characters.

    Example:
        >>> invalid_in_xml(chr(27) + ".jpg"), invalid_in_xml("café.jpg")
        (True, False)
    """
    return _INVALID_IN_XML.search(name) is not None


def voc_image(image: AnnotatedImage, categories: Sequence[str]) -> str:
    """Return the XML text of an image."""
    tree = ET.Element("annotation")
    _add(tree, "folder", "JPEGImages")
    _add(tree, "filename", Path(image.name).name)
    size = ET.SubElement(tree, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, tag, value)
    _add(tree, "segmented", 0)
    for item in image.objects:
        if item.crowd:
            continue
        node = ET.SubElement(tree, "object")
        _add(node, "name", categories[item.category])
        defaults = {"pose": "Unspecified", "truncated": 0, "difficult": 0}
        for tag in ("pose", "truncated", "difficult", "occluded"):
            if tag in item.attributes or tag in defaults:
                _add(node, tag, item.attributes.get(tag, defaults.get(tag)))
        if item.score is not None:
            _add(node, "confidence", round(item.score, 6))
        box = ET.SubElement(node, "bndbox")
        left, top, right, bottom = item.box
        for tag, corner in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            _add(box, tag, format_number(corner))
    ET.indent(tree, "\t")
    return ET.tostring(tree, encoding="unicode") + "\n"


def format_number(value: float) -> str:
    """Format a number with up to 6 decimals, without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _add(parent: ET.Element, tag: str, value: Any) -> None:
    ET.SubElement(parent, tag).text = str(value)


def _find(root: Path) -> Sign:
    files = islice(files_below(root, _XML), _TRIED)
    return Sign.SURE if any(not is_cvat(path) for path in files) else Sign.NONE


def _lost(sets: Mapping[str, AnnotationSet]) -> dict[str, int]:
    objects = [item for part in sets.values() for image in part.images for item in image.objects]
    outlines, crowds = sum(item.segmentation is not None for item in objects), sum(item.crowd for item in objects)
    return {"outlines": outlines, "crowds": crowds, "class masks": count_masks(sets)}


FORMAT = AnnotationFormat(
    "voc",
    _find,
    lambda source: read_voc(source.root, source.problems, source.folders),
    write_voc,
    order=30,
    place=lambda split: Path("JPEGImages"),
    lost=_lost,
    refused=lambda classes, files: [name for name in (*classes, *files) if invalid_in_xml(name)],
)
