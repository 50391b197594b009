"""Your own annotated images: boxes and masks in the formats that annotation tools write."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.annotated_dataset import AnnotatedDataset, Size
from datamodules.base import BaseDataModule, Split
from datamodules.cache import inspected, unreadable_files
from datamodules.checks import check
from datamodules.classes import class_numbers
from datamodules.dataset import ImageDataset
from datamodules.images import image_size
from datamodules.splits import hold_out
from lit_cv.annotations import AnnotatedImage, AnnotationSet, Problems, check_set
from lit_cv.annotations.formats import FORMATS, find_format, read_annotations

__all__ = ["AnnotatedImagesDataModule"]

log = logging.getLogger("lit_cv")


class AnnotatedImagesDataModule(BaseDataModule):
    """Images with boxes or masks, as annotation tools write them.

    `root` holds annotations in one of these layouts:

    - `voc`: Pascal VOC, `Annotations/*.xml`, `JPEGImages/*`, lists `ImageSets/Main/{train,val,test}.txt`; or XML files
      beside the images, in folders `train`, `valid`, `test` or without splits.

    Where there are no splits, `test` and `val` are held out. All entries are checked when they are read: boxes
    outside the image or of no area, unknown categories, missing images, images of another size, doubles.

    Batches are those of `AnnotatedDataset`: `image`, `size`, `scale`, and `boxes`, `box_labels`, `iscrowd`, `mask`
    where they are annotated. Boxes are in pixels of the batch's image: divided by `scale` in those of the file.

    Args:
        root: The folder.
        format: Its layout; `auto` finds out.
        image_size: Height and width of the images in a batch, one number for squares: each image is resized, its
            aspect ratio kept, with antialiasing, and padded at the right and at the bottom. `None` keeps the sizes
            of the images, and pads to the largest in a batch, rounded up to a multiple of 32.
        channels: 3 for color, 1 for grey.
        targets: What batches have: `boxes`, `mask`, or `all` that is annotated.
        on_error: What a wrong entry does: `raise` stops the run and lists all of them; `skip` leaves them out,
            counts and lists them, and those images too that cannot be decoded.
        min_box_side: Boxes with a shorter side, in pixels of the file, are left out: slips of the mouse.
        cache: Whether all images are decoded once, into a file in a folder `.lit_cv_cache` beside them.
        test_fraction: Share of the images held out for the test where the source has no splits; in [0, 1).
        **kwargs: Arguments of `BaseDataModule`; `classes` chooses those of the boxes.

    Raises:
        FileNotFoundError: If `root` or its annotations are missing.
        AnnotationError: If entries are wrong and `on_error` is `raise`.
    """

    def __init__(
        self,
        root: str = "data",
        format: Literal["auto", "voc"] = "auto",
        image_size: int | list[int] | None = 640,
        channels: Literal[1, 3] = 3,
        targets: Literal["boxes", "mask", "all"] = "all",
        on_error: Literal["raise", "skip"] = "raise",
        min_box_side: float = 0.0,
        cache: bool = False,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sides = image_size if isinstance(image_size, list) else [image_size] * 2 if image_size is not None else None
        positive = sides is None or (len(sides) == 2 and all(isinstance(s, int) and s >= 1 for s in sides))
        check("image_size", image_size, positive, "a number of pixels, [height, width], or null")
        check("format", format, format in ("auto", *FORMATS), f"auto or one of {', '.join(FORMATS)}")
        check("channels", channels, channels in (1, 3), "1 or 3")
        check("targets", targets, targets in ("boxes", "mask", "all"), "boxes, mask or all")
        check("on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'")
        check("min_box_side", min_box_side, min_box_side >= 0, "at least 0")
        check("test_fraction", test_fraction, 0 <= test_fraction < 1, "in [0, 1)")
        self.canvas: Size | None = None if sides is None else (sides[0], sides[1])
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
        return self._datasets.get(split)

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Take the images of a split from the cache."""
        wanted = self.hparams["cache"] and isinstance(dataset, AnnotatedDataset)
        return dataset.decoded(split) if wanted and isinstance(dataset, AnnotatedDataset) else dataset

    def class_counts(self) -> Tensor:
        """Return how many boxes of each class training has, (classes,) int64."""
        train = self.train_dataset
        classes = len(self.box_classes)
        return train.class_counts(classes) if isinstance(train, AnnotatedDataset) else torch.zeros(classes)

    def _read(self) -> dict[str, AnnotationSet]:
        h = self.hparams
        root = Path(h["root"]).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root.absolute()}: set --data.root.")
        self.problems = Problems()
        kind = find_format(root) if h["format"] == "auto" else h["format"]
        sets = read_annotations(root, kind, self.problems)
        sets = {split: check_set(part, _sizes_of_files(part), self.problems) for split, part in sets.items()}
        if h["on_error"] == "raise":
            self.problems.stop(" (--data.on_error skip leaves them out)")
        else:
            sets = {split: self._without_unreadable(part) for split, part in sets.items()}
            if len(self.problems):
                log.warning("%d entries of the annotations are left out:\n%s", len(self.problems), self.problems)
        if h["classes"] is not None:
            names = next(iter(sets.values())).categories
            chosen = [names[number] for number in class_numbers(h["classes"], names)]
            sets = {split: part.chosen(chosen) for split, part in sets.items()}
        return {split: _without_small(part, h["min_box_side"]) for split, part in sets.items()}

    def _without_unreadable(self, part: AnnotationSet) -> AnnotationSet:
        broken = unreadable_files(part.folder, [image.name for image in part.images])
        for name, reason in broken.items():
            self.problems.add(part.folder / name, "", f"cannot be decoded: {reason}")
        return replace(part, images=[image for image in part.images if image.name not in broken])

    def _make_datasets(self, sets: dict[str, AnnotationSet]) -> dict[str, AnnotatedDataset]:
        h = self.hparams
        parts = list(sets.values())
        crowds = any(item.crowd for part in parts for image in part.images for item in image.objects)
        boxes = h["targets"] != "mask" and bool(parts[0].categories)
        self.box_classes = list(parts[0].categories) if boxes else []
        datasets = {
            split: AnnotatedDataset(part, self.canvas, h["channels"], boxes=boxes, crowds=crowds)
            for split, part in sets.items()
        }
        if "all" in datasets:
            pool = datasets.pop("all")
            kept, held = hold_out(pool.strata, h["test_fraction"], h["split_seed"], purpose=2)
            datasets["train"] = pool.subset(kept)
            if len(held):
                datasets["test"] = pool.subset(held)
        return datasets

    def _describe(self, train: ImageDataset) -> None:
        super()._describe(train)
        self.image_size = self.canvas


def _sizes_of_files(part: AnnotationSet) -> list[tuple[int, int] | str]:
    def look(name: str) -> list[int] | str:
        try:
            return list(image_size(part.folder / name))
        except FileNotFoundError:
            return "there is no such file"
        except OSError as error:
            return str(error)

    found = inspected(part.folder, [image.name for image in part.images], "sizes", look, "Looking at images")
    return [size if isinstance(size, str) else (size[0], size[1]) for size in found]


def _without_small(part: AnnotationSet, side: float) -> AnnotationSet:
    def keep(image: AnnotatedImage) -> AnnotatedImage:
        objects = [o for o in image.objects if min(o.box[2] - o.box[0], o.box[3] - o.box[1]) >= side]
        return replace(image, objects=objects)

    return replace(part, images=[keep(image) for image in part.images]) if side > 0 else part
