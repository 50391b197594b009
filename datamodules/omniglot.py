"""Handwritten characters of fifty alphabets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.base import Split
from datamodules.downloads import open_set
from datamodules.files import FileDataset, FilesDataModule
from datamodules.folder import class_folders, image_files
from lit_cv.errors import OptionError, argument, setting
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["OmniglotDataModule"]

_SUBSETS: dict[str, tuple[str, ...]] = {
    "background": ("background",),
    "evaluation": ("evaluation",),
    "both": ("background", "evaluation"),
}


class OmniglotDataModule(FilesDataModule):
    """Omniglot: 20 drawings each of 964 characters from 30 alphabets, and of 659 from 20 more (Lake et al. 2015).

    The classes are named `ALPHABET/character01`. Drawings are gray, black ink on white, 105 pixels wide; they are
    decoded and resized once. Use it as labeled images for pretraining, or in
    `EpisodicDataModule(base=OmniglotDataModule(), split_by="group")`, which divides the alphabets.

    Args:
        root: Folder of the dataset in torchvision's layout (`omniglot-py/images_background`), or with the folders
            `images_background` and `images_evaluation` (also `omniglot_...`); downloads are stored here.
        subset: The 30 `background` alphabets, the 20 for `evaluation`, or both.
        alphabets: Names of the alphabets to keep; `None` keeps all.
        download: Whether to download the dataset if it is missing.
        image_size: Side of the images in pixels.
        channels: 1 for gray, 3 for networks with color input.
        cache: Whether all images are decoded once, into a file in a folder `.lit_cv_cache` beside them.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If the dataset is missing and cannot or must not be downloaded.
        ValueError: If an alphabet does not exist.
    """

    def __init__(
        self,
        root: str = "data",
        subset: Literal["background", "evaluation", "both"] = "background",
        alphabets: list[str] | None = None,
        download: bool = True,
        image_size: int = 28,
        channels: Literal[1, 3] = 1,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, cache=cache, **kwargs)
        if subset not in _SUBSETS:
            raise OptionError(self, "subset", subset, f"must be {', '.join(_SUBSETS)}")

    def prepare_data(self) -> None:
        """Download missing data and decode the images."""
        for part in _SUBSETS[self.hparams["subset"]]:
            if self._find(part) is None:
                root = Path(self.hparams["root"]).expanduser()
                open_set("Omniglot", root, self.hparams["download"], background=part == "background")
        super().prepare_data()

    def load(self, split: Split) -> FileDataset | None:
        """Return the drawings of a split."""
        if split in ("val", "predict"):
            return None
        root = Path(self.hparams["root"]).expanduser()
        found = {part: self._find(part) for part in _SUBSETS[self.hparams["subset"]]}
        if missing := [part for part, folder in found.items() if folder is None]:
            raise FileNotFoundError(
                f"Omniglot ({', '.join(missing)}) not found in {root.absolute()}: set {argument('root', self)} to its "
                f"folder, or {setting('download', True, self)}."
            )
        classes = {}
        for folder in found.values():
            classes.update(class_folders(folder, depth=2))  # type: ignore[arg-type]
        if self.hparams["alphabets"] is not None:
            classes = _of_alphabets(classes, self.hparams["alphabets"])
        names = sorted(classes)
        files = [image_files(classes[name], root) for name in names]
        labels = [label for label, paths in enumerate(files) for _ in paths]
        paths = [path for paths in files for path in paths]
        return self.split_pool(FileDataset(root, paths, labels, names, channels=self.hparams["channels"]), split)

    def _find(self, part: str) -> Path | None:
        root = Path(self.hparams["root"]).expanduser()
        places = (f"omniglot-py/images_{part}", f"images_{part}", f"omniglot_{part}")
        return next((root / place for place in places if (root / place).is_dir()), None)


def _of_alphabets(classes: dict[str, Path], alphabets: Sequence[str]) -> dict[str, Path]:
    available = sorted({name.partition("/")[0] for name in classes})
    for alphabet in alphabets:
        if alphabet not in available:
            raise ValueError(
                f"unknown alphabet {alphabet!r} ({argument('alphabets')}){nearest(alphabet, available)} "
                f"Known: {printable(', '.join(available), lines=False)}."
            )
    return {name: path for name, path in classes.items() if name.partition("/")[0] in alphabets}
