"""YOLO: a text file for each image, a line for each object, in fractions of the image's sides."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.annotations.layout import SPLITS, SUFFIXES, inside, make_folder
from lit_cv.annotations.reading import exists, is_file, open_plain, read_lines, read_names, read_text
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_box
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.atomic_files import write_text
from lit_cv.plain_values import read_yaml

__all__ = ["find_yolo_file", "keeps_outlines", "read_yolo", "write_yolo"]

_NAMES = ("classes.txt", "obj.names", "classes.names")
_HEAD = 1 << 20  # bytes of a YAML file that name the classes, if it is of YOLO's


def find_yolo_file(root: Path) -> Path | None:
    """Return the file that names the classes (`data.yaml` or another YAML file with `names`, `classes.txt`)."""
    yamls = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.stem != "data")
    named = [path for path in yamls if is_file(path) and b"names:" in _head(path)]
    texts = [root / folder / name for folder in ("", "labels") for name in _NAMES]
    return next((path for path in [*named, *texts] if path.is_file()), None)


def _head(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read(_HEAD)


def read_yolo(root: Path, problems: Problems, sizes: SizesOf = file_sizes) -> dict[str, AnnotationSet]:
    """Read a folder of YOLO's layout.

    That is `data.yaml` with `names` and the image folders (or lists of images) of `train`, `val` and `test`, or
    `classes.txt` beside `images` and `labels`. The labels of `images/train/a.jpg` are `labels/train/a.txt`, or
    `a.txt` beside it. A line is `class x y width height` (of the center), with a confidence in the end if it is a
    prediction, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon. An image without a file has no objects, a file without an
    image is a problem.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        sizes: Returns the sizes of image files.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If the classes' names or the images are missing.
    """
    file = find_yolo_file(root)
    if file is None:
        raise FileNotFoundError(f"{root.absolute()} has no data.yaml or classes.txt, which names YOLO's classes.")
    content = _yaml(file) if file.suffix in (".yaml", ".yml") else {}
    names = _class_names(file, content)
    sets = {}
    listed = _images(root, content)
    _check_labels(root, [folder / path for folder, paths in listed.values() for path in paths], problems)
    for split, (folder, paths) in listed.items():
        found = []
        for path, size in zip(paths, sizes(folder, paths), strict=True):
            labels = _labels_of(folder / path)
            image = AnnotatedImage(path, 0, 0, source=labels)
            if not isinstance(size, str):
                image.height, image.width = size
                if exists(labels):
                    _read_labels(image, labels, names, problems)
            found.append(image)
        sets[split] = AnnotationSet(folder, names, found, entry="line")
    return sets


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise AnnotationError(str(error)) from None
    return content if isinstance(content, dict) else {}


def _class_names(file: Path, content: Mapping[str, Any]) -> list[str]:
    if not content:
        return read_names(file)
    names = content.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            numbers = ", ".join(str(number)[:20] for number in list(names)[:20])
            raise AnnotationError(f"{file}: names has the numbers [{numbers}], they must count from 0.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise AnnotationError(f"{file}: names is a {type(names).__name__}, it must list the classes.")
    if nested := [name for name in names if isinstance(name, list | dict)]:  # aliases may unfold without an end
        raise AnnotationError(f"{file}: names holds a {type(nested[0]).__name__}, it must list the classes.")
    texts = [str(name) for name in names]
    if double := [name for name, count in Counter(texts).items() if count > 1]:
        raise AnnotationError(f"{file}: names has the class {double[0]!r} twice: rename one.")
    return texts


def _images(root: Path, content: Mapping[str, Any]) -> dict[str, tuple[Path, list[str]]]:
    """Return folder and names of the images of each split."""
    said = content.get("path")
    base = root / said if isinstance(said, str) and "\0" not in said else root
    base = base if exists(base) and base.is_dir() else root  # the path of the machine that wrote it
    found: dict[str, tuple[Path, list[str]]] = {}
    for split, names in SPLITS.items():
        given = content.get(split) or content.get(names[1])
        places = [given] if isinstance(given, str) else given or []
        if not isinstance(places, list) or not all(isinstance(place, str) and "\0" not in place for place in places):
            raise AnnotationError(f"{root.absolute()}: {split} in the YAML file must be a folder or a list of some.")
        if not places:
            places = [p for name in names for p in (f"images/{name}", f"{name}/images") if (root / p).is_dir()][:1]
        paths = [path for place in places for path in _listed(root, base, str(place))]
        if paths:
            found[split] = _below(paths)
    if "train" not in found:
        folder = root / "images" if (root / "images").is_dir() else root
        found = {"all": _below(_in_folder(folder))}
    if not any(paths for _, paths in found.values()):
        raise FileNotFoundError(f"{root.absolute()} holds no images in the folders that YOLO's layout has.")
    return found


def _listed(root: Path, base: Path, place: str) -> list[Path]:
    candidates = [base / place, root / place, root / place.removeprefix("../")]
    path = next((candidate for candidate in candidates if exists(candidate)), None)
    if path is None:
        raise FileNotFoundError(f"{base / place}, which the YAML file names, does not exist.")
    if path.is_dir():
        return _in_folder(path)
    return [_listed_image(line, base, path.parent) for line in read_lines(path, files=True)]


def _listed_image(line: str, base: Path, beside: Path) -> Path:
    plain = line.strip()
    choices = [folder / name for name in dict.fromkeys((line, plain)) for folder in (base, beside)]
    return next((choice for choice in choices if exists(choice)), beside / plain)


def _in_folder(folder: Path) -> list[Path]:
    files = (p for p in folder.rglob("*") if p.suffix in SUFFIXES)
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _below(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the deepest folder above all the paths, and the paths below it."""
    if not paths:
        return Path(), []
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        if folder.parent == folder:
            raise AnnotationError(f"{paths[0]} and the other images of the list have no folder in common.")
        folder = folder.parent
    return folder, [path.relative_to(folder).as_posix() for path in paths]


