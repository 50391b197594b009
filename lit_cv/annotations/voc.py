"""Pascal VOC: an XML file for each image, lists of images for each split."""

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

__all__ = ["read_voc", "voc_image", "voc_lacks", "write_voc"]

_XML = (".xml",)
_TRIED = 20  # files that are looked into
_ANNOTATIONS = ("Annotations", "annots", "annotation", "xmls", "xml")
_NO_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_voc(
    root: Path,
    problems: Problems,
    folders: Mapping[str, Path] | None = None,
    lists: str = "Main",
) -> dict[str, AnnotationSet]:
    """Read a folder of Pascal VOC's layout.

    That is `Annotations/*.xml`, `JPEGImages/*` and lists `ImageSets/Main/{train,val,test}.txt` (or `trainval.txt` in
    place of `train.txt`); also `annotations` and `images`, both with or without folders `train`, `valid`, `test` below
    or above them; also a folder (or folders `train`, `valid`, `test`) where XML files lie beside their images.
    Coordinates are those of the VOC challenge: pixels counted from 1, the last one included, hence a box (xmin - 1,
    ymin - 1, xmax, ymax). Class masks are found in `SegmentationClass/*.png`. The classes are those of `labels.txt`,
    one a line, or those of the training images, sorted.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        folders: Folder of the images of each split; `None` looks for them.
        lists: Folder of lists in `ImageSets`.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If there is nothing of that layout.
    """
    parts = _find_parts(root, lists)
    trees = {
        split: [(xml, tree) for xml in part.files if (tree := _parse(xml, problems)) is not None]
        for split, part in parts.items()
    }
    named = root / "labels.txt"
    categories = read_names(named, numbered=False) if named.is_file() else []
    if not categories:
        training = trees.get("train") or trees.get("all") or [tree for part in trees.values() for tree in part]
        categories = sorted({name for _, tree in training for name in _names(tree)})
    masks = FolderIndex(root / "SegmentationClass", MASK_SUFFIXES)
    sets = {}
    for split, found in trees.items():
        part = parts[split]
        index = FolderIndex((folders or {}).get(split, part.images))
        images = [_image(part.home, index, masks, xml, tree, categories, problems) for xml, tree in found]
        sets[split] = AnnotationSet(index.root, categories, [image for image in images if image])
    if not any(part.listed for part in parts.values()):
        report_left_out(sets.values())
    return sets


class _Part(NamedTuple):
    """Where a split lies: the folder that the XML files are named below, that of the images, and the XML files."""

    home: Path
    images: Path
    files: list[Path]
    listed: bool = False


def _find_parts(root: Path, lists: str) -> dict[str, _Part]:
    annotations = subfolder(root, *_ANNOTATIONS)
    if annotations is not None and any(files_below(annotations, _XML)):
        images = _images_of(root)
        listed = listed_files(root, annotations, lists)
        files = listed or _by_folder(annotations)
        return {split: _Part(annotations, images, part, bool(listed)) for split, part in files.items()}
    apart = {split: _beside(place) for split, place in split_folders(root).items()}
    found = {split: part for split, part in apart.items() if part.files}
    if "train" not in found:
        found = {"all": _Part(root, root, sorted(files_below(root, _XML)))}
    if not any(part.files for part in found.values()):
        raise FileNotFoundError(f"{root.absolute()} holds no folder Annotations and no XML files.")
    return found


def _images_of(folder: Path) -> Path:
    apart = subfolder(folder, "JPEGImages", *IMAGE_FOLDERS)
    return apart if apart is not None and any(files_below(apart, IMAGE_SUFFIXES)) else folder


def _beside(place: Path) -> _Part:
    """Return the files of the folder of a split: XML files beside their images, or each in a folder of their own."""
    apart = subfolder(place, *_ANNOTATIONS)
    if apart is not None and any(files_below(apart, _XML)):
        return _Part(apart, _images_of(place), sorted(files_below(apart, _XML)))
    return _Part(place, place, sorted(files_below(place, _XML)))


def _by_folder(annotations: Path) -> dict[str, list[Path]]:
    """Return the files by the split that their folder is named for; all together where there is none for training."""
    places, files = split_folders(annotations), sorted(files_below(annotations, _XML))
    found = {split: [xml for xml in files if xml.is_relative_to(place)] for split, place in places.items()}
    return found if found.get("train") and sum(map(len, found.values())) == len(files) else {"all": files}


