"""Figure of a batch and text summary of a DataModule."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from datamodules.dataset import ImageDataset
from lit_cv.figures import draw_objects, image_grid, label_titles, object_titles, render, save_png
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_batch", "summarize"]


class Described(Protocol):
    """The parts of a DataModule that are shown; see `datamodules.base.BaseDataModule`."""

    train_dataset: ImageDataset
    unlabeled_dataset: ImageDataset
    val_dataset: ImageDataset | None
    test_dataset: ImageDataset | None
    predict_dataset: ImageDataset | None
    num_classes: int | None
    class_names: list[str]
    box_classes: list[str]
    mask_classes: list[str]
    image_size: tuple[int, int] | None
    in_channels: int
    multi_label: bool | None

    def prepare_data(self) -> None:
        """Download missing data."""

    def setup(self) -> None:
        """Load the images."""


def _datasets(datamodule: Described) -> dict[str, ImageDataset | None]:
    datamodule.prepare_data()
    datamodule.setup()
    return {
        "train": datamodule.unlabeled_dataset,
        "val": datamodule.val_dataset,
        "test": datamodule.test_dataset,
        "predict": datamodule.predict_dataset,
    }


def draw_batch(datamodule: Described, split: str, n: int, path: str | Path | None) -> "Figure":
    """Draw a fixed random choice of images of a split with their labels.

    Args:
        datamodule: DataModule of the images.
        split: Split of the images.
        n: Maximum number of images.
        path: PNG file to write.

    Raises:
        ValueError: If there are no such images.
    """
    dataset = _datasets(datamodule).get(split)
    if dataset is None or len(dataset) == 0 or n < 1:
        raise ValueError(f"{type(datamodule).__name__} has no {split!r} images to show (n={n}).")
    chosen = np.random.RandomState(0).permutation(len(dataset))[:n]
    batch = dataset.__getitems__(chosen.tolist())
    heading = f"{type(datamodule).__name__}: {split}"
    boxes, labels, mask = batch.get("boxes"), batch.get("box_labels"), batch.get("mask")
    titles = label_titles(batch["label"], datamodule.class_names)
    if boxes is None and mask is None:
        figure = image_grid(batch["image"], titles, heading)
    else:
        names = (datamodule.box_classes, datamodule.mask_classes)
        objects = object_titles(boxes, labels, mask, *names, count=len(chosen))
        labeled = [label >= 0 for label in batch["label"].tolist()]
        titles = [f"{t}: {o}" if has_label else o for t, o, has_label in zip(titles, objects, labeled, strict=True)]
        drawn = draw_objects(batch["image"], boxes, labels, mask, *names, object_masks=batch.get("masks"))
        figure = image_grid(drawn, titles, heading, columns=4, cell=3.2)
    if path is not None:
        save_png(render(figure), path)
    return figure


def summarize(datamodule: Described) -> str:
    """Return the sizes of the splits, the classes and the image size, in a few lines."""
    sizes = {name: len(dataset) for name, dataset in _datasets(datamodule).items() if dataset is not None}
    labeled = len(datamodule.train_dataset)
    splits = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    if labeled < sizes["train"]:
        splits += f" ({labeled:,} of train with labels)"
    names = datamodule.class_names
    shown = _few(names)
    targets = {"boxes": datamodule.box_classes, "masks": datamodule.mask_classes}
    objects = [f"{name} of {len(named)} classes: {_few(named)}" for name, named in targets.items() if named]
    size = " x ".join(map(str, datamodule.image_size)) if datamodule.image_size else "any size in"
    kind = "labels, several per image" if datamodule.multi_label else "classes"
    classes = [f"{datamodule.num_classes or 'no'} {kind}: {shown}"] if names or not objects else []
    lines = "\n".join([*classes, *objects])
    return f"{type(datamodule).__name__}: {splits} images\n{lines}\n{datamodule.in_channels} x {size} pixels"


def _few(names: list[str]) -> str:
    return printable(", ".join(names[:10]), lines=False) + (", …" if len(names) > 10 else "")
