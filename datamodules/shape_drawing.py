"""Batched drawing of generated images from the signed distance of each pixel to the edges of shapes."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.shape_scenes import CLASSES, Domain, Scenes

__all__ = ["DISTANCES", "draw_shapes"]

_PIXELS = 1 << 16  # drawn at once, to fit into a core's cache
_NOISE = 0.11  # standard deviation


def _polygon_planes(x: Tensor, y: Tensor, corners: int, apothem: float, turn: float) -> list[Tensor]:
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    return [x * math.cos(angle) + (y * math.sin(angle) - apothem) for angle in angles]


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    first, second, third = _polygon_planes(x, y, 3, 0.5, math.pi / 2)
    return torch.maximum(torch.maximum(first, second), third)


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Return the second largest of five distances to lines: at most one is positive inside a pentagram."""
    first, *others = _polygon_planes(x, y, 5, math.cos(math.radians(72)), math.pi / 2)
    largest, second = first, torch.full_like(first, -9.0)
    for plane in others:
        second = torch.maximum(second, torch.minimum(largest, plane))
        largest = torch.maximum(largest, plane)
    return second


def _bar(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 1, 0.85 - torch.hypot(x - 0.55, y))


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    head = torch.maximum(0.05 - x, (0.8 * (x - 1) + 0.95 * y.abs()) / math.hypot(0.8, 0.95))
    return torch.minimum(head, _bar(x + 0.175, y, 0.775, 0.24))


# Signed distance to the edge, negative inside, of shapes in the unit circle.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.95,
    "square": lambda x, y: _bar(x, y, 0.72, 0.72),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda x, y: torch.minimum(_bar(x, y, 0.92, 0.3), _bar(x, y, 0.3, 0.92)),
    "ring": lambda x, y: (torch.hypot(x, y) - 0.72).abs() - 0.25,
    "crescent": _crescent,
    "arrow": _arrow,
}


