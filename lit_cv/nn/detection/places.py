"""Image coordinates of the locations of feature maps, and the anchors around them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["cell_boxes", "map_anchors", "map_points", "place_boxes", "published_points"]

_DEEPEST = 32  # stride of a backbone's coarsest map


def map_points(pyramid: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the centers (L, 2), x and y in pixels, of all locations of maps, and their strides (L,)."""
    points, strides = [], []
    for stride, features in pyramid:
        points.append(_grid(features, 0.5, (stride, stride)))
        strides.append(torch.full((len(points[-1]),), float(stride), device=features.device))
    return torch.cat(points), torch.cat(strides)


def published_points(pyramid: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the upper left corners of all locations, which published detectors use, and their strides.

    In maps coarser than the backbone's, the step is the size of the image divided by that of the map, rounded down.
    """
    points, strides, image = [], [], (0, 0)
    for stride, features in pyramid:
        height, width = features.shape[2:]
        if stride <= _DEEPEST:
            image, step = (height * stride, width * stride), (stride, stride)
        else:
            step = (image[0] // height, image[1] // width)
        points.append(_grid(features, 0.0, step))
        strides.append(torch.full((len(points[-1]),), float(stride), device=features.device))
    return torch.cat(points), torch.cat(strides)


def _grid(features: Tensor, offset: float, step: tuple[int, int]) -> Tensor:
    """Return the coordinates (h * w, 2), x and y in pixels, of the locations of a map."""
    height, width = features.shape[2:]
    y = (torch.arange(height, device=features.device) + offset) * step[0]
    x = (torch.arange(width, device=features.device) + offset) * step[1]
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], 2).flatten(0, 1)


def map_anchors(points: Tensor, strides: Tensor, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return anchors around locations, (L * A, 4), grouped by location, where A = number of scales * ratios.

    Args:
        points: (L, 2), x and y in pixels.
        strides: (L,).
        scales: Square roots of the anchors' areas, in strides.
        ratios: Height / width.
    """
    root = torch.tensor(ratios, device=points.device).sqrt()[:, None]
    scale = torch.tensor(scales, device=points.device)
    sides = torch.stack([(scale / root).flatten(), (scale * root).flatten()], 1)  # (A, 2): width, height
    half = sides * strides[:, None, None] / 2
    return torch.cat([points[:, None] - half, points[:, None] + half], 2).flatten(0, 1)


def cell_boxes(sides: Sequence[int], ratios: Sequence[float], device: torch.device) -> Tensor:
    """Return the anchors (A, 4) around the origin in a published detector, rounded to integers.

    Args:
        sides: Square roots of the anchors' areas in pixels.
        ratios: Height / width.
        device: Device of the result.
    """
    root = torch.tensor(ratios, device=device).sqrt()[:, None]
    side = torch.tensor(sides, dtype=torch.float32, device=device)
    half = torch.stack([(1 / root * side).flatten(), (root * side).flatten()], 1) / 2
    return torch.cat([-half, half], 1).round()


def place_boxes(
    points: Tensor, counts: Sequence[int], sides: Sequence[Sequence[int]], ratios: Sequence[float]
) -> Tensor:
    """Return the anchors of a published detector, grouped by location.

    Args:
        points: (L, 2), x and y in pixels.
        counts: Number of locations of each map.
        sides: Square roots of the anchors' areas in pixels, for each map.
        ratios: Height / width.
    """
    anchors = [
        (level_points.repeat(1, 2)[:, None] + cell_boxes(level_sides, ratios, points.device)).flatten(0, 1)
        for level_points, level_sides in zip(torch.split(points, list(counts)), sides, strict=True)
    ]
    return torch.cat(anchors)
