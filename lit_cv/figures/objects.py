"""Images with boxes and masks drawn on them."""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.figures.canvas import BLUE, PALETTE
from lit_cv.figures.fonts import default_font, fonts_with
from lit_cv.figures.images import short_name
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["class_color", "draw_objects", "mask_legend", "object_titles"]

_SIDE = 384  # minimum longer side of drawn images in pixels; in smaller images, boxes would hide the content
_COLORS = (PALETTE[0], BLUE, *PALETTE[1:])


def class_color(number: int) -> tuple[int, int, int]:
    """Return the color of a class as red, green and blue from 0 to 255, the same in every figure."""
    color = _COLORS[number % len(_COLORS)]
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def draw_objects(
    images: Tensor,
    boxes: Sequence[Tensor] | None = None,
    labels: Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    box_classes: Sequence[str] = (),
    mask_classes: Sequence[str] = (),
    scores: Sequence[Tensor] | None = None,
    opacity: float = 0.45,
    object_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Draw labeled boxes and segmentation masks on images.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1].
        boxes: Boxes (k, 4) of each image: left, top, right, bottom in pixels.
        labels: Classes (k,) of the boxes of each image.
        mask: (N, H, W): classes of the pixels; 255, and 0 if it is the background, are not colored. A class has the
            color of the box class of the same name.
        box_classes: Names of the box classes; without them, numbers are shown.
        mask_classes: Names of the pixel classes, from 0.
        scores: Confidences (k,) of the boxes of each image, shown next to the names.
        opacity: Opacity of masks, from 0 to 1.
        object_masks: Masks (k, H, W) bool of the boxes of each image, in the color of their classes; where some
            overlap, the last one is on top.

    Returns:
        (N, 3, h, w) uint8, with a longer side of at least 384 pixels.

    Example:
        >>> drawn = draw_objects(torch.zeros(1, 3, 96, 64), [torch.tensor([[8.0, 8, 40, 40]])], [torch.tensor([0])])
        >>> drawn.shape
        torch.Size([1, 3, 384, 256])
    """
    images = images.detach().cpu()
    if images.dtype != torch.uint8:
        images = images.float().nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    if images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    height, width = images.shape[2:]
    scale = max(1.0, _SIDE / max(height, width))
    size = (round(height * scale), round(width * scale))
    drawn = F.interpolate(images, size, mode="nearest") if scale > 1 else images.clone()
    if mask is not None:
        resized = F.interpolate(mask.detach().cpu()[:, None].float(), size, mode="nearest")[:, 0].long()
        colors = _mask_colors(mask_classes, box_classes)
        drawn = torch.stack([_paint(image, part, colors, opacity) for image, part in zip(drawn, resized, strict=True)])
    if boxes is None:
        return drawn
    if object_masks is not None:
        numbers = labels if labels is not None else [torch.zeros(len(each)).long() for each in boxes]
        layers = zip(drawn, object_masks, numbers, strict=True)
        drawn = torch.stack([_paint_objects(*layer, size, opacity) for layer in layers])
    outlined = []
    for position, image in enumerate(drawn):
        kinds = labels[position].tolist() if labels is not None else [0] * len(boxes[position])
        names = [short_name(box_classes[k] if k < len(box_classes) else k) for k in kinds]
        if scores is not None:
            names = [f"{name} {score:.2f}" for name, score in zip(names, scores[position].tolist(), strict=True)]
        corners = boxes[position].detach().cpu().float() * scale
        outlined.append(_outline(image, corners, kinds, names if labels is not None or scores is not None else None))
    return torch.stack(outlined)


def mask_legend(
    masks: Sequence[Tensor | None], mask_classes: Sequence[str] = (), box_classes: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return the names and colors of the classes that `draw_objects` colors in masks.

    Args:
        masks: Masks (N, H, W) of the figure; `None` is skipped.
        mask_classes: Names of the pixel classes, from 0; without them, numbers are shown.
        box_classes: Names of the box classes, whose colors pixel classes of the same name have.

    Example:
        >>> mask_legend([torch.tensor([[[0, 2, 255]]])], ["background", "cell", "nucleus"])
        [('nucleus', '#3b76af')]
    """
    colors = _mask_colors(mask_classes, box_classes)
    present = sorted({number for mask in masks if mask is not None for number in torch.unique(mask).tolist()})
    return [
        (
            short_name(mask_classes[number] if number < len(mask_classes) else number),
            "#{:02x}{:02x}{:02x}".format(*colors[number]),
        )
        for number in present
        if number in colors
    ]


