"""Predicted boxes and masks as annotation files: drafts that an annotation tool opens, and people correct."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cv.annotations import AnnotatedImage, AnnotatedObject, AnnotationSet, save_mask, writers
from lit_cv.annotations.layout import inside, make_folder
from lit_cv.annotations.rle import nearest
from lit_cv.atomic_files import create_folder, write_text

__all__ = ["BoxDrafts", "MaskDrafts", "box_uncertainty", "file_sizes_of"]

_DOUBT = 0.1  # score below which a box does not count as a doubt


def file_sizes_of(batch: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each image its size in the batch, that of its file, and the scale between them, (N, 2) each.

    Args:
        batch: The batch: with `size` and `scale`, otherwise images fill it and are those of the files.
        count: Number of images.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("scale"), Tensor) and isinstance(batch.get("size"), Tensor):
        size, scale = batch["size"].cpu(), batch["scale"].cpu()
        return size, (size / scale).round().long(), scale
    images = batch["image"] if isinstance(batch, Mapping) else batch
    size = torch.tensor([list(images.shape[-2:])]).expand(count, 2)
    return size, size, torch.ones(count, 2)


def box_uncertainty(scores: Tensor) -> float:
    """Return how unsure the boxes of an image are: the mean of 1 - |2 s - 1| over their scores s of 0.1 and more.

    Example:
        >>> box_uncertainty(torch.tensor([0.5, 1.0, 0.01])), box_uncertainty(torch.tensor([]))
        (0.5, 0.0)
    """
    likely = scores[scores >= _DOUBT]
    return float((1 - (2 * likely - 1).abs()).mean()) if len(likely) else 0.0


class BoxDrafts:
    """Collects predicted boxes, and writes them as COCO, VOC or YOLO files.

    `parts` holds for each image its position in the dataset, height and width of its file, and boxes (k, 4) in pixels
    of the file, classes and scores (k,).
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, int, int, Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Any], batch: Any, index: Tensor) -> None:
        """Take in what was predicted for a batch: lists `boxes`, `box_labels` and `scores`, in its images' pixels."""
        _, files, scales = file_sizes_of(batch, len(index))
        for position, number in enumerate(index.tolist()):
            height, width = files[position].tolist()
            boxes = outputs["boxes"][position].detach().float().cpu() / scales[position].flip(0).repeat(2)
            boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
            labels, scores = (outputs[key][position].detach().cpu() for key in ("box_labels", "scores"))
            self.parts.append((number, height, width, boxes, labels, scores.float()))

    def write(
        self,
        parts: Sequence[tuple[int, int, int, Tensor, Tensor, Tensor]],
        names: Mapping[int, str],
        images: Path,
        categories: Sequence[str],
        folder: Path,
        format: str,
        threshold: float,
        unsure_first: bool,
        shown: Callable[[str], str] = str,
    ) -> tuple[int, int]:
        """Write the images with the boxes from the threshold on, and `order.csv` with how unsure each image is.

        Args:
            parts: What all processes have collected.
            names: Name of each image by its position in the dataset.
            images: Folder of the images.
            categories: Names of the classes; numbers are added where they do not suffice.
            folder: The folder to write.
            format: `coco`, `voc` or `yolo`.
            threshold: Least score of a box.
            unsure_first: Whether the least certain images come first, not those of the dataset's order.
            shown: What names are written as in `order.csv`.

        Returns:
            Numbers of images and of boxes written.
        """
        by_index = {part[0]: part for part in parts}  # images that pad the last batches fall together
        doubts = {number: box_uncertainty(part[5]) for number, part in by_index.items()}
        order = sorted(by_index, key=lambda number: (-doubts[number], number)) if unsure_first else sorted(by_index)
        most = max((int(part[4].max()) + 1 for part in by_index.values() if len(part[4])), default=0)
        classes = [*categories, *(str(number) for number in range(len(categories), most))]
        found = [_image(by_index[number], names[number], threshold) for number in order]
        writers()[format]({"all": AnnotationSet(images, classes, found)}, folder)
        rows = [(shown(i.name), f"{doubts[n]:.4f}", len(i.objects)) for n, i in zip(order, found, strict=True)]
        _write_order(folder / "order.csv", ("image", "uncertainty", "objects"), rows)
        return len(found), sum(len(image.objects) for image in found)


def _image(part: tuple[int, int, int, Tensor, Tensor, Tensor], name: str, threshold: float) -> AnnotatedImage:
    number, height, width, boxes, labels, scores = part
    image = AnnotatedImage(name, height, width, id=number + 1)
    for position in scores.argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = (round(value, 2) for value in boxes[position].tolist())
        if float(scores[position]) >= threshold and right > left and bottom > top:
            score = min(1.0, float(scores[position]))
            image.objects.append(AnnotatedObject(int(labels[position]), (left, top, right, bottom), score=score))
    return image


class MaskDrafts:
    """Writes predicted class masks as PNG files as they come.

    `parts` holds for each image its position in the dataset and how unsure it is (NaN if that is not known).
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, float]] = []

    def add(
        self, outputs: Mapping[str, Any], batch: Any, index: Tensor, names: Mapping[int, str], folder: Path
    ) -> None:
        """Write the masks of a batch, `masks` (N, H, W), and take in their `confidence` if there is one."""
        size, files, _ = file_sizes_of(batch, len(index))
        confidence = outputs.get("confidence")
        for position, number in enumerate(index.tolist()):
            (y, x), (height, width) = size[position].tolist(), files[position].tolist()
            mask = outputs["masks"][position, :y, :x].detach().cpu().numpy()
            path = inside(folder / "masks", names[number]).with_suffix(".png")
            make_folder(path.parent, create_folder(folder))
            save_mask(nearest(mask, (height, width)), path)
            doubt = float("nan")
            if confidence is not None:
                own = confidence[position]
                doubt = 1 - float(own[:y, :x].float().mean() if own.ndim == 2 else own)
            self.parts.append((number, doubt))

    def write(
        self,
        parts: Sequence[tuple[int, float]],
        names: Mapping[int, str],
        classes: Sequence[str],
        folder: Path,
        unsure_first: bool,
        shown: Callable[[str], str] = str,
    ) -> int:
        """Write the classes' names and `order_masks.csv`, and return the number of images."""
        doubts = dict(parts)
        known = unsure_first and all(doubt == doubt for doubt in doubts.values())
        order = sorted(doubts, key=lambda number: (-doubts[number] if known else 0, number))
        if classes:
            write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes), "the classes' names")
        rows = [(shown(names[n]), "" if doubts[n] != doubts[n] else f"{doubts[n]:.4f}") for n in order]
        _write_order(folder / "order_masks.csv", ("image", "uncertainty"), rows)
        return len(order)


def _write_order(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    write_text(path, text.getvalue(), "the table")
