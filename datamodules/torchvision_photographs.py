"""Well-known photograph datasets, downloaded by torchvision and decoded when they are read."""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import Split
from datamodules.downloads import open_set
from datamodules.files import FileDataset, FilesDataModule

__all__ = ["Flowers102DataModule", "OxfordIIITPetDataModule", "TorchvisionPhotographsDataModule"]


class TorchvisionPhotographsDataModule(FilesDataModule):
    """Base of photograph datasets that torchvision downloads.

    A subclass sets `source` to the name of torchvision's class, `splits` to its split names, and `files` to its
    attribute with the file paths.

    Args:
        root: Folder of the dataset, also for downloads.
        download: Whether to download the dataset if it is missing.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If the dataset is missing and cannot or must not be downloaded.
    """

    source: ClassVar[str]
    splits: ClassVar[dict[str, str]]
    files: ClassVar[str]

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def prepare_data(self) -> None:
        """Download missing data."""
        for name in self.splits.values():
            open_set(self.source, self._folder, self.hparams["download"], split=name)
        super().prepare_data()

    def load(self, split: Split) -> FileDataset | None:
        """Return the files of a split."""
        if split not in self.splits:
            return None
        source = open_set(self.source, self._folder, download=False, split=self.splits[split])
        labels = list(source._labels)
        names = getattr(source, "classes", None) or [str(label) for label in range(max(labels) + 1)]
        paths = [Path(path).relative_to(self._folder).as_posix() for path in getattr(source, self.files)]
        return self.readable(FileDataset(self._folder, paths, labels, names, channels=self.hparams["channels"]))

    @property
    def _folder(self) -> Path:
        return Path(self.hparams["root"]).expanduser()


class Flowers102DataModule(TorchvisionPhotographsDataModule):
    """1,020 + 1,020 + 6,149 photographs of 102 kinds of flowers (Nilsback and Zisserman 2008)."""

    source = "Flowers102"
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    files = "_image_files"


class OxfordIIITPetDataModule(TorchvisionPhotographsDataModule):
    """3,680 + 3,669 photographs of cats and dogs of 37 breeds (Parkhi et al. 2012)."""

    source = "OxfordIIITPet"
    splits: ClassVar[dict[str, str]] = {"train": "trainval", "test": "test"}
    files = "_images"