def draw_shapes(scenes: Scenes, size: int, domain: Domain, ground: Domain | None = None) -> dict[str, Tensor]:
    """Draw images of shapes.

    Args:
        scenes: Content of the images.
        size: Side of the images in pixels.
        domain: Style of the shapes.
        ground: Style of the background, if different.

    Returns:
        `image` (N, 3, H, W) uint8; `mask` (N, H, W) uint8, 0 for the background, otherwise the class of the
        shape on top plus 1; `owner` (N, H, W) uint8, 0 for the background, otherwise the position in K of the shape on
        top plus 1; `boxes` (N, K, 4) float32, corners in pixels around each entire shape; `box_labels` (N, K) int64,
        -1 where there is no shape.
    """
    count = len(scenes.kind)
    step = max(1, _PIXELS // size**2)
    parts = [
        _draw_part(scenes[start : start + step], size, domain, ground or domain) for start in range(0, count, step)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draw_part(scenes: Scenes, size: int, domain: Domain, ground: Domain) -> dict[str, Tensor]:
    grid = (torch.arange(size) + 0.5) / size
    x, y = grid[None, None, :], grid[None, :, None]
    images = _background(scenes, x, y, ground)
    mask = torch.zeros(len(images), size, size, dtype=torch.uint8)
    owner = torch.zeros_like(mask)
    boxes = torch.zeros(*scenes.kind.shape, 4)
    for k in reversed(range(scenes.kind.shape[1])):  # the first shape ends up on top
        for kind, name in enumerate(CLASSES):
            chosen = (scenes.kind[:, k] == kind).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            distance = _distance(scenes, chosen, k, DISTANCES[name], x, y) * size
            inside = distance < 0
            boxes[chosen, k] = _bounds(inside)
            mask[chosen] = mask[chosen].masked_fill(inside, kind + 1)
            owner[chosen] = owner[chosen].masked_fill(inside, k + 1)
            _paint(images, scenes, chosen, k, distance, x, y, domain)
    if domain == "noisy":
        images += _noise(scenes.noise, images[0].numel()).view_as(images)
    pixels = images.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return {"image": pixels, "mask": mask, "owner": owner, "boxes": boxes, "box_labels": scenes.kind}


def _distance(
    scenes: Scenes, chosen: Tensor, k: int, shape: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Tensor:
    center, radius = scenes.center[chosen, k], scenes.radius[chosen, k, None, None]
    cos, sin = scenes.angle[chosen, k].cos()[:, None, None], scenes.angle[chosen, k].sin()[:, None, None]
    dx, dy = (x - center[:, 0, None, None]) / radius, (y - center[:, 1, None, None]) / radius
    return shape(cos * dx + sin * dy, cos * dy - sin * dx) * radius


def _bounds(inside: Tensor) -> Tensor:
    """Return corners x0, y0, x1, y1 of the bounding box of set pixels in each image, (N, 4) float32."""
    corners = []
    for axis in (1, 2):
        line = inside.any(axis).to(torch.uint8)
        corners += [line.argmax(1), line.shape[1] - line.flip(1).argmax(1)]
    left, right, top, bottom = corners
    return torch.stack([left, top, right, bottom], 1).float()


def _paint(
    images: Tensor, scenes: Scenes, chosen: Tensor, k: int, distance: Tensor, x: Tensor, y: Tensor, domain: Domain
) -> None:
    """Draw a shape onto the images with an antialiased edge."""
    color = scenes.color[chosen, k]
    if domain == "outlined":
        stroke = max(1.25, 0.035 * images.shape[-1])
        opacity = (0.5 + stroke / 2 - (distance + stroke / 2).abs()).clamp(0, 1)
    else:
        opacity = (0.5 - distance).clamp(0, 1)
    paint = color[:, 0, :, None, None]
    if domain == "textured":
        wave = _pattern(scenes.pattern[chosen, 1], x, y)[:, None]
        paint = torch.lerp(paint, 0.55 * paint + 0.45 * color[:, 1, :, None, None].flip(1), wave)
    images[chosen] = torch.lerp(images[chosen], paint, opacity[:, None])


def _background(scenes: Scenes, x: Tensor, y: Tensor, domain: Domain) -> Tensor:
    """Return a gradient between two colors, or in the textured domain a pattern of both."""
    first, second = scenes.ground[:, 0, :, None, None], scenes.ground[:, 1, :, None, None]
    if domain == "textured":
        weight = _pattern(scenes.pattern[:, 0], x, y)
    else:
        angle = 2 * torch.pi * scenes.pattern[:, 0, 0, None, None]
        weight = 0.5 + 0.5 * (angle.cos() * (x - 0.5) + angle.sin() * (y - 0.5))
    return torch.lerp(first, second, weight[:, None])


def _pattern(numbers: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return stripes or checks in [0, 1], at an angle, with soft edges."""
    angle, frequency, phase = (column[:, None, None] for column in numbers.unbind(1))
    turns = 2 * torch.pi * (4 + 5 * frequency)
    cos, sin = (torch.pi * angle).cos(), (torch.pi * angle).sin()
    wave = torch.sin((cos * x + sin * y) * turns + 2 * torch.pi * phase)
    checks = torch.sin((cos * y - sin * x) * turns)
    return (0.5 + 1.5 * torch.where(phase < 0.5, wave, wave * checks)).clamp(0, 1)


@lru_cache(maxsize=1)
def _noise_table(length: int) -> Any:
    values = np.random.RandomState(0).standard_normal(length + (1 << 18)).astype(np.float32) * _NOISE
    return np.lib.stride_tricks.sliding_window_view(values, length)


def _noise(start: Tensor, length: int) -> Tensor:
    """Return a slice of a fixed noise sequence for each image."""
    table = _noise_table(length)
    return torch.from_numpy(table[(start.numpy().astype(np.float64) * len(table)).astype(np.int64)])
