"""Where in an image the places of feature maps are, and the boxes around them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["cell_boxes", "map_anchors", "map_points", "place_boxes", "published_points"]

_DEEPEST = 32  # stride of a backbone's coarsest map


def map_points(pyramid: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the centers (L, 2), x and y in pixels, of all places of maps with their strides, and the strides (L,)."""
    points, strides = [], []
    for stride, features in pyramid:
        points.append(_grid(features, 0.5, (stride, stride)))
        strides.append(torch.full((len(points[-1]),), float(stride), device=features.device))
    return torch.cat(points), torch.cat(strides)


def published_points(pyramid: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the same as `map_points` for a published detector, which takes the upper left corners of places.

    In maps coarser than the backbone's a step is the share of the image that a place has, in whole pixels.
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
    """Return the positions (h * w, 2), x and y in pixels, of the places of a map."""
    height, width = features.shape[2:]
    y = (torch.arange(height, device=features.device) + offset) * step[0]
    x = (torch.arange(width, device=features.device) + offset) * step[1]
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], 2).flatten(0, 1)


def map_anchors(points: Tensor, strides: Tensor, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return boxes around places: A = scales times ratios each, (L * A, 4), all of a place one after another.

    Args:
        points: (L, 2), x and y in pixels.
        strides: (L,).
        scales: Square roots of the boxes' areas, in strides.
        ratios: Height / width.
    """
    root = torch.tensor(ratios, device=points.device).sqrt()[:, None]
    scale = torch.tensor(scales, device=points.device)
    sides = torch.stack([(scale / root).flatten(), (scale * root).flatten()], 1)  # (A, 2): width, height
    half = sides * strides[:, None, None] / 2
    return torch.cat([points[:, None] - half, points[:, None] + half], 2).flatten(0, 1)


def cell_boxes(sides: Sequence[int], ratios: Sequence[float], device: torch.device) -> Tensor:
    """Return the boxes (A, 4) of a place at the origin in a published detector, in whole pixels.

    Args:
        sides: Square roots of the boxes' areas in pixels.
        ratios: Height / width.
        device: Where they are wanted.
    """
    root = torch.tensor(ratios, device=device).sqrt()[:, None]
    side = torch.tensor(sides, dtype=torch.float32, device=device)
    half = torch.stack([(1 / root * side).flatten(), (root * side).flatten()], 1) / 2
    return torch.cat([-half, half], 1).round()


def place_boxes(
    points: Tensor, counts: Sequence[int], sides: Sequence[Sequence[int]], ratios: Sequence[float]
) -> Tensor:
    """Return the anchors of a published detector, all of a place one after another.

    Args:
        points: (L, 2), x and y in pixels.
        counts: Places of each map.
        sides: Square roots of the anchors' areas in pixels, for each map.
        ratios: Height / width.
    """
    placed = [
        (own.repeat(1, 2)[:, None] + cell_boxes(side, ratios, points.device)).flatten(0, 1)
        for own, side in zip(torch.split(points, list(counts)), sides, strict=True)
    ]
    return torch.cat(placed)
