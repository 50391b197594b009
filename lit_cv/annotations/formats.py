"""Lookup of annotation formats, and reading of any of them."""

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

_DEFAULT_MASK_OPTIONS = MaskOptions()


@cache
def annotation_formats() -> dict[str, AnnotationFormat]:
    """Return the formats by name: each `FORMAT` that a file of this package defines."""
    package = import_module(__name__.rpartition(".")[0])
    names = sorted(module.name for module in iter_modules(package.__path__))
    candidates = (getattr(import_module(f"{package.__name__}.{name}"), "FORMAT", None) for name in names)
    return {format.name: format for format in candidates if isinstance(format, AnnotationFormat)}


def _misfit(candidate: object) -> str | None:
    """Return the problem with a candidate that is neither a format nor a subclass of `AnnotationFormat`."""
    if isinstance(candidate, AnnotationFormat) or subclass_problem(candidate, AnnotationFormat) is None:
        return None
    return "no AnnotationFormat"


FORMATS: Registry[AnnotationFormat | Callable[[], AnnotationFormat]] = Registry(
    "format", AnnotationFormat, lambda: annotation_formats(), _misfit
)
"""Formats by name. A custom format is an `AnnotationFormat`, or a subclass that is built without arguments."""


def format_named(name: str, source: str = "format") -> AnnotationFormat:
    """Return a format by name, or a custom format by `file.NAME`.

    Args:
        name: The name.
        source: Argument that names the format, for the message.

    Raises:
        ValueError: If there is no such format.
    """
    format = resolve(name, FORMATS, source)
    return format if isinstance(format, AnnotationFormat) else build(format, f"format {name!r}")


def writers() -> dict[str, Callable[[Mapping[str, AnnotationSet], Path], list[Path]]]:
    """Return the `write` functions of the formats that have one, by the name of the format."""
    return {name: format.write for name, format in annotation_formats().items() if format.write is not None}


def find_format(root: Path, name: str = "format") -> str:
    """Detect the format of a folder of annotated images; warn if there are several.

    Args:
        root: The folder.
        name: Argument that chooses a format, for messages.

    Raises:
        FileNotFoundError: If no format is recognized.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root.absolute()} not found: set {argument('root')}.")
    formats = annotation_formats()
    signs = {name: format.find(root) for name, format in formats.items()}
    least = Sign.LIKELY if max(signs.values()) > Sign.GUESS else 1
    found = [format for format, sign in signs.items() if sign >= least]
    found.sort(key=lambda format: (-signs[format], formats[format].order))
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} has no annotations in a known format ({', '.join(formats)}): set {argument('root')}."
        )
    if len(found) > 1:
        others = " and ".join(found[1:])
        log.warning(
            "%s contains annotations of several formats: %s is read, not %s (choose with %s).",
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
    masks: MaskOptions = _DEFAULT_MASK_OPTIONS,
) -> dict[str, AnnotationSet]:
    """Read a folder of annotated images, and check every entry.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        format: Name of the format, or `file.NAME` of a custom one; `None` detects it.
        files: COCO file of each split; `None` searches for them.
        folders: Image folder of each split, except for YOLO; `None` searches for them.
        sizes: Returns the sizes of image files.
        mask_facts: Returns the results of `inspect_mask` for mask files.
        masks: How masks are read.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there are no annotations of the format.
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
    """Determine the meaning of mask values over all masks, and check each mask."""
    first = next(iter(sets.values()))
    names = first.mask_classes or mask_class_names(root)
    paths = {split: [image.mask for image in part.images if image.mask] for split, part in sets.items()}
    all_masks = [path for part in paths.values() for path in part]
    if not all_masks:
        return {split: replace(part, mask_classes=names) for split, part in sets.items()}
    if not names and first.categories:
        names = ["background", *first.categories]
    file = options.palette or find_palette(root)
    palette = read_palette(file) if file else None
    facts = dict(zip(all_masks, mask_facts(all_masks), strict=True))
    code = mask_code(names, list(facts.values()), palette, options.ignore)
    checked = {split: check_masks(part, facts, code, problems) for split, part in sets.items()}
    training = next((checked[split] for split in ("train", "all") if split in checked), first)
    for note in describe_masks(code, [facts[i.mask] for i in training.images if i.mask], bool(names or palette)):
        log.warning("%s: %s", root, note)
    return {split: replace(part, mask_classes=code.names, mask_code=code) for split, part in checked.items()}
