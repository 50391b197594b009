"""Where the mask of each image lies: in folders that tools name in their ways, or by a template."""

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
_BESIDE = ("annot", "_annot", "_labels", "_masks", "_mask")  # what folders `train`, ... have in their names for masks
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_L", "_seg", "_gt", "-mask")  # of masks' names
_FIELD = re.compile(r"\{(\w+)(?:-([^{}]*))?\}")
_FIELDS = ("split", "path", "folder", "stem")
_TRIED = 50  # images that are looked at for masks


@dataclass
class MaskFiles:
    """The images of a split with their masks.

    Args:
        images: Folder of the images.
        found: The mask of each image that has one, by the path of the image below the folder.
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
    """Return the images and masks of each split; of `all` where there is none for training.

    Args:
        root: The folder.
        folders: Folder of the images of each split; `None` looks for them.
        where: A folder of masks below `root`, or a template of their paths, in which `{split}` stands for the name of
            the split, `{path}` for the path of the image below its folder without the suffix, `{folder}` and `{stem}`
            for its parts, and `{stem-END}` for the stem without that end. `None` looks for folders of these names.
        names: Names of folders of masks.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If the template has an unknown field.
    """
    if where is None:
        return {split: _matched(*pair) for split, pair in mask_folders(root, folders, names).items()}
    found = dict(_by_template(root, folders, _checked(where)))
    if "train" in found:
        found.pop("all", None)
    if not found:
        shown = printable(where, lines=False)
        raise FileNotFoundError(
            f"no image in {root.absolute()} has a mask at {shown} ({argument('masks')}, {argument('images')})."
        )
    return found


def mask_folders(
    root: Path, folders: Mapping[str, Path] | None = None, names: Sequence[str] = MASK_FOLDERS
) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks of each split; of `all` where there are none for training.

    Raises:
        FileNotFoundError: If there are none.
    """
    found = {split: (images, masks) for split, images, masks in _pairs(root, folders, names)}
    if "train" in found:
        found.pop("all", None)
    if not found:
        lossy = next((path for name in names for path in images_below(root / name)), None)
        if lossy is not None and lossy.suffix.lower() not in MASK_SUFFIXES:
            allowed = ", ".join(sorted(MASK_SUFFIXES))
            raise FileNotFoundError(
                f"{printable(str(lossy), lines=False)}: masks are files that keep every value ({allowed}). Convert it."
            )
        raise FileNotFoundError(f"{root.absolute()} holds no folders `images` and `masks` (set {argument('masks')}).")
    return found


def _pairs(root: Path, folders: Mapping[str, Path] | None, masks: Sequence[str]) -> Iterator[tuple[str, Path, Path]]:
    """Yield the folders of images and masks of each split that has some."""
    for split, names in (*_names_of_splits(root).items(), ("all", ("",))):
        pairs: list[tuple[Path, Path]] = []
        for name in names:
            given = (folders or {}).get(split)
            if given is not None:
                pairs += [(given, _place(place, m, name)) for place in (root, given.parent) for m in masks]
            pairs += [(_place(root, i, name), _place(root, m, name)) for i in IMAGE_FOLDERS for m in masks]
            if name:
                pairs += [(_place(root, name, i), _place(root, name, m)) for i in IMAGE_FOLDERS for m in masks]
                beside = [(name + i, name + m) for i in ("", "_images") for m in _BESIDE]
                pairs += [(_place(root, i), _place(root, m)) for i, m in beside]
        pair = next(((i, m) for i, m in pairs if i.is_dir() and any(files_below(m, MASK_SUFFIXES))), None)
        if pair is not None:
            yield split, *pair


def _names_of_splits(root: Path) -> dict[str, tuple[str, ...]]:
    return split_names(root, *(place for name in IMAGE_FOLDERS if (place := subfolder(root, name))))


def _place(root: Path, *names: str) -> Path:
    """Return a folder below another; in other letters, capital or small, if it is so named."""
    for name in filter(None, names):
        root = subfolder(root, name) or root / name
    return root


def _matched(images: Path, masks: Path) -> MaskFiles:
    """Match the images and masks of two folders by name; the names of masks may have an end of their own."""
    names = [path.relative_to(images) for path in images_below(images)]
    left = {path.relative_to(masks).with_suffix(""): path for path in files_below(masks, MASK_SUFFIXES)}
    stems = {_composed(stem) for stem in left}
    endings = [end for end in _ENDINGS if any(_composed(_stem(name, end)) in stems for name in names)]
    ending = endings[0] if endings else ""
    masks_of = {name: mask for name in names if (mask := left.pop(_stem(name, ending), None))}
    alike = {_composed(stem): stem for stem in left}  # but for how accents are encoded
    for name in names:
        if name not in masks_of and (stem := alike.pop(_composed(_stem(name, ending)), None)):
            masks_of[name] = left.pop(stem)
    files = MaskFiles(images)
    files.found = {name.as_posix(): masks_of[name] for name in names if name in masks_of}
    files.without = [name.as_posix() for name in names if name not in masks_of]
    files.unused = sorted(left.values())
    return files


def _stem(name: Path, ending: str) -> Path:
    return name.with_name(name.stem + ending)


def _composed(stem: Path) -> Path:
    return Path(composed(stem.as_posix()))


def _checked(where: str) -> str:
    """Return a template with a field for each image; a folder holds masks of the images' names."""
    fields = [match[1] for match in _FIELD.finditer(where)]
    wrong = [name for name in fields if name not in _FIELDS]
    if wrong or re.search("[{}]", _FIELD.sub("", where)):
        allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise ValueError(f"the template {where!r} has {wrong[0] if wrong else 'a brace'!r}: allowed are {allowed}.")
    return where if {"path", "stem"} & set(fields) else f"{where}/{{path}}"


def _by_template(root: Path, folders: Mapping[str, Path] | None, where: str) -> Iterator[tuple[str, MaskFiles]]:
    index = FolderIndex(root, MASK_SUFFIXES)
    for split, names in (*_names_of_splits(root).items(), ("all", ("",))):
        if split == "all" and "{split" in where:
            continue
        given = (folders or {}).get(split)
        for name in names:
            places = [given] if given else [root / i / name for i in IMAGE_FOLDERS]
            places += [] if given else [root / name, *(root / name / i for i in IMAGE_FOLDERS if name)]
            files = next((f for place in places if (f := _templated(root, place, where, name, index)).found), None)
            apart = given is None or "all" not in (folders or {}) or "{split" in where  # not one folder for all splits
            if files is not None and (apart or split == "all"):
                yield split, files
                break


def _templated(root: Path, images: Path, where: str, split: str, index: FolderIndex) -> MaskFiles:
    files = MaskFiles(images)
    for position, path in enumerate(images_below(images)):
        name = path.relative_to(images).as_posix()
        place = _filled(where, split, PurePosixPath(name).with_suffix(""))
        mask = root / place if is_file(root / place) else next((root / m for m in index.named(Path(place))), None)
        if mask is None or mask == path:
            files.without.append(name)
        else:
            files.found[name] = mask
        if position == _TRIED and not files.found:
            break
    return files


def _filled(where: str, split: str, path: PurePosixPath) -> str:
    folder = "" if path.parent == PurePosixPath() else path.parent.as_posix()
    values = {"split": split, "path": path.as_posix(), "folder": folder, "stem": path.name}
    return _FIELD.sub(lambda match: values[match[1]].removesuffix(match[2] or ""), where)
