"""Predicted boxes and masks as annotation files, to be corrected in an annotation tool."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cv.annotations import AnnotatedImage, AnnotatedObject, AnnotationSet, save_mask, writers
from lit_cv.annotations.layout import inside, make_folder
from lit_cv.annotations.rle import encode_rle, outline_area, resize_nearest
from lit_cv.atomic_files import create_folder, write_text

__all__ = ["BoxDrafts", "MaskDrafts", "box_uncertainty", "file_sizes_of"]

_Boxes = tuple[int, int, int, Tensor, Tensor, Tensor, list[dict[str, Any]]]
_MIN_SCORE = 0.1  # boxes below this score do not count toward the uncertainty


def file_sizes_of(batch: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each image its size in the batch, the size of its file and the scale between them, (N, 2) each.

    Args:
        batch: The batch. Without `size` and `scale`, images fill the batch and have the size of their files.
        count: Number of images.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("scale"), Tensor) and isinstance(batch.get("size"), Tensor):
        size, scale = batch["size"].cpu(), batch["scale"].cpu()
        return size, (size / scale).round().long(), scale
    images = batch["image"] if isinstance(batch, Mapping) else batch
    size = torch.tensor([list(images.shape[-2:])]).expand(count, 2)
    return size, size, torch.ones(count, 2)


def box_uncertainty(scores: Tensor) -> float:
    """Return the uncertainty of an image's boxes: the mean of 1 - |2 s - 1| over their scores s of at least 0.1.

    Example:
        >>> box_uncertainty(torch.tensor([0.5, 1.0, 0.01])), box_uncertainty(torch.tensor([]))
        (0.5, 0.0)
    """
    likely = scores[scores >= _MIN_SCORE]
    return float((1 - (2 * likely - 1).abs()).mean()) if len(likely) else 0.0


class BoxDrafts:
    """Collects predicted boxes and writes them as COCO, VOC or YOLO files.

    `parts` holds for each image its position in the dataset, height and width of its file, and boxes (k, 4) in file
    pixels, classes and scores (k,), and the run-length encodings of k masks, or none.
    """

    def __init__(self) -> None:
        self.parts: list[_Boxes] = []

    def add(self, outputs: Mapping[str, Any], batch: Any, index: Tensor) -> None:
        """Add the predictions of a batch in pixels of the batch: lists `boxes`, `box_labels`, `scores`.

        A list `object_masks` is optional.
        """
        sizes, files, scales = file_sizes_of(batch, len(index))
        masks = outputs.get("object_masks")
        for position, number in enumerate(index.tolist()):
            height, width = files[position].tolist()
            boxes = outputs["boxes"][position].detach().float().cpu() / scales[position].flip(0).repeat(2)
            boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
            labels, scores = (outputs[key][position].detach().cpu() for key in ("box_labels", "scores"))
            y, x = sizes[position].tolist()
            pixels = () if masks is None else masks[position][:, :y, :x].detach().cpu().numpy()
            outlines = [encode_rle(resize_nearest(mask, (height, width))) for mask in pixels]
            self.parts.append((number, height, width, boxes, labels, scores.float(), outlines))

    def write(
        self,
        parts: Sequence[_Boxes],
        names: Mapping[int, str],
        images: Path,
        categories: Sequence[str],
        folder: Path,
        format: str,
        threshold: float,
        unsure_first: bool,
        shown: Callable[[str], str] = str,
    ) -> tuple[int, int]:
        """Write the images with their boxes above the threshold, and `order.csv` with the uncertainty of each image.

        Args:
            parts: `parts` of all ranks.
            names: Name of each image by its position in the dataset.
            images: Folder of the images.
            categories: Names of the classes; numbers are added for further ones.
            folder: Output folder.
            format: `coco`, `voc` or `yolo`.
            threshold: Minimum score of a box.
            unsure_first: Whether to order images by decreasing uncertainty instead of dataset order.
            shown: Function that converts names for `order.csv`.

        Returns:
            Numbers of written images and boxes.
        """
        by_index = {part[0]: part for part in parts}  # drops repeated images that pad the last batches
        uncertainty = {number: box_uncertainty(part[5]) for number, part in by_index.items()}
        order = (
            sorted(by_index, key=lambda number: (-uncertainty[number], number)) if unsure_first else sorted(by_index)
        )
        count = max((int(part[4].max()) + 1 for part in by_index.values() if len(part[4])), default=0)
        classes = [*categories, *(str(number) for number in range(len(categories), count))]
        annotated = [_image(by_index[number], names[number], threshold) for number in order]
        writers()[format]({"all": AnnotationSet(images, classes, annotated)}, folder)
        rows = [(shown(i.name), f"{uncertainty[n]:.4f}", len(i.objects)) for n, i in zip(order, annotated, strict=True)]
        _write_order(folder / "order.csv", ("image", "uncertainty", "objects"), rows)
        return len(annotated), sum(len(image.objects) for image in annotated)


def _image(part: _Boxes, name: str, threshold: float) -> AnnotatedImage:
    number, height, width, boxes, labels, scores, outlines = part
    image = AnnotatedImage(name, height, width, id=number + 1)
    for position in scores.argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = (round(value, 2) for value in boxes[position].tolist())
        if float(scores[position]) >= threshold and right > left and bottom > top:
            score = min(1.0, float(scores[position]))
            outline = outlines[position] if outlines and outline_area(outlines[position]) else None
            box = (left, top, right, bottom)
            image.objects.append(AnnotatedObject(int(labels[position]), box, outline, score=score))
    return image


class MaskDrafts:
    """Writes predicted class masks as PNG files during prediction.

    `parts` holds for each image its position in the dataset and its uncertainty (NaN if unknown).
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, float]] = []

    def add(
        self, outputs: Mapping[str, Any], batch: Any, index: Tensor, names: Mapping[int, str], folder: Path
    ) -> None:
        """Write the masks of a batch, `masks` (N, H, W), and store their `confidence` if available."""
        size, files, _ = file_sizes_of(batch, len(index))
        confidence = outputs.get("confidence")
        for position, number in enumerate(index.tolist()):
            (y, x), (height, width) = size[position].tolist(), files[position].tolist()
            mask = outputs["masks"][position, :y, :x].detach().cpu().numpy()
            path = inside(folder / "masks", names[number]).with_suffix(".png")
            make_folder(path.parent, create_folder(folder))
            save_mask(resize_nearest(mask, (height, width)), path)
            uncertainty = float("nan")
            if confidence is not None:
                values = confidence[position]
                uncertainty = 1 - float(values[:y, :x].float().mean() if values.ndim == 2 else values)
            self.parts.append((number, uncertainty))

    def write(
        self,
        parts: Sequence[tuple[int, float]],
        names: Mapping[int, str],
        classes: Sequence[str],
        folder: Path,
        unsure_first: bool,
        shown: Callable[[str], str] = str,
    ) -> int:
        """Write the class names and `order_masks.csv`, and return the number of images."""
        uncertainty = dict(parts)
        by_uncertainty = unsure_first and all(value == value for value in uncertainty.values())
        order = sorted(uncertainty, key=lambda number: (-uncertainty[number] if by_uncertainty else 0, number))
        if classes:
            write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes), "the class names")
        rows = [(shown(names[n]), "" if uncertainty[n] != uncertainty[n] else f"{uncertainty[n]:.4f}") for n in order]
        _write_order(folder / "order_masks.csv", ("image", "uncertainty"), rows)
        return len(order)


def _write_order(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    write_text(path, text.getvalue(), "the table")
