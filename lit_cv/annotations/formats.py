"""One door to all formats."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign, Source
from lit_cv.annotations.checks import check_masks, check_set
from lit_cv.annotations.mask_naming import (
    MaskFacts,
    MaskOptions,
    describe_masks,
    find_palette,
    mask_code,
    read_palette,
)
from lit_cv.annotations.mask_values import inspect_mask
from lit_cv.annotations.masks import mask_class_names
from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.errors import argument
from lit_cv.registry import Registry, resolve, subclass_problem
from lit_cv.signatures import build

__all__ = ["FORMATS", "annotation_formats", "find_format", "format_named", "read_annotations", "writers"]

log = logging.getLogger("lit_cv")

_AS_FOUND = MaskOptions()


@cache
def annotation_formats() -> dict[str, AnnotationFormat]:
    """Return the formats by name: those that the files of this package define as `FORMAT`."""
    package = import_module(__name__.rpartition(".")[0])
    names = sorted(module.name for module in iter_modules(package.__path__))
    parts = (getattr(import_module(f"{package.__name__}.{name}"), "FORMAT", None) for name in names)
    return {part.name: part for part in parts if isinstance(part, AnnotationFormat)}


def _misfit(found: object) -> str | None:
    """Return what is neither a format nor a class of one."""
    if isinstance(found, AnnotationFormat) or subclass_problem(found, AnnotationFormat) is None:
        return None
    return "no AnnotationFormat"


FORMATS: Registry[AnnotationFormat | Callable[[], AnnotationFormat]] = Registry(
    "format", AnnotationFormat, lambda: annotation_formats(), _misfit
)
"""The formats by name; the user's own are an `AnnotationFormat`, or a subclass that is built without arguments."""


def format_named(name: str, source: str = "format") -> AnnotationFormat:
    """Return a format by its name, or the user's own by `file.NAME`.

    Args:
        name: The name.
        source: The argument that names it, for the message.

    Raises:
        ValueError: If there is none.
    """
    found = resolve(name, FORMATS, source)
    return found if isinstance(found, AnnotationFormat) else build(found, f"format {name!r}")


def writers() -> dict[str, Callable[[Mapping[str, AnnotationSet], Path], list[Path]]]:
    """Return what writes a set for each split to a folder, by the name of the format."""
    return {name: part.write for name, part in annotation_formats().items() if part.write is not None}


def find_format(root: Path, name: str = "format") -> str:
    """Return the format of a folder of annotated images; where it holds several, say which is read.

    Args:
        root: The folder.
        name: The argument that chooses a format, for messages.

    Raises:
        FileNotFoundError: If none is recognised.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: set {argument('root')}.")
    formats = annotation_formats()
    signs = {format: part.find(root) for format, part in formats.items()}
    least = Sign.LIKELY if max(signs.values()) > Sign.GUESS else 1
    found = [format for format, sign in signs.items() if sign >= least]
    found.sort(key=lambda format: (-signs[format], formats[format].order))
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} holds no annotations of a known format ({', '.join(formats)}): set {argument('root')}."
        )
    if len(found) > 1:
        others = " and ".join(found[1:])
        log.warning(
            "%s holds annotations of several formats: %s is read, not %s (%s chooses).",
            *(root, found[0], others, argument(name)),
        )
    return found[0]


def read_annotations(
    root: Path,
    problems: Problems,
    format: str | None = None,
    files: Mapping[str, Path] | None = None,
    folders: Mapping[str, Path] | None = None,
    sizes: SizesOf = file_sizes,
    mask_facts: MaskFacts | None = None,
    masks: MaskOptions = _AS_FOUND,
) -> dict[str, AnnotationSet]:
    """Read a folder of annotated images, and check every entry.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        format: Its format, by its name or as `file.NAME` of your own; `None` finds out.
        files: COCO's file of each split; `None` looks for them.
        folders: Folder of the images of each split, but for YOLO; `None` looks for them.
        sizes: Returns the sizes of image files.
        mask_facts: Returns what `inspect_mask` does for mask files.
        masks: How masks are read.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If there are no annotations, or of another format.
        ValueError: If folders are given for YOLO.
    """
    format = format or ("coco" if files else "masks" if masks.where else find_format(root))
    sets = format_named(format).read(Source(root, problems, files, folders, sizes, masks))
    for split, part in sets.items():
        sets[split] = check_set(part, sizes(part.folder, [image.name for image in part.images]), problems)
    return _with_masks(root, sets, problems, mask_facts or (lambda paths: [inspect_mask(p) for p in paths]), masks)


def _with_masks(
    root: Path,
    sets: Mapping[str, AnnotationSet],
    problems: Problems,
    mask_facts: MaskFacts,
    options: MaskOptions,
) -> dict[str, AnnotationSet]:
    """Find out what the values of all masks stand for, and check each mask."""
    first = next(iter(sets.values()))
    names = first.mask_classes or mask_class_names(root)
    paths = {split: [image.mask for image in part.images if image.mask] for split, part in sets.items()}
    every = [path for part in paths.values() for path in part]
    if not every:
        return {split: replace(part, mask_classes=names) for split, part in sets.items()}
    if not names and first.categories:
        names = ["background", *first.categories]
    file = options.palette or find_palette(root)
    palette = read_palette(file) if file else None
    facts = dict(zip(every, mask_facts(every), strict=True))
    code = mask_code(names, list(facts.values()), palette, options.ignore)
    checked = {split: check_masks(part, facts, code, problems) for split, part in sets.items()}
    training = next((checked[split] for split in ("train", "all") if split in checked), first)
    for said in describe_masks(code, [facts[i.mask] for i in training.images if i.mask], bool(names or palette)):
        log.warning("%s: %s", root, said)
    return {split: replace(part, mask_classes=code.names, mask_code=code) for split, part in checked.items()}
