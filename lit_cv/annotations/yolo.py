"""YOLO: a text file for each image and a line for each object, relative to the image size."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign, Source, count_masks
from lit_cv.annotations.layout import inside, make_folder
from lit_cv.annotations.reading import class_name, exists, read_names, read_text
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_box
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.annotations.walk import files_below
from lit_cv.annotations.yolo_files import LabelFiles, find_yolo_file, label_path, yolo_images
from lit_cv.atomic_files import write_text
from lit_cv.errors import argument
from lit_cv.plain_values import read_yaml
from lit_cv.printable import printable

__all__ = ["keeps_outlines", "read_yolo", "write_yolo"]

log = logging.getLogger("lit_cv")

_MISSING_WARNING = 0.1  # share of images without a label file from which to warn


def read_yolo(root: Path, problems: Problems, sizes: SizesOf = file_sizes) -> dict[str, AnnotationSet]:
    """Read a folder in YOLO's layout.

    The layout is `data.yaml` with `names` and the image folders (or lists of images) of `train`, `val` and `test`, or
    `classes.txt` beside `images` and `labels`. The labels of `images/train/a.jpg` are in `labels/train/a.txt`, or in
    `a.txt` beside it. A line is `class x y width height` (x, y is the center), followed by a confidence in predictions
    or by keypoints if the YAML file has `kpt_shape`; or it is a polygon `class x1 y1 x2 y2 x3 y3 ...`. Keypoints become
    attributes in COCO's form. An image without a label file has no objects; a label file without an image is a problem.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        sizes: Returns the sizes of image files.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If the class names or the images are missing.
    """
    file = find_yolo_file(root)
    if file is None:
        raise FileNotFoundError(f"{root.absolute()} has no data.yaml or classes.txt with YOLO's class names.")
    content = _yaml(file) if file.suffix in (".yaml", ".yml") else {}
    form = _Form(_class_names(file, content), _keypoints(file, content))
    sets = {}
    labels = LabelFiles(root)
    listed = yolo_images(root, content)
    labels.check((folder / path for folder, paths in listed.values() for path in paths), problems)
    for split, (folder, paths) in listed.items():
        images = []
        without = 0
        for path, size in zip(paths, sizes(folder, paths), strict=True):
            label = labels.of(folder / path)
            image = AnnotatedImage(path, 0, 0, source=label)
            if not isinstance(size, str):
                image.height, image.width = size
                if exists(label):
                    _read_labels(image, label, form, problems)
                else:
                    without += 1
            images.append(image)
        if without:
            level = logging.WARNING if without >= _MISSING_WARNING * len(images) else logging.INFO
            shown = printable(str(folder), lines=False)
            text = "%d of %d images in %s have no label file and count as images without objects."
            log.log(level, text, without, len(images), shown)
        sets[split] = AnnotationSet(folder, form.names, images, entry="line")
    return sets


class _Form(NamedTuple):
    """Format of the lines: class names, number of keypoints, and values per keypoint."""

    names: list[str]
    keypoints: tuple[int, int] = (0, 0)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
        if isinstance(content, dict) and "names" in content:
            content["names"] = read_yaml(file, texts=True)["names"]
    except ValueError as error:
        raise AnnotationError(str(error)) from None
    return content if isinstance(content, dict) else {}


def _class_names(file: Path, content: Mapping[str, Any]) -> list[str]:
    if not content:
        return read_names(file)
    names = content.get("names")
    if isinstance(names, dict):
        names = {int(key) if key.isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            numbers = ", ".join(str(number)[:20] for number in list(names)[:20])
            raise AnnotationError(f"{file}: names has the numbers [{numbers}]: they must count from 0.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise AnnotationError(f"{file}: names is a {type(names).__name__}: it must be a list of classes.")
    if nested := [name for name in names if isinstance(name, list | dict)]:  # YAML aliases may be recursive
        raise AnnotationError(f"{file}: names contains a {type(nested[0]).__name__}: it must be a list of classes.")
    texts = [class_name(str(name)) for name in names]
    if duplicates := [name for name, count in Counter(texts).items() if count > 1]:
        raise AnnotationError(f"{file}: names has the class {duplicates[0]!r} twice: rename one.")
    return texts


def _keypoints(file: Path, content: Mapping[str, Any]) -> tuple[int, int]:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0, 0
    if not (isinstance(shape, list) and [type(value) for value in shape] == [int, int] and shape[1] in (2, 3)):
        raise AnnotationError(f"{file}: kpt_shape is {str(shape)[:60]}: it must be [number of keypoints, 2 or 3].")
    return max(0, shape[0]), shape[1]


def _read_labels(image: AnnotatedImage, labels: Path, form: _Form, problems: Problems) -> None:
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
        item = "is a duplicate" if words in seen else _object(words, image, form)
        seen.add(words)
        if isinstance(item, str):
            problems.add(labels, f"line {number}", item)
        else:
            item.id = number
            image.objects.append(item)


def _object(words: Sequence[str], image: AnnotatedImage, form: _Form) -> AnnotatedObject | str:
    try:
        category, values = int(float(words[0])), [float(word) for word in words[1:]]
    except (ValueError, OverflowError):
        return f"{' '.join(words)[:60]!r} is not `class x y width height`"
    if not 0 <= category < len(form.names):
        return f"class {category} is out of range: there are {len(form.names)}, counted from 0"
    width, height = image.width, image.height
    points, values_per_point = form.keypoints
    has_pose = points > 0 and len(values) == 4 + points * values_per_point
    if len(values) in (4, 5) or has_pose:
        x, y, w, h = values[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        score = values[4] if len(values) == 5 and not has_pose else None
        extra = _pose(values[4:], values_per_point, width, height) if has_pose else {}
        return AnnotatedObject(category, box, score=score, attributes=extra)
    if points:
        return f"has {len(words)} numbers: a box needs 5, or {5 + points * values_per_point} with keypoints (kpt_shape)"
    if len(values) >= 6 and len(values) % 2 == 0:
        polygon = [value * (height if i % 2 else width) for i, value in enumerate(values)]
        return AnnotatedObject(category, outline_box([polygon]), [polygon])
    return f"has {len(words)} numbers: a box needs 5 (6 with a confidence), a polygon an odd number of at least 7"


def _pose(values: Sequence[float], values_per_point: int, width: float, height: float) -> dict[str, Any]:
    """Return keypoints in COCO's form: x and y in pixels, and the visibility (0 missing, 2 visible)."""
    points: list[float] = []
    for start in range(0, len(values), values_per_point):
        x, y, *flags = values[start : start + values_per_point]
        visibility = flags[0] if flags else 2 * (x > 0 or y > 0)
        points += [
            round(x * width, 4),
            round(y * height, 4),
            int(visibility) if visibility == visibility // 1 else visibility,
        ]
    return {"keypoints": points, "num_keypoints": sum(visibility > 0 for visibility in points[2::3])}