def _parse(xml: Path, problems: Problems) -> ET.Element | None:
    if not is_file(xml):
        problems.add(xml, "", "a list of images names it, but there is no such file")
        return None
    tree = parse_xml(xml, problems)
    if tree is not None and tree.tag != "annotation":
        problems.add(xml, "", f"is no annotation of Pascal VOC: its first element is {tree.tag[:40]!r}")
        return None
    return tree


def _names(tree: ET.Element) -> list[str]:
    return [name for item in tree.iterfind("object") if (name := class_name(item.findtext("name") or ""))]


def _image(
    home: Path,
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
        problems.add(xml, "size", "is no number of pixels")
        return None
    name = _image_name(index, xml.relative_to(home).with_suffix(""), tree)
    mask = next(iter(masks.named(Path(name).with_suffix(""))), None)
    image = AnnotatedImage(name, height, width, mask=masks.root / mask if mask else None, source=xml)
    for position, item in enumerate(tree.iterfind("object"), 1):
        found = _object(item, categories)
        if isinstance(found, str):
            problems.add(xml, f"object {position}", found)
        else:
            found.id = position
            image.objects.append(found)
    return image


def _image_name(index: FolderIndex, stem: Path, tree: ET.Element) -> str:
    """Return the image's path below its folder: that of the XML file, or what its `filename` says."""
    noted = (tree.findtext("filename") or "").replace("\\", "/").rpartition("/")[2]
    named = [name for name in dict.fromkeys((noted, noted.strip())) if name]
    # Files that were renamed keep their old `filename`: the name of the XML file goes first where both exist.
    found = index.named(stem) + ([] if stem.parent == Path() else index.named(Path(stem.name)))
    beside = [place / name for place in dict.fromkeys((stem.parent, Path())) for name in named]
    same = [path for path in beside if path in found]
    choices = [*same, *found, *(path for path in beside if is_file(index.root / path))]
    missing = beside[0] if beside else stem.with_name(f"{stem.name}.jpg")
    return (choices[0] if choices else missing).as_posix()


def _object(item: ET.Element, categories: Sequence[str]) -> AnnotatedObject | str:
    name = class_name(item.findtext("name") or "")
    if name not in categories:
        return unknown_category(name, categories)
    try:
        left, top, right, bottom = (float(item.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return "its bndbox lacks one of xmin, ymin, xmax, ymax, or it is no number"
    extra = {tag: text for tag in ("pose", "truncated", "difficult", "occluded") if (text := item.findtext(tag))}
    score = item.findtext("confidence")
    try:
        value = float(score) if score else None
    except ValueError:
        return f"its confidence {score!r} is no number"
    return AnnotatedObject(
        categories.index(name),
        (left - 1, top - 1, right, bottom),
        score=value,
        attributes=extra,
    )


def write_voc(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `Annotations/*.xml`, the lists of `ImageSets/Main`, and the classes' names to `labels.txt`.

    Images are not copied; they belong into `JPEGImages`. Boxes keep fractions of pixels. The format has no place for
    outlines, numbers and crowds: crowds are left out.

    Args:
        sets: A set for each split; the list of the split `all` is not written.
        root: The folder, made if it is missing.

    Returns:
        The files written.
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


def voc_lacks(name: str) -> bool:
    """Return whether XML has no place for a name: for bytes that are not UTF-8, or control codes.

    Example:
        >>> voc_lacks(chr(27) + ".jpg"), voc_lacks("café.jpg")
        (True, False)
    """
    return _NO_XML.search(name) is not None


def voc_image(image: AnnotatedImage, categories: Sequence[str]) -> str:
    """Return the XML of an image."""
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
            _add(box, tag, number(corner))
    ET.indent(tree, "\t")
    return ET.tostring(tree, encoding="unicode") + "\n"


def number(value: float) -> str:
    """Return a number as people write it: without a point if it is whole, otherwise with up to 6 decimals."""
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
    refused=lambda classes, files: [name for name in (*classes, *files) if voc_lacks(name)],
)
