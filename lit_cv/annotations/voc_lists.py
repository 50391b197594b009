"""Lists of images that define the splits in Pascal VOC's layout."""

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
    """Return the XML files of each list; empty if there is no list for training.

    Lists are searched in the folder `lists` of `ImageSets`, in `ImageSets`, in its other folders, and in the root.
    Without a list of only the training images, those of `trainval.txt` are used.

    Args:
        root: The folder of the set.
        annotations: The folder of the XML files.
        lists: Folder of lists in `ImageSets`.
    """
    index = FolderIndex(annotations, _XML)
    found, folder = _find_lists(root, lists)
    shown = printable(str(folder), lines=False)
    if found and "train" not in found:
        names = ", ".join(sorted(path.name for path in found.values()))
        log.warning("%s has no list train.txt or trainval.txt, so its other lists are ignored (%s).", shown, names)
    if "train" not in found:
        return {}
    files = {split: [_listed(index, line) for line in read_lines(path, files=True)] for split, path in found.items()}
    if folder == root and not any(is_file(xml) for xml in files["train"]):
        return {}  # other text files
    listed = {xml for part in files.values() for xml in part}
    if skipped := [xml for xml in files_below(annotations, _XML) if xml not in listed]:
        first = printable(skipped[0].name, lines=False)
        log.warning(
            "%d annotations are in no list of %s and are skipped, starting with %s.", len(skipped), shown, first
        )
    return files


def _find_lists(root: Path, lists: str) -> tuple[dict[str, Path], Path]:
    """Return the list of each split, and the folder of the lists."""
    top = subfolder(root, "ImageSets")
    inner = [] if top is None else sorted(path for path in top.iterdir() if path.is_dir())
    first = None if top is None else subfolder(top, lists)
    found = []
    for folder in (first, top, *inner, root):
        if folder is not None:
            texts = {path.stem.lower(): path for path in files_below(folder, (".txt",), deep=False)}
            found.append(({split: path for split, names in _LISTS.items() if (path := _named(texts, names))}, folder))
    found.sort(key=lambda entry: ("train" not in entry[0], not entry[0]))
    return found[0]


def _named(texts: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((texts[name] for name in names if name in texts), None)


def _listed(index: FolderIndex, line: str) -> Path:
    """Return the file that a line of a list names: the entire line, or its first word if a number follows."""
    stems = [Path(stem) for stem in (*name_choices(line), line.split()[0])]
    found = next((paths[0] for stem in stems if (paths := index.named(stem))), None)
    return index.root / (found or f"{stems[-1]}.xml")
