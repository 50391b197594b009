"""Opening and downloading of torchvision datasets."""

from pathlib import Path
from typing import Any

from lit_cv.errors import argument, setting
from lit_cv.printable import printable

__all__ = ["open_set"]


def open_set(name: str, folder: Path, download: bool, **arguments: Any) -> Any:
    """Return a torchvision dataset, downloaded if it is missing.

    Args:
        name: Name of its class.
        folder: Root folder of the dataset.
        download: Whether to download what is missing.
        **arguments: Further arguments of the class.

    Raises:
        FileNotFoundError: If files are missing and cannot or must not be downloaded.
        ValueError: If there are files, but they are broken.
        OSError: If the folder contains links to files, through which a download would write.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    try:
        return kind(str(folder), download=False, **arguments)
    except (RuntimeError, FileNotFoundError) as error:
        missing = f"{name} not found in {folder.absolute()}"
        if not download:
            raise FileNotFoundError(
                f"{missing}: set {argument('root')} to its folder, or {setting('download', True)}."
            ) from error
    except Exception as error:  # torchvision verifies most checksums, but not all
        reason = printable(str(error) or type(error).__name__, lines=False)
        raise ValueError(
            f"{folder.absolute()} contains broken files of {name} ({reason}): download them again."
        ) from error
    before = set(folder.rglob("*")) if folder.is_dir() else set()
    if links := sorted(path for path in before if path.is_symlink() and not path.is_dir()):
        shown = printable(str(links[0]), lines=False)
        raise OSError(
            f"{missing}, and a download could write through the link {shown}: set {argument('root')} to another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return kind(str(folder), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        _remove_empty(folder, before)
        raise FileNotFoundError(
            f"{missing} and could not be downloaded ({error}): set {argument('root')} to its folder, or try again "
            "with a network connection."
        ) from error


def _remove_empty(folder: Path, before: set[Path]) -> None:
    """Remove empty folders created by a failed download."""
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
