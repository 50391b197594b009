"""Images to predict in any folder, without the training data of the model."""

from pathlib import Path
from typing import Any

from datamodules.annotation_files import unannotated_images
from datamodules.base import Split
from datamodules.checks import check
from datamodules.dataset import ImageDataset
from datamodules.files import FileDataset, FilesDataModule
from datamodules.folder import find_images
from datamodules.images import IMAGE_SUFFIXES
from lit_cv.errors import argument

__all__ = ["ImageFilesDataModule"]


class ImageFilesDataModule(FilesDataModule):
    """Unlabeled images, only for `predict`: used by `lit-cv predict --ckpt_path best --images FOLDER`.

    Args:
        root: Folder of images, searched recursively, or one image.
        class_names: Class names of the model.
        box_classes: Names of the box classes of the model.
        mask_classes: Names of the pixel classes of the model.
        whole: Whether each image is fitted entirely, keeping its aspect ratio and padded, as in
            `AnnotatedImagesDataModule`; otherwise its centered square is used.
        canvas: Height and width to fit images into if `whole` is set; `None` keeps their sizes.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If there are no images.
    """

    multi_label = None  # compatible with every model

    def __init__(
        self,
        root: str,
        class_names: list[str] | None = None,
        box_classes: list[str] | None = None,
        mask_classes: list[str] | None = None,
        whole: bool = False,
        canvas: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        positive = canvas is None or (len(canvas) == 2 and min(canvas) >= 1)
        check(self, "canvas", canvas, positive, "[height, width] in pixels, or null")
        self.class_names = list(class_names or [])
        self.box_classes, self.mask_classes = list(box_classes or []), list(mask_classes or [])

    def load(self, split: Split) -> ImageDataset | None:
        """Return the images to predict."""
        if split != "predict":
            return None
        h = self.hparams
        root = Path(h["root"]).expanduser()
        if root.is_file() and root.suffix.lower() in IMAGE_SUFFIXES:
            root, paths = root.parent, [root.name]
        else:
            paths = find_images(root)
        if not paths:
            raise FileNotFoundError(f"there are no images in {root.absolute()} ({argument('images')}).")
        if not h["whole"]:
            return self.readable(FileDataset(root, paths, [-1] * len(paths), channels=h["channels"]))
        canvas = None if h["canvas"] is None else (h["canvas"][0], h["canvas"][1])
        skip = h["on_error"] == "skip"
        return unannotated_images(root, paths, self.box_classes, canvas, h["channels"], self.value_range, skip)

    def prepare_data(self) -> None:
        """Do nothing, as there is nothing to download."""

    def setup(self, stage: str | None = None) -> None:
        """List the images once."""
        h = self.hparams
        if stage not in (None, "predict"):
            raise ValueError("ImageFilesDataModule is only for prediction: choose another DataModule for training.")
        if self.predict_dataset is None and (dataset := self.load("predict")) is not None:
            self.predict_dataset = self.finish(dataset, "predict")
            self.num_classes = len(self.class_names) or None
            self.in_channels = h["channels"]
            size = h["canvas"] if h["whole"] else [h["image_size"]] * 2
            self.image_size = None if size is None else (size[0], size[1])
