"""Folders of new classes with a few images of each, and images to classify."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.folder import ImageFolderDataModule
from datamodules.images import UnreadableImageError
from lit_cv.errors import MODULE, argument, renamed
from lit_cv.printable import printable

__all__ = ["SupportFolder", "open_support_folder"]

log = logging.getLogger("lit_cv")


class SupportFolder(ImageFolderDataModule):
    """Support images and images to predict."""

    def support_set(self) -> tuple[Tensor, Tensor]:
        """Return the support images (S, C, H, W) uint8 and their labels (S,) int64."""
        with _naming_support_root():
            batch = self.train_dataset.__getitems__(range(len(self.train_dataset)))
        return batch["image"], batch["label"]

    @rank_zero_only
    def _log_sizes(self, labeled: int) -> None:
        names, predict_count = self.class_names, len(self.predict_dataset or ())
        log.info(
            "EpisodicDataModule: %d support images of %d classes, %d to predict", labeled, len(names), predict_count
        )


def open_support_folder(
    support_root: str, predict_root: str, model: Mapping[str, Any], value_range: list[float] | None
) -> SupportFolder:
    """Open support images and images to predict, at the image size of a module.

    Args:
        support_root: Folder with a folder of images for each new class.
        predict_root: Folder of images to classify.
        model: Hyperparameters of the module.
        value_range: Lowest and highest value of gray images with 16 or 32 bits.

    Raises:
        ValueError: If the module does not define its image size, or there is only one class.
        FileNotFoundError: If there is no such folder.
    """
    size, channels = model["image_size"], model["in_channels"]
    if size is None or channels not in (1, 3):
        missing = argument("image_size", MODULE)
        raise ValueError(f"the checkpoint does not contain the size and channels of its images: set {missing}.")
    if not Path(support_root).expanduser().is_dir():
        raise FileNotFoundError(f"folder {Path(support_root).absolute()} not found: set {argument('support_root')}.")
    folder = SupportFolder(
        support_root,
        predict_root,
        image_size=size if isinstance(size, int) else max(size),
        channels=channels,
        value_range=value_range,
        val_fraction=0.0,
        test_fraction=0.0,
    )
    with _naming_support_root():
        folder.setup()
        if len(folder.class_names) < 2:
            shown = printable(", ".join(folder.class_names), lines=False)
            raise ValueError(f"there is only one class ({shown}): two or more are needed.")
    return folder


@contextmanager
def _naming_support_root() -> Iterator[None]:
    """Make errors about the support images name the argument `support_root`."""
    name = argument("support_root")
    try:
        with renamed(root="support_root"):
            yield
    except (ValueError, FileNotFoundError, UnreadableImageError) as error:
        if name in str(error):
            raise
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(f"{str(error).rstrip('.')} ({name}).") from None
