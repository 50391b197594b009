"""Sets that torchvision knows: opened where they lie, downloaded where they are missing."""

from pathlib import Path
from typing import Any

from lit_cv.errors import argument, setting
from lit_cv.printable import printable

__all__ = ["open_set"]


def open_set(name: str, folder: Path, download: bool, **arguments: Any) -> Any:
    """Return a torchvision dataset.

    Args:
        name: Name of its class.
        folder: Folder that it is given.
        download: Whether to download what is missing.
        **arguments: Its further arguments.

    Raises:
        FileNotFoundError: If files are missing and cannot be, or must not be, downloaded.
        ValueError: If files are there, but are not those of the set.
        OSError: If the folder holds links to files, through which a download would write.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    try:
        return kind(str(folder), download=False, **arguments)
    except (RuntimeError, FileNotFoundError) as error:
        missing = f"{name} was not found in {folder.absolute()}"
        if not download:
            raise FileNotFoundError(
                f"{missing}: set {argument('root')} to its folder, or {setting('download', True)}."
            ) from error
    except Exception as error:  # torchvision checks the sums of most files, but not of all
        reason = printable(str(error) or type(error).__name__, lines=False)
        raise ValueError(f"{folder.absolute()} holds broken files of {name} ({reason}): fetch them again.") from error
    before = set(folder.rglob("*")) if folder.is_dir() else set()
    if links := sorted(path for path in before if path.is_symlink() and not path.is_dir()):
        shown = printable(str(links[0]), lines=False)
        raise OSError(
            f"{missing}, and {shown} is a link, which a download might write through: set {argument('root')}."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return kind(str(folder), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        _remove_empty(folder, before)
        raise FileNotFoundError(
            f"{missing} and could not be downloaded ({error}): set {argument('root')} to the folder that holds it, "
            "or try again with a network."
        ) from error


def _remove_empty(folder: Path, before: set[Path]) -> None:
    """Remove the empty folders that a failed download has left among those that were there."""
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