def write_yolo(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `labels/SPLIT/*.txt` and `data.yaml`; images belong in `images/SPLIT`, and are not copied.

    If an image name contains a folder `images`, its labels are written to `labels` beside it, where readers search.

    If each object of an image has a single polygon, its lines are polygons, otherwise boxes, since readers expect
    only one of them in a file. Objects with several polygons or a run-length encoding become boxes. The format cannot
    store crowds, which are skipped, and ids.

    Args:
        sets: A set for each split; the split `all` gets no subfolder.
        root: The folder, created if missing.

    Returns:
        The written files.
    """
    import yaml

    written = []
    names: list[str] = []
    for split, part in sets.items():
        names = part.categories
        folder = Path("images") if split == "all" else Path("images", split)
        for image in part.images:
            path = root / label_path(inside(folder, image.name))
            make_folder(path.parent, root)
            write_text(path, "".join(f"{line}\n" for line in _lines(image)), "the labels", sync=False)
            written.append(path)
    content: dict[str, Any] = {split: "images" if split == "all" else f"images/{split}" for split in sets}
    content["names"] = dict(enumerate(names))
    make_folder(root, root)
    write_text(root / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "the classes' names")
    return [*written, root / "data.yaml"]


def keeps_outlines(image: AnnotatedImage) -> bool:
    """Return whether an image is written as polygons: each object has exactly one, and none has a score."""
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


def _find(root: Path) -> Sign:
    file = find_yolo_file(root)
    if file is None:
        return Sign.NONE
    named = file.name != "classes.txt" or any(path.name != file.name for path in files_below(root, (".txt",)))
    return Sign.SURE if named else Sign.NONE


def _read(source: Source) -> dict[str, AnnotationSet]:
    if source.folders:
        raise ValueError(f"{argument('images')} cannot be used with yolo, which finds labels beside the images.")
    return read_yolo(source.root, source.problems, source.sizes)


def _lost(sets: Mapping[str, AnnotationSet]) -> dict[str, int]:
    images = [image for part in sets.values() for image in part.images]
    objects = [item for image in images for item in image.objects]
    outlines = sum(item.segmentation is not None for item in objects if not item.crowd)
    kept = sum(not item.crowd for image in images if keeps_outlines(image) for item in image.objects)
    crowds = sum(item.crowd for item in objects)
    return {"outlines (their boxes are kept)": outlines - kept, "crowds": crowds, "class masks": count_masks(sets)}


FORMAT = AnnotationFormat("yolo", _find, _read, write_yolo, order=40, lost=_lost)
