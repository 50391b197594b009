"""Images to predict, in a folder of any arrangement, without the data that a model was trained on."""

from pathlib import Path
from typing import Any

from datamodules.base import Split
from datamodules.files import FileDataset, FilesDataModule
from datamodules.folder import find_images
from datamodules.images import IMAGE_SUFFIXES

__all__ = ["ImageFilesDataModule"]


class ImageFilesDataModule(FilesDataModule):
    """Images without labels, for `predict` alone: `lit-cv predict --ckpt_path best --images FOLDER` makes one.

    Args:
        root: Folder of images in any arrangement, or one image.
        class_names: Names of the classes of the model.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If there are no images.
    """

    def __init__(self, root: str, class_names: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = list(class_names or [])

    def load(self, split: Split) -> FileDataset | None:
        """Return the images to predict."""
        if split != "predict":
            return None
        root = Path(self.hparams["root"]).expanduser()
        if root.is_file() and root.suffix.lower() in IMAGE_SUFFIXES:
            root, paths = root.parent, [root.name]
        else:
            paths = find_images(root)
        if not paths:
            raise FileNotFoundError(f"there are no images in {root.absolute()} (--images).")
        return self.readable(FileDataset(root, paths, [-1] * len(paths), channels=self.hparams["channels"]))

    def prepare_data(self) -> None:
        """Do nothing: there is nothing to download."""

    def setup(self, stage: str | None = None) -> None:
        """List the images, once."""
        if stage not in (None, "predict"):
            raise ValueError("ImageFilesDataModule has images to predict alone: choose another --data to train on.")
        if self.predict_dataset is None and (dataset := self.load("predict")) is not None:
            self.predict_dataset = self.finish(dataset, "predict")
            self.num_classes = len(self.class_names) or None
            self.in_channels = self.hparams["channels"]
            self.image_size = (self.hparams["image_size"], self.hparams["image_size"])
