"""Your own annotated images: boxes and masks in the formats that annotation tools write."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from datamodules.annotated_dataset import AnnotatedDataset, Size
from datamodules.annotation_files import (
    has_masks,
    known_mask_facts,
    known_sizes,
    read_image_labels,
    whole_images,
    without_small,
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
else:  # the command line reads them from the formats that there are
    Format = Literal[("auto", *annotation_formats())] | str


class AnnotatedImagesDataModule(BaseDataModule):
    """Images with boxes or masks, as annotation tools write them.

    `root` holds annotations in one of these layouts:

    - `coco`: `annotations/instances_{train,val,test}*.json` with boxes, polygons, run-length codes, crowds; the images
      in a folder of the same name, or of the split's, or `images`; also as Roboflow (`SPLIT/_annotations.coco.json`),
      CVAT and Label Studio (`result.json`, `images`) write it;
    - `voc`: Pascal VOC, `Annotations/*.xml`, `JPEGImages/*`, lists `ImageSets/Main/{train,val,test}.txt`, and masks in
      `SegmentationClass/*.png`; or `annotations` and `images`; or XML files beside the images; in folders `train`,
      `valid`, `test` or without splits;
    - `yolo`: `data.yaml`, `images/SPLIT/*`, `labels/SPLIT/*.txt` with boxes or polygons;
    - `labelme`: a JSON file for each image, with polygons, rectangles, circles, masks;
    - `cvat`: CVAT for images, `annotations.xml`, with polygons, boxes, ellipses, masks;
    - `masks`: `images/SPLIT/*` and `masks/SPLIT/*.png` with the class of each pixel, `classes.txt` with their names;
    - `instances`: likewise with a value for each object, from which boxes and outlines are made; objects are of one
      class, or of that of the class masks beside them (`SegmentationObject`, `SegmentationClass`), or of their value
      divided by 1000 (not found by `auto`).

    Where there are no splits, `test` and `val` are held out. All entries are checked when they are read: boxes
    outside the image or of no area, unknown categories, missing images, images or masks of another size, values
    out of range, doubles. What is found out about the files is remembered in a folder `.lit_cv_cache` beside them.

    Batches are those of `AnnotatedDataset`: `image`, `size`, `scale`, and `boxes`, `box_labels`, `iscrowd`, `mask`
    where they are annotated, and `label`. Boxes are in pixels of the batch's image: divided by `scale` in those of the
    file. Masks drawn from objects' outlines have 0 for the background and the class of the box plus 1 otherwise, those
    of PNGs the values as they stand.

    Args:
        root: The folder.
        format: Its layout; `auto` finds out. `file.NAME` is an `AnnotationFormat` of your own.
        annotations: COCO's file, or a file for each of `train`, `val` and `test`, in `root` or as it stands; `None`
            looks.
        images: Folder of the images, or a folder for each split, in `root` or as it stands (not for `yolo`); `None`
            looks.
        labels: Table (CSV with the columns `path`, below the folder of the images, and `label`) of the classes of whole
            images, relative to `root`; `None` for none.
        predict_root: Folder of images, in any arrangement, for `predict`; `None` takes the test images.
        image_size: Height and width of the images in a batch, one number for squares: each image is resized, its
            aspect ratio kept, with antialiasing, and padded at the right and at the bottom. `None` keeps the sizes
            of the images, and pads to the largest in a batch, rounded up to a multiple of 32.
        channels: 3 for color, 1 for grey.
        targets: What batches have: `boxes`, `mask`, or `all` that is annotated.
        masks: Folder of the mask files below `root`, or a template of their paths, for masks that lie elsewhere or are
            named otherwise: `{split}` stands for the split's name, `{path}` for the image's path below its folder
            without the suffix, `{folder}` and `{stem}` for its parts, `{stem-END}` for the stem without that end.
        ignore_class: Class of pixels, or several, by name or by value in the mask files, that is ignored in training
            and in metrics, as 255 is: void, unlabeled. The other classes are counted without it.
        palette: File, relative to `root`, that names the colors of masks in colors: a name and three numbers from 0 to
            255 in each line; `None` looks for `labelmap.txt`, `class_dict.csv` and `label_colors.txt`.
        on_error: What a wrong entry does: `raise` stops the run and lists all of them; `skip` leaves them out,
            counts and lists them, and those images too that cannot be decoded.
        min_box_side: Boxes with a shorter side, in pixels of the file, are left out: slips of the mouse.
        cache: Whether all images are decoded once, into a file in a folder `.lit_cv_cache` beside them.
        test_fraction: Share of the images held out for the test where the source has no splits; in [0, 1).
        value_range: Lowest and highest value of grey images with 16 or 32 bits (TIFF, PNG), which become 0 and 255, for
            files of 12 bits `[0, 4095]`; `None` takes 0 to 65535.
        **kwargs: Arguments of `BaseDataModule`; `classes` chooses those of the boxes.

    Raises:
        FileNotFoundError: If `root` or its annotations are missing.
        AnnotationError: If entries are wrong and `on_error` is `raise`.
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
        targets: Literal["boxes", "mask", "all"] = "all",
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
        check(self, "targets", targets, targets in ("boxes", "mask", "all"), "boxes, mask or all")
        check(self, "on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'")
        check(self, "min_box_side", min_box_side, min_box_side >= 0, "at least 0")
        check(self, "test_fraction", test_fraction, 0 <= test_fraction < 1, "a share in [0, 1)")
        self.canvas: Size | None = None if sides is None else (sides[0], sides[1])
        self.value_range = checked_range(self, value_range)
        self.problems = Problems()
        self._datasets: dict[str, AnnotatedDataset] = {}

    def prepare_data(self) -> None:
        """Check or decode the files in one process, before the others read what it has left."""
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
        return self.load(split)  # `classes` are those of boxes

    def forget(self) -> None:
        """Forget the splits that were made of images without splits."""
        super().forget()
        self._datasets = {}

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Take the images of a split from the cache."""
        wanted = self.hparams["cache"] and isinstance(dataset, AnnotatedDataset)
        return dataset.decoded(split) if wanted and isinstance(dataset, AnnotatedDataset) else dataset

    def class_counts(self) -> Tensor:
        """Return how many images of each class training has, or without classes of images how many boxes, int64."""
        train = self.train_dataset
        if self.class_names:
            return torch.bincount(train.labels[train.labels >= 0], minlength=len(self.class_names))
        classes = len(self.box_classes)
        return train.class_counts(classes) if isinstance(train, AnnotatedDataset) else torch.zeros(classes)

    def object_counts(self) -> Tensor:
        """Return how many objects of each class training has, crowds left out, (len(box_classes),) int64."""
        train = self.train_dataset
        if not isinstance(train, AnnotatedDataset):
            return super().object_counts()
        return train.class_counts(len(self.box_classes), crowds=False)

    def pixel_counts(self) -> Tensor:
        """Return how many pixels of each class training has, (len(mask_classes),) int64; it reads all masks once."""
        train = self.train_dataset
        if not isinstance(train, AnnotatedDataset) or not self.mask_classes:
            return super().pixel_counts()
        return train.pixel_counts(len(self.mask_classes))

    def _read(self) -> dict[str, AnnotationSet]:
        h = self.hparams
        root = Path(h["root"]).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root.absolute()}: set {argument('root', self)}.")
        self.problems = Problems()
        folders = paths_by_split(root, h["images"])
        if missing := [folder for folder in (folders or {}).values() if not folder.is_dir()]:
            raise FileNotFoundError(f"there is no folder {missing[0]}: set {argument('images', self)}.")
        sets = read_annotations(
            root,
            self.problems,
            None if h["format"] == "auto" else h["format"],
            files={"all": root / h["annotations"]}
            if isinstance(h["annotations"], str)
            else paths_by_split(root, h["annotations"]),
            folders=folders,
            sizes=known_sizes,
            mask_facts=lambda paths: known_mask_facts(root, paths),
            masks=MaskOptions(None if h["palette"] is None else root / h["palette"], self._ignored(), h["masks"]),
        )
        if h["on_error"] == "raise":
            self.problems.stop(f" ({setting('on_error', 'skip', self)} leaves them out)")
        else:
            sets = {split: self._without_unreadable(part) for split, part in sets.items()}
            if len(self.problems):
                log.warning("%d entries of the annotations are left out:\n%s", len(self.problems), self.problems)
        if h["classes"] is not None:
            names = next(iter(sets.values())).categories
            chosen = [names[number] for number in class_numbers(h["classes"], names)]
            sets = {split: part.chosen(chosen) for split, part in sets.items()}
        sets = {split: without_small(part, h["min_box_side"]) for split, part in sets.items()}
        learnt = [image for split, part in sets.items() if split in ("train", "all") for image in part.images]
        if learnt and not any(image.objects or image.mask for image in learnt):
            log.warning("None of the %d images to train on has an object or a mask.", len(learnt))
        return sets

    def _ignored(self) -> list[int | str]:
        given = self.hparams["ignore_class"]
        return [] if given is None else given if isinstance(given, list) else [given]

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
        mask = h["targets"] != "boxes" and any(has_masks(part) for part in parts)
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

    def _load_predict(self) -> AnnotatedDataset:
        folder = Path(self.hparams["predict_root"]).expanduser()
        names = find_images(folder)
        if not names:
            what = "are no images in" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(f"there {what} {folder.absolute()}: set {argument('predict_root', self)}.")
        h = self.hparams
        return whole_images(
            folder, names, self.box_classes, self.canvas, h["channels"], self.value_range, h["on_error"] == "skip"
        )

    def _describe(self, train: ImageDataset) -> None:
        super()._describe(train)
        self.image_size = self.canvas