def _labels_of(image: Path) -> Path:
    """Return the text file of an image: the last folder `images` of its path becomes `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    where = [position for position, part in enumerate(parts[:-1]) if part == "images"]
    if where:
        parts[where[-1]] = "labels"
    return Path(*parts)


def _check_labels(root: Path, images: Sequence[Path], problems: Problems) -> None:
    """Note the labels that belong to no image: an image that is lost would be missed by nothing else."""
    used = {_labels_of(image) for image in images}
    seen: set[Path] = set()
    for folder in dict.fromkeys(image.parent for image in images):
        labels, of_images = _labels_of(folder / "x").parent, folder
        if labels != folder:
            while labels.name != "labels" and labels.parent.is_relative_to(root) and labels.parent != root:
                labels, of_images = labels.parent, of_images.parent
        if labels in seen:
            continue
        seen.add(labels)
        beside = labels == of_images  # where other texts may lie as well
        for path in sorted(labels.glob("*.txt") if beside else labels.rglob("*.txt")):
            if path in used or path.name in _NAMES or path.name.startswith("."):
                continue
            image = of_images / path.relative_to(labels).with_suffix("")
            found = any(is_file(image.with_name(image.name + suffix)) for suffix in SUFFIXES)
            if not found and (not beside or _looks_like_labels(path)):
                problems.add(path, "", f"there is no image of that name in {of_images}")


def _looks_like_labels(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            words = file.readline(_HEAD).split()
        return len([float(word) for word in words]) >= 5
    except (OSError, ValueError):
        return False


def _read_labels(image: AnnotatedImage, labels: Path, names: Sequence[str], problems: Problems) -> None:
    seen: set[tuple[str, ...]] = set()
    try:
        text = read_text(labels)
    except AnnotationError as error:
        problems.add(labels, "", str(error).removeprefix(f"{labels} "))
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = tuple(line.split())
        if not words:
            continue
        found = "is there twice" if words in seen else _object(words, image, names)
        seen.add(words)
        if isinstance(found, str):
            problems.add(labels, f"line {number}", found)
        else:
            found.id = number
            image.objects.append(found)


def _object(words: Sequence[str], image: AnnotatedImage, names: Sequence[str]) -> AnnotatedObject | str:
    try:
        category, values = int(float(words[0])), [float(word) for word in words[1:]]
    except (ValueError, OverflowError):
        return f"{' '.join(words)[:60]!r} is not `class x y width height`"
    if not 0 <= category < len(names):
        return f"class {category} is out of range: there are {len(names)}, counted from 0"
    width, height = image.width, image.height
    if len(values) in (4, 5):
        x, y, w, h = values[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return AnnotatedObject(category, box, score=values[4] if len(values) == 5 else None)
    if len(values) >= 6 and len(values) % 2 == 0:
        polygon = [value * (height if i % 2 else width) for i, value in enumerate(values)]
        return AnnotatedObject(category, outline_box([polygon]), [polygon])
    return f"has {len(words)} numbers: 5 are a box, 6 one with a confidence, 7 or more an odd number of a polygon"


def write_yolo(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `labels/SPLIT/*.txt` and `data.yaml`; images belong into `images/SPLIT`, and are not copied.

    Where an image has objects with one polygon each, its lines are polygons, otherwise boxes: readers of YOLO's
    files take a file for the one or the other. Objects of several polygons and run-length codes become boxes. The
    format has no place for crowds, which are left out, and for numbers.

    Args:
        sets: A set for each split; the split `all` gets no folder of its own.
        root: The folder, made if it is missing.

    Returns:
        The files written.
    """
    import yaml

    written = []
    names: list[str] = []
    for split, part in sets.items():
        names = part.categories
        folder = root / "labels" if split == "all" else root / "labels" / split
        for image in part.images:
            path = inside(folder, image.name).with_suffix(".txt")
            make_folder(path.parent, root)
            write_text(path, "".join(f"{line}\n" for line in _lines(image)), "the labels", sync=False)
            written.append(path)
    content: dict[str, Any] = {split: f"images/{split}" for split in sets if split != "all"}
    content["names"] = dict(enumerate(names))
    make_folder(root, root)
    write_text(root / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "the classes' names")
    return [*written, root / "data.yaml"]


def keeps_outlines(image: AnnotatedImage) -> bool:
    """Tell whether the lines of an image are polygons: each of its objects has one, and none a score."""
    objects = [item for item in image.objects if not item.crowd]
    return all(isinstance(o.segmentation, list) and len(o.segmentation) == 1 and o.score is None for o in objects)


def _lines(image: AnnotatedImage) -> list[str]:
    outlined = keeps_outlines(image)
    lines = []
    for item in image.objects:
        if item.crowd:
            continue
        left, top, right, bottom = item.box
        if outlined and isinstance(item.segmentation, list):
            values = [value / (image.height if i % 2 else image.width) for i, value in enumerate(item.segmentation[0])]
        else:
            values = [(left + right) / 2 / image.width, (top + bottom) / 2 / image.height]
            values += [(right - left) / image.width, (bottom - top) / image.height]
            values += [] if item.score is None else [item.score]
        lines.append(" ".join([str(item.category), *(f"{value:.10f}".rstrip("0").rstrip(".") for value in values)]))
    return lines
