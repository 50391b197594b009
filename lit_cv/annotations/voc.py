"""Pascal VOC: an XML file for each image, lists of images for each split."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.annotations.checks import unknown_category
from lit_cv.annotations.layout import SPLITS, SUFFIXES, inside, make_folder
from lit_cv.annotations.reading import is_file, read_bytes, read_lines, read_names
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.atomic_files import write_text

__all__ = ["read_voc", "voc_image", "voc_lacks", "write_voc"]

_MOST = 1 << 26  # bytes of the XML of an image
_NO_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_voc(
    root: Path,
    problems: Problems,
    folders: Mapping[str, Path] | None = None,
    lists: str = "Main",
) -> dict[str, AnnotationSet]:
    """Read a folder of Pascal VOC's layout.

    That is `Annotations/*.xml`, `JPEGImages/*` and lists `ImageSets/Main/{train,val,test}.txt`; also a folder (or
    folders `train`, `valid`, `test`) where XML files lie beside their images. Coordinates are those of the VOC
    challenge: pixels counted from 1, the last one included, hence a box (xmin - 1, ymin - 1, xmax, ymax).
    Class masks are found in `SegmentationClass/*.png`. The classes are those of `labels.txt`, one a line, or those of
    the training images, sorted.

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
    files = _find_files(root, lists)
    parsed = {split: [_parse(xml, problems) for xml in part if _exists(xml, problems)] for split, part in files.items()}
    trees = {split: [entry for entry in part if entry is not None] for split, part in parsed.items()}
    named = root / "labels.txt"
    categories = read_names(named, numbered=False) if named.is_file() else []
    if not categories:
        training = trees.get("train") or trees.get("all") or [tree for part in trees.values() for tree in part]
        categories = sorted({name for _, tree in training for name in _names(tree)})
    home = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    sets = {}
    for split, part in trees.items():
        folder = (folders or {}).get(split, home)
        images = [_image(root, folder, xml, tree, categories, problems) for xml, tree in part]
        sets[split] = AnnotationSet(folder, categories, [image for image in images if image])
    return sets


def _find_files(root: Path, lists: str) -> dict[str, list[Path]]:
    annotations = root / "Annotations"
    if not annotations.is_dir():
        flat = {split: _xml_in(root, names) for split, names in SPLITS.items()}
        found = {split: files for split, files in flat.items() if files} or {"all": sorted(root.glob("*.xml"))}
        if not any(found.values()):
            raise FileNotFoundError(f"{root.absolute()} holds no folder Annotations and no XML files.")
        return found
    found = {}
    for split, names in SPLITS.items():
        path = next((p for name in names if (p := root / "ImageSets" / lists / f"{name}.txt").is_file()), None)
        if path is not None:
            found[split] = [_listed(annotations, line) for line in read_lines(path, files=True)]
    return found if "train" in found else {"all": sorted(annotations.rglob("*.xml"))}


def _listed(annotations: Path, line: str) -> Path:
    """Return the file that a line of a list names: all of it, or its first word where a number follows."""
    choices = [annotations / f"{stem}.xml" for stem in (line, line.strip(), line.split()[0])]
    return next((path for path in choices if is_file(path)), choices[-1])


def _xml_in(root: Path, names: Sequence[str]) -> list[Path]:
    return next((sorted((root / name).glob("*.xml")) for name in names if (root / name).is_dir()), [])


def _exists(xml: Path, problems: Problems) -> bool:
    found = is_file(xml)
    if not found:
        problems.add(xml, "", "a list of images names it, but there is no such file")
    return found


def _parse(xml: Path, problems: Problems) -> tuple[Path, ET.Element] | None:
    try:
        return xml, ET.fromstring(read_bytes(xml, _MOST))
    except AnnotationError as error:
        problems.add(xml, "", str(error).removeprefix(f"{xml} "))
        return None
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two for encodings that there are not
        problems.add(xml, "", f"is not valid XML: {error}")
        return None


def _names(tree: ET.Element) -> list[str]:
    return [name for item in tree.iterfind("object") if (name := (item.findtext("name") or "").strip())]


def _image(
    root: Path, folder: Path, xml: Path, tree: ET.Element, categories: Sequence[str], problems: Problems
) -> AnnotatedImage | None:
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        problems.add(xml, "size", "is no number of pixels")
        return None
    name = _image_name(root, folder, xml, tree)
    mask = root / "SegmentationClass" / Path(name).with_suffix(".png")
    image = AnnotatedImage(name, height, width, mask=mask if is_file(mask) else None, source=xml)
    for position, item in enumerate(tree.iterfind("object"), 1):
        found = _object(item, categories)
        if isinstance(found, str):
            problems.add(xml, f"object {position}", found)
        else:
            found.id = position
            image.objects.append(found)
    return image


def _image_name(root: Path, folder: Path, xml: Path, tree: ET.Element) -> str:
    """Return the image's path below the folder: that of the XML file, with the suffix that its `filename` says."""
    base = root / "Annotations" if xml.is_relative_to(root / "Annotations") else root
    stem = xml.relative_to(base).with_suffix("")
    said = (tree.findtext("filename") or "").replace("\\", "/").rpartition("/")[2]
    beside = [stem.parent / name for name in dict.fromkeys((said, said.strip())) if name]
    candidates = [*beside, *(stem.with_name(stem.name + suffix) for suffix in SUFFIXES)]
    # Files that were renamed keep their old `filename`: the name of the XML file goes first where both exist.
    same = [path for path in candidates if path.stem == stem.name]
    return next((path for path in [*same, *candidates] if is_file(folder / path)), candidates[0]).as_posix()


def _object(item: ET.Element, categories: Sequence[str]) -> AnnotatedObject | str:
    name = (item.findtext("name") or "").strip()
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
