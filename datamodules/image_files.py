"""Images to predict, in a folder of any arrangement, without the data that a model was trained on."""

from pathlib import Path
from typing import Any

from datamodules.annotation_files import whole_images
from datamodules.base import Split
from datamodules.checks import check
from datamodules.dataset import ImageDataset
from datamodules.files import FileDataset, FilesDataModule
from datamodules.folder import find_images
from datamodules.images import IMAGE_SUFFIXES

__all__ = ["ImageFilesDataModule"]


class ImageFilesDataModule(FilesDataModule):
    """Images without labels, for `predict` alone: `lit-cv predict --ckpt_path best --images FOLDER` makes one.

    Args:
        root: Folder of images in any arrangement, or one image.
        class_names: Names of the classes of the model.
        box_classes: Names of the classes of boxes that it finds.
        mask_classes: Names of the classes of pixels that it tells apart.
        whole: Whether each image is made to fit as a whole, its aspect ratio kept and padded, as
            `AnnotatedImagesDataModule` does; otherwise its centered square is taken.
        canvas: For whole images, height and width that they are made to fit into; `None` keeps their sizes.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If there are no images.
    """

    multi_label = None  # so that it fits every model

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
            raise FileNotFoundError(f"there are no images in {root.absolute()} (--images).")
        if not h["whole"]:
            return self.readable(FileDataset(root, paths, [-1] * len(paths), channels=h["channels"]))
        canvas = None if h["canvas"] is None else (h["canvas"][0], h["canvas"][1])
        skip = h["on_error"] == "skip"
        return whole_images(root, paths, self.box_classes, canvas, h["channels"], self.value_range, skip)

    def prepare_data(self) -> None:
        """Do nothing: there is nothing to download."""

    def setup(self, stage: str | None = None) -> None:
        """List the images, once."""
        h = self.hparams
        if stage not in (None, "predict"):
            raise ValueError("ImageFilesDataModule has images to predict alone: choose another DataModule to train on.")
        if self.predict_dataset is None and (dataset := self.load("predict")) is not None:
            self.predict_dataset = self.finish(dataset, "predict")
            self.num_classes = len(self.class_names) or None
            self.in_channels = h["channels"]
            size = h["canvas"] if h["whole"] else [h["image_size"]] * 2
            self.image_size = None if size is None else (size[0], size[1])
