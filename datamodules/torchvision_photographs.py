"""Well-known sets of photographs, downloaded by torchvision and decoded as they are read."""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import Split
from datamodules.downloads import open_set
from datamodules.files import FileDataset, FilesDataModule

__all__ = ["Flowers102DataModule", "OxfordIIITPetDataModule", "TorchvisionPhotographsDataModule"]


class TorchvisionPhotographsDataModule(FilesDataModule):
    """Base of the sets of photographs that torchvision downloads.

    A subclass names torchvision's class in `source`, in `splits` its name of each split, and in `files` the
    attribute that holds its files.

    Args:
        root: Folder that holds the set or that it is downloaded to.
        download: Whether to download the set where it is missing.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If the set is missing and cannot be, or must not be, downloaded.
    """

    source: ClassVar[str]
    splits: ClassVar[dict[str, str]]
    files: ClassVar[str]

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def prepare_data(self) -> None:
        """Download what is missing."""
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
