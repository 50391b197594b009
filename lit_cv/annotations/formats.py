"""One door to all formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.annotations.voc import read_voc

__all__ = ["FORMATS", "Format", "find_format", "read_annotations"]

Format = Literal["voc"]
FORMATS: tuple[Format, ...] = ("voc",)


def find_format(root: Path) -> Format:
    """Return the format of a folder of annotated images.

    Raises:
        FileNotFoundError: If none is recognised.
    """
    if (root / "Annotations").is_dir() or any(root.glob("*.xml")) or any(root.glob("*/*.xml")):
        return "voc"
    raise FileNotFoundError(f"{root.absolute()} holds no annotations of a known format: set --data.root.")


def read_annotations(
    root: Path, format: Format, problems: Problems, categories: Sequence[str] | None = None
) -> Mapping[str, AnnotationSet]:
    """Read a folder of annotated images.

    Args:
        root: The folder.
        format: Its format.
        problems: Where entries that are left out are noted.
        categories: Names of the classes; `None` finds them.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.
    """
    return read_voc(root, problems, categories)