def _mask_colors(mask_classes: Sequence[str], box_classes: Sequence[str]) -> dict[int, tuple[int, int, int]]:
    names = list(mask_classes)
    first = 1 if not names or names[0] == "background" else 0
    numbers = range(first, len(names) or IGNORE_INDEX)
    box_numbers = {name: number for number, name in enumerate(box_classes)}
    return {n: class_color(box_numbers.get(names[n], n - first) if n < len(names) else n - first) for n in numbers}


def _paint(image: Tensor, mask: Tensor, colors: dict[int, tuple[int, int, int]], opacity: float) -> Tensor:
    from torchvision.utils import draw_segmentation_masks

    present = [number for number in torch.unique(mask).tolist() if number in colors]
    if not present:
        return image
    planes = torch.stack([mask == number for number in present])
    painted: Tensor = draw_segmentation_masks(image, planes, opacity, [colors[number] for number in present])
    return painted


def _paint_objects(image: Tensor, masks: Tensor, kinds: Tensor, size: tuple[int, int], opacity: float) -> Tensor:
    """Color the pixels of objects; where objects overlap, the last one is on top."""
    if not masks.any():
        return image
    planes = F.interpolate(masks.detach().cpu()[None].float(), size, mode="nearest")[0].bool()
    layer = image.float()
    for plane, kind in zip(planes, kinds.tolist(), strict=True):
        layer[:, plane] = torch.tensor(class_color(kind), dtype=torch.float32)[:, None]
    return image.float().lerp(layer, opacity).round().to(torch.uint8)


def _outline(image: Tensor, corners: Tensor, kinds: Sequence[int], names: list[str] | None) -> Tensor:
    from torchvision.utils import draw_bounding_boxes

    if not len(corners):
        return image
    # torchvision cannot draw empty boxes, which a model may predict.
    corners = torch.cat([corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2] + 1)], 1)
    shown_names = names if names is not None and len(names) <= 25 else None
    colors = [class_color(kind) for kind in kinds]
    style = {"font": _font("".join(names or ())), "font_size": 11, "fill_labels": True}
    style |= {"label_colors": "white", "label_background_colors": colors}
    options = style if shown_names else {}
    outlined: Tensor = draw_bounding_boxes(image, corners, shown_names, colors, width=2, **options)
    return outlined


@cache
def _font(text: str) -> str:
    """Return the path of a font for a text: the default one, or one with characters that it lacks."""
    from matplotlib.ft2font import FT2Font

    default = default_font()
    charmap = FT2Font(default).get_charmap()
    others = fonts_with({letter for letter in text if ord(letter) not in charmap})
    return others[0][1] if others else default


def object_titles(
    boxes: Sequence[Tensor] | None,
    labels: Sequence[Tensor] | None,
    mask: Tensor | None,
    box_classes: Sequence[str] = (),
    mask_classes: Sequence[str] = (),
    count: int = 0,
) -> list[str]:
    """Return a title for each image: the number of objects of each class, or the classes of its pixels.

    Args:
        boxes: Boxes (k, 4) of each image.
        labels: Classes (k,) of the boxes of each image.
        mask: (N, H, W), classes of the pixels.
        box_classes: Names of the box classes.
        mask_classes: Names of the pixel classes.
        count: Number of images.

    Example:
        >>> object_titles([torch.zeros(3, 4)], [torch.tensor([1, 0, 1])], None, ["cell", "nucleus"], count=1)
        ['2 nucleus, 1 cell']
    """
    titles = []
    for position in range(count):
        if boxes is not None and labels is not None:
            kinds, numbers = torch.unique(labels[position], return_counts=True)
            order = numbers.argsort(descending=True, stable=True).tolist()
            named = [(int(numbers[i]), _name(int(kinds[i]), box_classes)) for i in order]
            titles.append(_shortened([f"{number} {name}" for number, name in named], 4) or "no objects")
        elif mask is not None:
            present = [number for number in torch.unique(mask[position]).tolist() if number != IGNORE_INDEX]
            titles.append(_shortened([_name(number, mask_classes) for number in present], 5) or "unlabeled")
    return titles


def _shortened(parts: list[str], most: int) -> str:
    """Return the first parts, separated by commas, and "…" for the others."""
    return ", ".join([*parts[:most], *(["…"] if len(parts) > most else [])])


def _name(number: int, names: Sequence[str]) -> str:
    return short_name(names[number] if number < len(names) else number, 14)
