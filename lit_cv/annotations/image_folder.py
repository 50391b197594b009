"""Where the images lie that a file of annotations names."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from lit_cv.annotations.layout import IMAGE_FOLDERS, leads_out
from lit_cv.annotations.reading import is_file
from lit_cv.annotations.walk import subfolder
from lit_cv.printable import printable

__all__ = ["locate_images"]

_TRIED = 5  # images that are looked for


def locate_images(root: Path, file: Path, words: Iterable[str], names: Sequence[str]) -> tuple[Path, list[str]]:
    """Find the folder of a file's images, by the first of them.

    Args:
        root: The folder of the set.
        file: The file of annotations.
        words: Names that their folder may have: of the split, or the subset.
        names: Names of the images in the file.

    Returns:
        The folder, and the names below it: those of the file; or where none of the first is there, and all are paths of
        another machine, their last parts, as Label Studio leaves them.

    Raises:
        FileNotFoundError: If none of the first images is found.
    """
    if not names:
        return root, []
    bases = [found for name in IMAGE_FOLDERS if (found := subfolder(root, name))]
    within = [found for base in (*bases, root) for word in words if (found := subfolder(base, word))]
    deeper = [found for base in within for name in IMAGE_FOLDERS if (found := subfolder(base, name))]
    folders = [file.parent, *within, *deeper, *bases, root, file.parent.parent]
    last = [PurePosixPath(name).name for name in names]
    for tried in (list(names), last if len(set(last)) == len(last) else []):
        for name in tried[:_TRIED]:
            for folder in folders:
                if not leads_out(name) and is_file(folder / name):
                    return folder, tried
    shown = printable(names[0], lines=False)
    raise FileNotFoundError(f"the image {shown} of {file} is not found in {root.absolute()}: set --data.images.")
