"""Images with their boxes and masks drawn in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cv.figures.canvas import PALETTE

__all__ = ["class_colors", "draw_objects"]

_SIDE = 360  # pixels that the longer side of a picture has at least
_OPAQUE = 0.5  # of masks
_COLORS = ("#3b76af", *PALETTE)


def class_colors(count: int) -> list[str]:
    """Return a color for each class, which repeat after nine."""
    return [_COLORS[index % len(_COLORS)] for index in range(count)]


def draw_objects(
    image: Tensor,
    boxes: Tensor | None = None,
    labels: Tensor | None = None,
    scores: Tensor | None = None,
    mask: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> Tensor:
    """Draw boxes and masks into an image; small images are enlarged before.

    Args:
        image: (C, H, W), uint8 or float in [0, 1]; the first channel alone is shown unless there are 3.
        boxes: (n, 4), xyxy in pixels.
        labels: (n,) int64, classes of the boxes, which tell their colors.
        scores: (n,) how sure a model is of them, written beside their classes.
        mask: (H, W) int64, classes of the pixels; 0, usually the background, and 255 stay clear.
        class_names: Names of the classes of the boxes; numbers stand in for them when there are none.

    Returns:
        (3, H * f, W * f) uint8, f a whole number.

    Example:
        >>> image, boxes = torch.zeros(3, 60, 90, dtype=torch.uint8), torch.tensor([[10.0, 10.0, 50.0, 40.0]])
        >>> draw_objects(image, boxes, torch.tensor([0]), class_names=["cell"]).shape
        torch.Size([3, 240, 360])
    """
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    if image.dtype != torch.uint8:
        image = image.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    picture = (image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)).cpu()
    factor = max(1, round(_SIDE / max(picture.shape[1:])))
    picture = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if mask is not None:
        large = mask.cpu().repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        kinds = [kind for kind in torch.unique(large).tolist() if kind not in (0, 255)]
        if kinds:
            colors = class_colors(max(kinds))
            layers = torch.stack([large == kind for kind in kinds])
            picture = draw_segmentation_masks(picture, layers, _OPAQUE, [colors[kind - 1] for kind in kinds])
    if boxes is not None and len(boxes):
        kinds = [0] * len(boxes) if labels is None else labels.tolist()
        colors = [class_colors(max(kinds) + 1)[kind] for kind in kinds]
        titles = [_title(kind, score, class_names) for kind, score in zip(kinds, _listed(scores, kinds), strict=True)]
        picture = draw_bounding_boxes(
            picture,
            boxes.cpu().float() * factor,
            titles,
            colors,
            width=2,
            font=_font(),
            font_size=11,
            label_colors="white",
            fill_labels=True,
        )
    return picture


def _listed(scores: Tensor | None, like: Sequence[int]) -> list[float | None]:
    return [None] * len(like) if scores is None else scores.tolist()


def _title(kind: int, score: float | None, names: Sequence[str] | None) -> str:
    name = names[kind] if names is not None and kind < len(names) else str(kind)
    return name if score is None else f"{name} {score:.2f}"


def _font() -> str:
    """Return the path of the font that comes with matplotlib."""
    import matplotlib

    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
