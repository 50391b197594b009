"""Location of the mask of each image: in folders with common names, or by a path template."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lit_cv.annotations.layout import IMAGE_FOLDERS
from lit_cv.annotations.reading import composed, is_file
from lit_cv.annotations.split_folders import split_names
from lit_cv.annotations.walk import MASK_SUFFIXES, FolderIndex, files_below, images_below, subfolder
from lit_cv.errors import argument
from lit_cv.printable import printable

__all__ = ["MASK_FOLDERS", "MaskFiles", "find_mask_files", "mask_folders"]

MASK_FOLDERS = ("masks", "mask", "ann_dir", "annotations", "labels", "SegmentationClass")
_BESIDE = (
    "annot",
    "_annot",
    "_labels",
    "_masks",
    "_mask",
)  # suffixes of mask folders beside image folders such as `train`
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_L", "_seg", "_gt", "-mask")  # suffixes of mask names
_FIELD = re.compile(r"\{(\w+)(?:-([^{}]*))?\}")
_FIELDS = ("split", "path", "folder", "stem")
_TRIED = 50  # images to check for masks


@dataclass
class MaskFiles:
    """Images of a split with their masks.

    Args:
        images: Image folder.
        found: Mask of each image that has one, by the image's path relative to the folder.
        without: Images without a mask.
        unused: Masks without an image.
    """

    images: Path
    found: dict[str, Path] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def find_mask_files(
    root: Path,
    folders: Mapping[str, Path] | None = None,
    where: str | None = None,
    names: Sequence[str] = MASK_FOLDERS,
) -> dict[str, MaskFiles]:
    """Return images and masks of each split, or of `all` if there is no training split.

    Args:
        root: The folder.
        folders: Image folder of each split; `None` searches for them.
        where: A mask folder below `root`, or a template of mask paths: `{split}` is the name of the split, `{path}`
            the image's path relative to its folder without the suffix, `{folder}` and `{stem}` are its parts, and
            `{stem-END}` is the stem without the suffix `END`. `None` searches for folders with the `names`.
        names: Names of mask folders.

    Raises:
        FileNotFoundError: If there are no masks.
        ValueError: If the template has an unknown field.
    """
    if where is None:
        return {split: _match_by_name(*pair) for split, pair in mask_folders(root, folders, names).items()}
    found = dict(_by_template(root, folders, _complete_template(where)))
    if "train" in found:
        found.pop("all", None)
    if not found:
        shown = printable(where, lines=False)
        raise FileNotFoundError(
            f"no image in {root.absolute()} has a mask at {shown}: set {argument('masks')} or {argument('images')}."
        )
    return found


def mask_folders(
    root: Path, folders: Mapping[str, Path] | None = None, names: Sequence[str] = MASK_FOLDERS
) -> dict[str, tuple[Path, Path]]:
    """Return image and mask folder of each split, or of `all` if there is no training split.

    Raises:
        FileNotFoundError: If there are no such folders.
    """
    found = {split: (images, masks) for split, images, masks in _pairs(root, folders, names)}
    if "train" in found:
        found.pop("all", None)
    if not found:
        lossy = next((path for name in names for path in images_below(root / name)), None)
        if lossy is not None and lossy.suffix.lower() not in MASK_SUFFIXES:
            allowed = ", ".join(sorted(MASK_SUFFIXES))
            raise FileNotFoundError(
                f"{printable(str(lossy), lines=False)}: masks must be lossless files ({allowed}). Convert it."
            )
        raise FileNotFoundError(f"{root.absolute()} contains no folders `images` and `masks`: set {argument('masks')}.")
    return found


def _pairs(root: Path, folders: Mapping[str, Path] | None, masks: Sequence[str]) -> Iterator[tuple[str, Path, Path]]:
    """Yield image and mask folder of each split that has both."""
    for split, names in (*_names_of_splits(root).items(), ("all", ("",))):
        pairs: list[tuple[Path, Path]] = []
        for name in names:
            chosen = (folders or {}).get(split)
            if chosen is not None:
                pairs += [(chosen, _find_folder(base, m, name)) for base in (root, chosen.parent) for m in masks]
            pairs += [(_find_folder(root, i, name), _find_folder(root, m, name)) for i in IMAGE_FOLDERS for m in masks]
            if name:
                pairs += [
                    (_find_folder(root, name, i), _find_folder(root, name, m)) for i in IMAGE_FOLDERS for m in masks
                ]
                beside = [(name + i, name + m) for i in ("", "_images") for m in _BESIDE]
                pairs += [(_find_folder(root, i), _find_folder(root, m)) for i, m in beside]
        pair = next(((i, m) for i, m in pairs if i.is_dir() and any(files_below(m, MASK_SUFFIXES))), None)
        if pair is not None:
            yield split, *pair


def _names_of_splits(root: Path) -> dict[str, tuple[str, ...]]:
    return split_names(root, *(folder for name in IMAGE_FOLDERS if (folder := subfolder(root, name))))


def _find_folder(root: Path, *names: str) -> Path:
    """Return a nested folder, ignoring case if there is no exact match."""
    for name in filter(None, names):
        root = subfolder(root, name) or root / name
    return root


def _match_by_name(images: Path, masks: Path) -> MaskFiles:
    """Match images and masks of two folders by name; all mask names may share a suffix such as `_mask`."""
    names = [path.relative_to(images) for path in images_below(images)]
    unmatched = {path.relative_to(masks).with_suffix(""): path for path in files_below(masks, MASK_SUFFIXES)}
    stems = {_composed(stem) for stem in unmatched}
    endings = [end for end in _ENDINGS if any(_composed(_stem(name, end)) in stems for name in names)]
    ending = endings[0] if endings else ""
    mask_of = {name: mask for name in names if (mask := unmatched.pop(_stem(name, ending), None))}
    by_composed = {_composed(stem): stem for stem in unmatched}  # for accents that are encoded differently
    for name in names:
        if name not in mask_of and (stem := by_composed.pop(_composed(_stem(name, ending)), None)):
            mask_of[name] = unmatched.pop(stem)
    files = MaskFiles(images)
    files.found = {name.as_posix(): mask_of[name] for name in names if name in mask_of}
    files.without = [name.as_posix() for name in names if name not in mask_of]
    files.unused = sorted(unmatched.values())
    return files


def _stem(name: Path, ending: str) -> Path:
    return name.with_name(name.stem + ending)


def _composed(stem: Path) -> Path:
    return Path(composed(stem.as_posix()))


def _complete_template(where: str) -> str:
    """Check a template, and append `{path}` if it is only a folder."""
    fields = [match[1] for match in _FIELD.finditer(where)]
    unknown = [name for name in fields if name not in _FIELDS]
    if unknown or re.search("[{}]", _FIELD.sub("", where)):
        allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise ValueError(f"template {where!r} contains {unknown[0] if unknown else 'a brace'!r}: use {allowed}.")
    return where if {"path", "stem"} & set(fields) else f"{where}/{{path}}"


def _by_template(root: Path, folders: Mapping[str, Path] | None, where: str) -> Iterator[tuple[str, MaskFiles]]:
    index = FolderIndex(root, MASK_SUFFIXES)
    for split, names in (*_names_of_splits(root).items(), ("all", ("",))):
        if split == "all" and "{split" in where:
            continue
        chosen = (folders or {}).get(split)
        for name in names:
            places = [chosen] if chosen else [root / i / name for i in IMAGE_FOLDERS]
            places += [] if chosen else [root / name, *(root / name / i for i in IMAGE_FOLDERS if name)]
            files = next(
                (f for place in places if (f := _match_by_template(root, place, where, name, index)).found), None
            )
            separate = chosen is None or "all" not in (folders or {}) or "{split" in where  # a folder for each split
            if files is not None and (separate or split == "all"):
                yield split, files
                break


def _match_by_template(root: Path, images: Path, where: str, split: str, index: FolderIndex) -> MaskFiles:
    files = MaskFiles(images)
    for position, path in enumerate(images_below(images)):
        name = path.relative_to(images).as_posix()
        mask_path = _fill_template(where, split, PurePosixPath(name).with_suffix(""))
        mask = (
            root / mask_path
            if is_file(root / mask_path)
            else next((root / m for m in index.named(Path(mask_path))), None)
        )
        if mask is None or mask == path:
            files.without.append(name)
        else:
            files.found[name] = mask
        if position == _TRIED and not files.found:
            break
    return files


def _fill_template(where: str, split: str, path: PurePosixPath) -> str:
    folder = "" if path.parent == PurePosixPath() else path.parent.as_posix()
    values = {"split": split, "path": path.as_posix(), "folder": folder, "stem": path.name}
    return _FIELD.sub(lambda match: values[match[1]].removesuffix(match[2] or ""), where)
