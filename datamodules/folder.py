"""Custom images in one folder per class."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from datamodules.base import Split
from datamodules.checks import check
from datamodules.files import FileDataset, FilesDataModule, some_names
from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.split_folders import is_named_for_split, split_folders
from lit_cv.annotations.walk import is_image
from lit_cv.errors import argument, setting
from lit_cv.image_formats import IMAGE_SUFFIXES
from lit_cv.printable import printable

__all__ = ["ImageFolderDataModule", "class_folders", "find_images", "image_files"]

log = logging.getLogger("lit_cv")

_LOGS = "lightning_logs"  # of runs started beside the images, not a class
_MAX_VISITS = 100  # listings of one folder through links


class ImageFolderDataModule(FilesDataModule):
    """Custom images: `root` contains one folder per class, or `train`, `val` and `test` with such folders.

    Variants of the split names are accepted (`Training` and `Testing`, `TRAIN`, `Val`, `seg_train` and `seg_test`). A
    missing `val` is held out of the training images; a missing `test` is held out only if there is no folder `train`.
    Images in subfolders are included; hidden files, files that are not images, and system files (`@eaDir`, `__MACOSX`)
    are ignored.

    Args:
        root: The folder.
        class_depth: Depth of the class folders: 2 for `root/GROUP/CLASS`, with classes named `GROUP/CLASS` and no
            split folders (for few-shot learning, which splits by class or group).
        predict_root: Folder of images for `predict`, searched recursively; `None` uses the test images.
        unlabeled_root: Folder of training images without labels, searched recursively, for modules that use them; a
            folder below `root`, which is then no class, or any other folder. Without class folders in `root`, no image
            has a label; with `.`, which is `root` itself, none has one in any folder. `None`: all images have labels.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If `root` is missing or contains no folders.
        ValueError: If a class has no training images.
    """

    def __init__(
        self,
        root: str = "data",
        predict_root: str | None = None,
        class_depth: Literal[1, 2] = 1,
        unlabeled_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(self, "class_depth", class_depth, class_depth in (1, 2), "1 or 2")

    def load(self, split: Split) -> FileDataset | None:
        """Return the files of a split."""
        if split == "predict":
            return self._load_predict()
        root = Path(self.hparams["root"]).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"folder {root.absolute()} not found: set {argument('root', self)}.")
        if (
            (unlabeled := self.unlabeled_folder) is not None
            and unlabeled.is_dir()
            and os.path.samefile(unlabeled, root)
        ):
            return self._from_pool(FileDataset(root, [], [], channels=self.hparams["channels"]), split)
        if self.hparams["class_depth"] == 2:
            _warn_images_beside_classes(root, split)
            return self._from_pool(_dataset(self, root, root, depth=2), split)
        folders = split_folders(root)
        training = folders.get("train")
        if training is None or not class_folders(training):  # a folder `train` with images is a class
            _check_split_folders(root, folders)
            _warn_images_beside_classes(root, split)
            if split == "train":
                _warn_split_names(root)
            return self._from_pool(_dataset(self, root, root), split)
        folder = folders.get(split)
        if folder is None:
            return None
        if split == "train":
            _warn_ignored_folders(root, folders, self.unlabeled_folder)
        elif not class_folders(folder) and find_images(folder):
            rank_zero_only(log.warning)(
                "%s contains images without class folders and is skipped: use %s to predict them.",
                printable(str(folder), lines=False),
                argument("predict_root", self),
            )
            return None
        _warn_images_beside_classes(folder, "train")
        dataset = _dataset(self, root, folder, class_folders(training, without=self.unlabeled_folder))
        return self.readable(self._with_unlabeled(dataset) if split == "train" else dataset)

    @property
    def unlabeled_folder(self) -> Path | None:
        """Folder of the images without labels."""
        if (given := self.hparams["unlabeled_root"]) is None:
            return None
        below = Path(self.hparams["root"]).expanduser() / Path(given).expanduser()
        return below if below.is_dir() else Path(given).expanduser()

    def _from_pool(self, dataset: FileDataset, split: Split) -> FileDataset | None:
        return None if split == "val" else self.split_pool(self._with_unlabeled(dataset), split)

    def _with_unlabeled(self, dataset: FileDataset) -> FileDataset:
        """Return the images with those of `unlabeled_root`, whose labels are -1."""
        folder = self.unlabeled_folder
        if folder is None:
            return dataset
        names = find_images(folder)
        if not names:
            reason = "contains no images" if folder.is_dir() else "not found"
            raise FileNotFoundError(f"folder {folder.absolute()} {reason}: set {argument('unlabeled_root', self)}.")
        inside = folder.absolute().is_relative_to(dataset.root.absolute())
        start = folder.absolute().relative_to(dataset.root.absolute()) if inside else folder.absolute()
        paths = [*dataset.paths, *((start / name).as_posix() for name in names)]
        labels = [*dataset.labels.tolist(), *[-1] * len(names)]
        return FileDataset(dataset.root, paths, labels, dataset.class_names, channels=dataset.channels)

    def _load_predict(self) -> FileDataset | None:
        if self.hparams["predict_root"] is None:
            return None
        root = Path(self.hparams["predict_root"]).expanduser()
        paths = find_images(root)
        if not paths:
            problem = "there are no images in" if root.is_dir() else "there is no folder"
            raise FileNotFoundError(f"{problem} {root.absolute()}: set {argument('predict_root', self)}.")
        return self.readable(FileDataset(root, paths, [-1] * len(paths), channels=self.hparams["channels"]))


def find_images(folder: Path) -> list[str]:
    """Return the paths of the images in a folder and its subfolders, relative to it, sorted."""
    return sorted(_images(folder, folder)) if folder.is_dir() else []


def _check_split_folders(root: Path, folders: dict[str, Path]) -> None:
    """Raise if there are split folders without class folders or without `train`, as they would be read as classes."""
    if not folders or len(class_folders(root)) > len(folders):
        return
    split_names = ", ".join(folder.name for folder in folders.values())
    if "train" in folders and len(folders) > 1:
        raise ValueError(
            f"{root} contains split folders ({split_names}) without class folders: put the images of each class in a "
            f"folder, list images and labels in a table (CSVDataModule), or set {argument('root')} to a folder of "
            "unlabeled images."
        )
    if "train" not in folders:
        raise ValueError(
            f"{root} contains split folders ({split_names}), but none for training: add a folder train, or set "
            f"{argument('root')} to the folder that contains the class folders."
        )


def _warn_split_names(root: Path) -> None:
    """Warn if all classes are named like splits, perhaps of several datasets."""
    names = list(class_folders(root))
    if len(names) > 1 and all(map(is_named_for_split, names)):
        rank_zero_only(log.warning)(
            "%s: folders named like splits are read as classes (%s): set %s to a folder that contains one train and "
            "one test.",
            printable(str(root), lines=False), some_names(names), argument("root"),
        )  # fmt: skip


def _warn_ignored_folders(root: Path, folders: dict[str, Path], unlabeled: Path | None) -> None:
    """Warn about folders beside the split folders, which are ignored."""
    read = {folder.relative_to(root).parts[0] for folder in folders.values()}
    if others := [name for name in class_folders(root, without=unlabeled) if name not in read]:
        rank_zero_only(log.warning)(
            "%s: the splits are read from %s; other folders are ignored: %s.",
            printable(str(root), lines=False), ", ".join(sorted(read)), some_names(others),
        )  # fmt: skip


def _warn_images_beside_classes(folder: Path, split: Split) -> None:
    """Warn once for all splits about images beside the class folders."""
    files = (entry.name for entry in os.scandir(folder) if not entry.is_dir())
    beside = [name for name in files if is_image(name) and not is_clutter(name)]
    if beside and split == "train":
        rank_zero_only(log.warning)(
            "%d images in %s are in no class folder and are skipped: %s.",
            len(beside), printable(str(folder), lines=False), some_names(sorted(beside)),
        )  # fmt: skip


def class_folders(folder: Path, depth: int = 1, without: Path | None = None) -> dict[str, Path]:
    """Return class folders by name (`GROUP/CLASS` for depth 2), with names in Unicode normal form NFC.

    Args:
        folder: Folder that contains them.
        depth: Depth of the class folders.
        without: Folder that is not a class.
    """
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]
    if without is not None:
        entries = [entry for entry in entries if not without.is_dir() or not os.path.samefile(entry.path, without)]
    entries = [entry for entry in entries if entry.name != _LOGS]
    found = dict(sorted((unicodedata.normalize("NFC", entry.name), Path(entry.path)) for entry in entries))
    if len(found) < len(entries):
        duplicate = Counter(unicodedata.normalize("NFC", entry.name) for entry in entries).most_common(1)[0][0]
        raise ValueError(f"{folder} has two folders named {duplicate!r} with differently encoded accents: merge them.")
    if depth == 1:
        return found
    pairs = ((group, class_folders(inner, without=without)) for group, inner in found.items())
    return {f"{group}/{name}": path for group, inner in pairs for name, path in inner.items()}


def image_files(folder: Path, root: Path) -> list[str]:
    """Return the paths of the images below a folder, relative to `root`, sorted."""
    return sorted(_images(folder, root))


def _images(folder: Path, root: Path, outer: tuple[str, ...] = (), visits: Counter[str] | None = None) -> Iterator[str]:
    """Yield the images below a folder, relative to `root`; links to parent folders are not followed."""
    here, visits = os.path.realpath(folder), Counter() if visits is None else visits
    if here in outer:
        return
    visits[here] += 1
    if visits[here] > _MAX_VISITS:  # nested links could multiply a few folders without limit
        shown = printable(here, lines=False)
        raise ValueError(f"{root}: more than {_MAX_VISITS} links lead to {shown}: remove some of them.")
    for entry in os.scandir(folder):
        if is_clutter(entry.name):
            continue
        if entry.is_dir():
            yield from _images(Path(entry.path), root, (*outer, here), visits)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield Path(entry.path).relative_to(root).as_posix()


def _dataset(
    data: ImageFolderDataModule, root: Path, folder: Path, classes: dict[str, Path] | None = None, depth: int = 1
) -> FileDataset:
    """List the images of a split.

    Args:
        data: DataModule of the images.
        root: Folder that paths are relative to.
        folder: Folder with a folder for each class.
        classes: Classes of the training images, if this is another split.
        depth: Depth of the class folders.
    """
    found = class_folders(folder, depth, data.unlabeled_folder)
    names = list(classes if classes is not None else found)
    if not found and data.unlabeled_folder is None:
        raise FileNotFoundError(
            f"{folder.absolute()} contains no folders: put the images of each class in a folder, or set "
            f"{setting('unlabeled_root', '.', data)} if they have no labels."
        )
    training_classes = set(names)
    if unknown := [name for name in found if name not in training_classes]:
        raise ValueError(
            f"{folder} has classes without training images: {some_names(unknown)}. Known: {some_names(names)}."
        )
    files = {name: image_files(path, root) for name, path in found.items()}
    empty = [name for name in names if not files.get(name)]
    if empty and (classes is None or classes == found):
        raise ValueError(f"{folder} has class folders without images: {some_names(empty)}. Fill or remove them.")
    if empty:
        rank_zero_warn(f"{folder} has no images of: {some_names(empty)}.")
    paths = [path for name in names for path in files.get(name, [])]
    labels = [label for label, name in enumerate(names) for _ in files.get(name, [])]
    return FileDataset(root, paths, labels, names, channels=data.hparams["channels"])
