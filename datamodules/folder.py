"""Your own images in folders, one for each class."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import Split
from datamodules.files import FileDataset, FilesDataModule
from datamodules.images import IMAGE_SUFFIXES

__all__ = ["ImageFolderDataModule", "find_images"]

_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


class ImageFolderDataModule(FilesDataModule):
    """Your own images: `root` holds `train`, `val` and `test` with a folder for each class, or just such folders.

    Where `val` or `test` is missing, it is split off: `val` from the training images, `test` only if there is no
    folder `train` either. Files may lie deeper; hidden files and those that are no images are passed over.

    Args:
        root: The folder.
        predict_root: Folder of images, in any arrangement, for `predict`; `None` takes the test images.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If `root` is missing or holds no folders.
        ValueError: If a class has no training images.
    """

    def __init__(self, root: str = "data", predict_root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def load(self, split: Split) -> FileDataset | None:
        """Return the files of a split."""
        if split == "predict":
            return self._load_predict()
        root = Path(self.hparams["root"]).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root.absolute()}: set --data.root.")
        training = _find(root, "train")
        if training is None or not _classes(training):  # a folder `train` of images is a class of that name
            return self.split_pool(_dataset(self, root, root), split) if split != "val" else None
        folder = _find(root, split)
        if folder is None:
            return None
        return self.readable(_dataset(self, root, folder, _classes(training)))

    def _load_predict(self) -> FileDataset | None:
        if self.hparams["predict_root"] is None:
            return None
        root = Path(self.hparams["predict_root"]).expanduser()
        paths = find_images(root)
        if not paths:
            raise FileNotFoundError(f"there are no images in {root.absolute()}: set --data.predict_root.")
        return self.readable(FileDataset(root, paths, [-1] * len(paths), channels=self.hparams["channels"]))


def find_images(root: Path) -> list[str]:
    """Return the images below a folder in any arrangement, relative to it; none if there is no such folder."""
    return sorted(_images(root, root)) if root.is_dir() else []


def _find(root: Path, split: str) -> Path | None:
    return next((root / name for name in _NAMES[split] if (root / name).is_dir()), None)


def _classes(folder: Path) -> dict[str, Path]:
    """Return the class folders by name; names that look the same are the same."""
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return dict(sorted((unicodedata.normalize("NFC", entry.name), Path(entry.path)) for entry in entries))


def _images(folder: Path, root: Path, outer: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the images below a folder, relative to `root`; a link to a folder around it is not followed."""
    here = os.path.realpath(folder)
    if here in outer:
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images(Path(entry.path), root, (*outer, here))
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield Path(entry.path).relative_to(root).as_posix()


def _dataset(data: FilesDataModule, root: Path, folder: Path, classes: dict[str, Path] | None = None) -> FileDataset:
    """List the images of a split.

    Args:
        data: Whose images these are.
        root: Folder that paths are relative to.
        folder: Folder with a folder for each class.
        classes: The classes of the training images, if these are other ones.
    """
    found = _classes(folder)
    names = list(classes if classes is not None else found)
    if not found:
        raise FileNotFoundError(f"{folder.absolute()} holds no folders: put the images of each class in one.")
    if unknown := [name for name in found if name not in names]:
        raise ValueError(
            f"{folder} has classes without training images: {', '.join(unknown)}. Known are: {', '.join(names)}."
        )
    files = {name: sorted(_images(path, root)) for name, path in found.items()}
    empty = [name for name in names if not files.get(name)]
    if empty and (classes is None or classes == found):
        raise ValueError(f"{folder} has class folders without images: {', '.join(empty)}. Fill or remove them.")
    if empty:
        rank_zero_warn(f"{folder} has no images of: {', '.join(empty)}.")
    paths = [path for name in names for path in files.get(name, [])]
    labels = [label for label, name in enumerate(names) for _ in files.get(name, [])]
    return FileDataset(root, paths, labels, names, channels=data.hparams["channels"])
