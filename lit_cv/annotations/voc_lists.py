"""The lists of images by which Pascal VOC's layout names its splits."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_cv.annotations.layout import SPLITS
from lit_cv.annotations.reading import is_file, name_choices, read_lines
from lit_cv.annotations.walk import FolderIndex, files_below, subfolder
from lit_cv.printable import printable

log = logging.getLogger("lit_cv")

__all__ = ["listed_files"]

_XML = (".xml",)
_LISTS = {**SPLITS, "train": (*SPLITS["train"], "trainval")}


def listed_files(root: Path, annotations: Path, lists: str) -> dict[str, list[Path]]:
    """Return the XML files that the lists name; nothing where there is no list for training.

    Lists lie in the folder `lists` of `ImageSets`, in that or another folder in it, or in the root. The images of
    `trainval.txt` are those to train on where no list names these alone.

    Args:
        root: The folder of the set.
        annotations: The folder of the XML files.
        lists: Folder of lists in `ImageSets`.
    """
    index = FolderIndex(annotations, _XML)
    found, place = _find_lists(root, lists)
    shown = printable(str(place), lines=False)
    if found and "train" not in found:
        names = ", ".join(sorted(path.name for path in found.values()))
        log.warning("%s has no list train.txt or trainval.txt: its others are passed over (%s).", shown, names)
    if "train" not in found:
        return {}
    files = {split: [_listed(index, line) for line in read_lines(path, files=True)] for split, path in found.items()}
    if place == root and not any(is_file(xml) for xml in files["train"]):
        return {}  # a text of another kind
    listed = {xml for part in files.values() for xml in part}
    if rest := [xml for xml in files_below(annotations, _XML) if xml not in listed]:
        first = printable(rest[0].name, lines=False)
        log.warning("%d annotations are in no list of %s and are left out: %s first.", len(rest), shown, first)
    return files


def _find_lists(root: Path, lists: str) -> tuple[dict[str, Path], Path]:
    """Return the list of each split, and the folder that they lie in."""
    top = subfolder(root, "ImageSets")
    inner = [] if top is None else sorted(path for path in top.iterdir() if path.is_dir())
    first = None if top is None else subfolder(top, lists)
    found = []
    for place in (first, top, *inner, root):
        if place is not None:
            texts = {path.stem.lower(): path for path in files_below(place, (".txt",), deep=False)}
            found.append(({split: path for split, names in _LISTS.items() if (path := _named(texts, names))}, place))
    found.sort(key=lambda entry: ("train" not in entry[0], not entry[0]))
    return found[0]


def _named(texts: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((texts[name] for name in names if name in texts), None)


def _listed(index: FolderIndex, line: str) -> Path:
    """Return the file that a line of a list names: all of it, or its first word where a number follows."""
    stems = [Path(stem) for stem in (*name_choices(line), line.split()[0])]
    found = next((paths[0] for stem in stems if (paths := index.named(stem))), None)
    return index.root / (found or f"{stems[-1]}.xml")
