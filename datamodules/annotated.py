"""Custom annotated images: boxes and masks in the formats of annotation tools."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from datamodules.annotated_dataset import AnnotatedDataset, Size
from datamodules.annotation_files import (
    cached_mask_facts,
    cached_sizes,
    has_masks,
    read_image_labels,
    unannotated_images,
    without_small_boxes,
)
from datamodules.base import BaseDataModule, Split
from datamodules.checks import check, checked_range
from datamodules.classes import class_numbers
from datamodules.dataset import ImageDataset
from datamodules.folder import find_images
from datamodules.inspection import unreadable_files
from lit_cv.annotations import (
    AnnotationSet,
    MaskOptions,
    Problems,
    annotation_formats,
    class_code,
    format_named,
    read_annotations,
)
from lit_cv.annotations.layout import paths_by_split
from lit_cv.errors import argument, setting

__all__ = ["AnnotatedImagesDataModule"]

log = logging.getLogger("lit_cv")

if TYPE_CHECKING:
    Format: TypeAlias = str
else:  # the command line lists the available formats
    Format = Literal[("auto", *annotation_formats())] | str


class AnnotatedImagesDataModule(BaseDataModule):
    """Images with boxes or masks in the formats of annotation tools.

    `root` contains annotations in one of these layouts:

    - `coco`: `annotations/instances_{train,val,test}*.json` with boxes, polygons, run-length encodings and crowds; the
      images in a folder named like the file or the split, or in `images`; also in the layouts of Roboflow
      (`SPLIT/_annotations.coco.json`), CVAT and Label Studio (`result.json`, `images`);
    - `voc`: Pascal VOC, `Annotations/*.xml`, `JPEGImages/*`, lists `ImageSets/Main/{train,val,test}.txt`, and masks in
      `SegmentationClass/*.png`; or `annotations` and `images`; or XML files beside the images; in folders `train`,
      `valid`, `test` or without splits;
    - `yolo`: `data.yaml`, `images/SPLIT/*`, `labels/SPLIT/*.txt` with boxes or polygons;
    - `labelme`: a JSON file for each image, with polygons, rectangles, circles and masks;
    - `cvat`: CVAT for images, `annotations.xml`, with polygons, boxes, ellipses and masks;
    - `masks`: `images/SPLIT/*` and `masks/SPLIT/*.png` with the class of each pixel, and class names in `classes.txt`;
    - `instances`: like `masks`, but with a value for each object, from which boxes and outlines are made. The class of
      an object comes from class masks (`SegmentationObject`, `SegmentationClass`) or its value divided by 1000;
      otherwise there is one class. Not detected by `auto`.

    Without splits, `test` and `val` are held out. All entries are checked on reading: boxes outside the image or
    without area, unknown categories, missing images, images or masks of another size, values out of range,
    duplicates. Results are cached in a folder `.lit_cv_cache` beside the files.

    Batches are those of `AnnotatedDataset`: `image`, `size`, `scale`, `label`, and if annotated `boxes`, `box_labels`,
    `iscrowd`, `masks` and `mask`. Boxes are in pixels of the batch's image; divide by `scale` for pixels of the file.
    In a `mask` drawn from outlines, 0 is the background and other values are the box class plus 1; masks from PNG
    files have the stored values.

    Args:
        root: The folder.
        format: Its layout; `auto` detects it. `file.NAME` is a custom `AnnotationFormat`.
        annotations: COCO file, or a file for each of `train`, `val` and `test`, relative to `root` or to the working
            directory; `None` searches.
        images: Image folder, or a folder for each split, relative to `root` or to the working directory (not for
            `yolo`); `None` searches.
        labels: Table of image-level classes, relative to `root`: CSV with the columns `path`, relative to the image
            folder, and `label`; `None` for no such classes.
        predict_root: Folder of images for `predict`, searched recursively; `None` uses the test images.
        image_size: Height and width of the images in a batch, or one number for squares: each image is resized with
            antialiasing, keeping its aspect ratio, and padded at the right and at the bottom. `None` keeps the sizes
            of the images, and pads to the largest in a batch, rounded up to a multiple of 32.
        channels: 3 for color, 1 for gray.
        targets: Targets in batches: `boxes`; `mask`; `all` of these that are annotated; or `instances`, the boxes and
            `masks`, the pixels of each object, drawn from its outline (empty without one).
        masks: Folder of the mask files below `root`, or a template of their paths, if the layout is different:
            `{split}` is the name of the split, `{path}` the image's path relative to its folder without the suffix,
            `{folder}` and `{stem}` are its parts, and `{stem-END}` is the stem without the suffix `END`.
        ignore_class: One or more pixel classes, by name or by value in the mask files, to ignore in training and in
            metrics like 255: void, unlabeled. The other classes are renumbered.
        palette: File, relative to `root`, that names the colors of color masks: a name and three numbers from 0 to 255
            in each line; `None` searches for `labelmap.txt`, `class_dict.csv` and `label_colors.txt`.
        on_error: How to treat invalid entries: `raise` stops the run and lists them; `skip` drops, counts and lists
            them, along with images that cannot be decoded.
        min_box_side: Boxes with a shorter side, in pixels of the file, are dropped as accidental clicks.
        cache: Whether all images are decoded once, into a file in a folder `.lit_cv_cache` beside them.
        test_fraction: Share of the images held out for testing if the source has no splits; in [0, 1).
        value_range: Lowest and highest value of gray images with 16 or 32 bits (TIFF, PNG), mapped to 0 and 255; for
            12-bit files `[0, 4095]`; `None` means 0 to 65535.
        **kwargs: Arguments of `BaseDataModule`; `classes` chooses box classes.

    Raises:
        FileNotFoundError: If `root` or its annotations are missing.
        AnnotationError: If entries are invalid and `on_error` is `raise`.
    """

    def __init__(
        self,
        root: str = "data",
        format: Format = "auto",
        annotations: str | dict[str, str] | None = None,
        images: str | dict[str, str] | None = None,
        labels: str | None = None,
        predict_root: str | None = None,
        image_size: int | list[int] | None = 640,
        channels: Literal[1, 3] = 3,
        targets: Literal["boxes", "mask", "all", "instances"] = "all",
        masks: str | None = None,
        ignore_class: int | str | list[int | str] | None = None,
        palette: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        min_box_side: float = 0.0,
        cache: bool = False,
        test_fraction: float = 0.1,
        value_range: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sides = image_size if isinstance(image_size, list) else [image_size] * 2 if image_size is not None else None
        positive = sides is None or (len(sides) == 2 and all(isinstance(s, int) and s >= 1 for s in sides))
        check(self, "image_size", image_size, positive, "a number of pixels, [height, width], or null")
        if format != "auto":
            format_named(format)
        check(self, "channels", channels, channels in (1, 3), "1 or 3")
        allowed = ("boxes", "mask", "all", "instances")
        check(self, "targets", targets, targets in allowed, "boxes, mask, all or instances")
        check(self, "on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'")
        check(self, "min_box_side", min_box_side, min_box_side >= 0, "at least 0")
        check(self, "test_fraction", test_fraction, 0 <= test_fraction < 1, "a share in [0, 1)")
        self.canvas: Size | None = None if sides is None else (sides[0], sides[1])
        self.value_range = checked_range(self, value_range)
        self.problems = Problems()
        self._datasets: dict[str, AnnotatedDataset] = {}

    def prepare_data(self) -> None:
        """Check or decode the files in one process, so that the others can read the cached results."""
        if self.hparams["cache"] or self.hparams["on_error"] == "skip":
            self.setup()

    def load(self, split: Split) -> AnnotatedDataset | None:
        """Return the images of a split."""
        if not self._datasets:
            self._datasets = self._make_datasets(self._read())
        if split == "predict" and self.hparams["predict_root"] is not None:
            return self._load_predict()
        return self._datasets.get(split)

    def _load(self, split: Split) -> ImageDataset | None:
        return self.load(split)  # `classes` chooses box classes

    def forget(self) -> None:
        """Discard the splits, so that they are made again."""
        super().forget()
        self._datasets = {}

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Return the dataset of a split, decoded from the cache if `cache` is set."""
        wanted = self.hparams["cache"] and isinstance(dataset, AnnotatedDataset)
        return dataset.decoded(split) if wanted and isinstance(dataset, AnnotatedDataset) else dataset

    def class_counts(self) -> Tensor:
        """Return the number of training images of each class, or without image-level classes that of boxes, int64."""
        train = self.train_dataset
        if self.class_names:
            return torch.bincount(train.labels[train.labels >= 0], minlength=len(self.class_names))
        classes = len(self.box_classes)
        return train.class_counts(classes) if isinstance(train, AnnotatedDataset) else torch.zeros(classes)

    def object_counts(self) -> Tensor:
        """Return the number of training objects of each class without crowds, (len(box_classes),) int64."""
        train = self.train_dataset
        if not isinstance(train, AnnotatedDataset):
            return super().object_counts()
        return train.class_counts(len(self.box_classes), crowds=False)

    def pixel_counts(self) -> Tensor:
        """Return the number of training pixels of each class, (len(mask_classes),) int64; this reads all masks once."""
        train = self.train_dataset
        if not isinstance(train, AnnotatedDataset) or not self.mask_classes:
            return super().pixel_counts()
        return train.pixel_counts(len(self.mask_classes))

    def _read(self) -> dict[str, AnnotationSet]:
        h = self.hparams
        root = Path(h["root"]).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"folder {root.absolute()} not found: set {argument('root', self)}.")
        self.problems = Problems()
        folders = paths_by_split(root, h["images"])
        if missing := [folder for folder in (folders or {}).values() if not folder.is_dir()]:
            raise FileNotFoundError(f"folder {missing[0]} not found: set {argument('images', self)}.")
        sets = read_annotations(
            root,
            self.problems,
            None if h["format"] == "auto" else h["format"],
            files={"all": root / h["annotations"]}
            if isinstance(h["annotations"], str)
            else paths_by_split(root, h["annotations"]),
            folders=folders,
            sizes=cached_sizes,
            mask_facts=lambda paths: cached_mask_facts(root, paths),
            masks=MaskOptions(None if h["palette"] is None else root / h["palette"], self._ignored(), h["masks"]),
        )
        if h["on_error"] == "raise":
            self.problems.stop(f" ({setting('on_error', 'skip', self)} skips them)")
        else:
            sets = {split: self._without_unreadable(part) for split, part in sets.items()}
            if len(self.problems):
                log.warning("%d invalid entries of the annotations are skipped:\n%s", len(self.problems), self.problems)
        if h["classes"] is not None:
            names = next(iter(sets.values())).categories
            chosen = [names[number] for number in class_numbers(h["classes"], names)]
            sets = {split: part.chosen(chosen) for split, part in sets.items()}
        sets = {split: without_small_boxes(part, h["min_box_side"]) for split, part in sets.items()}
        training = [image for split, part in sets.items() if split in ("train", "all") for image in part.images]
        if training and not any(image.objects or image.mask for image in training):
            log.warning("None of the %d training images has an object or a mask.", len(training))
        return sets

    def _ignored(self) -> list[int | str]:
        ignored = self.hparams["ignore_class"]
        return [] if ignored is None else ignored if isinstance(ignored, list) else [ignored]

    def _without_unreadable(self, part: AnnotationSet) -> AnnotationSet:
        broken = unreadable_files(part.folder, [image.name for image in part.images], self.value_range)
        for name, reason in broken.items():
            self.problems.add(part.folder / name, "", f"cannot be decoded: {reason}")
        return replace(part, images=[image for image in part.images if image.name not in broken])

    def _make_datasets(self, sets: dict[str, AnnotationSet]) -> dict[str, AnnotatedDataset]:
        h = self.hparams
        parts = list(sets.values())
        images = {image.name for part in parts for image in part.images}
        table: dict[str, int] = {}
        names: list[str] = []
        if h["labels"] is not None:
            path = Path(h["root"]).expanduser() / h["labels"]
            names, table = read_image_labels(path, images, strict=h["on_error"] == "raise")
        crowds = any(item.crowd for part in parts for image in part.images for item in image.objects)
        boxes = h["targets"] != "mask" and bool(parts[0].categories)
        mask = h["targets"] in ("mask", "all") and any(has_masks(part) for part in parts)
        instances = h["targets"] == "instances"
        if instances:
            self._check_outlines(parts)
        if h["targets"] == "mask" and not mask:
            raise ValueError(f"{h['root']} has no masks and no outlines: set {setting('targets', 'boxes', self)}.")
        self.box_classes = list(parts[0].categories) if boxes else []
        if mask and not any(part.mask_code for part in parts):  # drawn from outlines
            code = class_code(["background", *parts[0].categories], self._ignored())
            sets = {split: replace(part, mask_classes=code.names, mask_code=code) for split, part in sets.items()}
        self.mask_classes = next(iter(sets.values())).mask_classes if mask else []
        datasets = {
            split: AnnotatedDataset(
                part,
                self.canvas,
                h["channels"],
                boxes,
                mask,
                crowds,
                torch.tensor([table.get(image.name, -1) for image in part.images], dtype=torch.int64),
                names,
                self.value_range,
                instances,
            )
            for split, part in sets.items()
        }
        if "all" in datasets:
            pool = datasets.pop("all")
            kept, held = self.division.hold_out(pool, "test", h["test_fraction"], purpose=2)
            datasets["train"] = pool.subset(kept)
            if len(held):
                datasets["test"] = pool.subset(held)
        return datasets

    def _check_outlines(self, parts: Sequence[AnnotationSet]) -> None:
        """Raise if no object has an outline, and log a warning if some lack one."""
        objects = [item for part in parts for image in part.images for item in image.objects]
        missing = sum(not item.segmentation for item in objects)
        root = self.hparams["root"]
        if missing == len(objects):
            only_pixels = any(image.mask for part in parts for image in part.images)
            reason = (
                f"its masks hold the classes of pixels, not objects ({setting('format', 'instances', self)} reads a "
            )
            reason += f"value per object): set {setting('targets', 'mask', self)}"
            boxes = f"no object has an outline: set {setting('targets', 'boxes', self)}"
            raise ValueError(f"{root}: {reason if only_pixels else boxes}.")
        if missing:
            log.warning("%d of %d objects have no outline: masks are not learned from them.", missing, len(objects))

    def _load_predict(self) -> AnnotatedDataset:
        folder = Path(self.hparams["predict_root"]).expanduser()
        names = find_images(folder)
        if not names:
            problem = "there are no images in" if folder.is_dir() else "there is no folder"
            raise FileNotFoundError(f"{problem} {folder.absolute()}: set {argument('predict_root', self)}.")
        h = self.hparams
        return unannotated_images(
            folder, names, self.box_classes, self.canvas, h["channels"], self.value_range, h["on_error"] == "skip"
        )

    def _describe(self, train: ImageDataset) -> None:
        super()._describe(train)
        self.image_size = self.canvas
