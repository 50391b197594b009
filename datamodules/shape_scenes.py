"""Content of generated images: shapes, positions, sizes and colors as a function of (seed, image, domain)."""

from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CLASSES", "DOMAINS", "Domain", "Scenes", "draw_scenes", "main_classes"]

Domain = Literal["filled", "outlined", "textured", "noisy"]
DOMAINS: tuple[Domain, ...] = ("filled", "outlined", "textured", "noisy")
CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow")

_CANDIDATES = 6  # positions tried for each shape; the one with the most free space is used
_PER_SHAPE = 6 + 2 * _CANDIDATES  # random numbers
_PER_IMAGE = 16


@dataclass
class Scenes:
    """Descriptions of N images with up to K shapes each; the first shape is the largest and is on top.

    Args:
        kind: Class of each shape, (N, K) int64; -1 for none.
        center: Centers, x and y, relative to the image's side in [0, 1], (N, K, 2).
        radius: Radii of the circumscribed circles, in the same unit, (N, K).
        angle: Rotations in radians, (N, K).
        color: Two colors in [0, 1] of each shape, the second for patterns, (N, K, 2, 3).
        ground: Two colors of the background, (N, 2, 3).
        pattern: Direction, frequency and phase of the patterns of background and shapes, (N, 2, 3).
        noise: Start of the noise of each image, in [0, 1), (N,).
    """

    kind: Tensor
    center: Tensor
    radius: Tensor
    angle: Tensor
    color: Tensor
    ground: Tensor
    pattern: Tensor
    noise: Tensor

    def __getitem__(self, part: slice) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[part] for field in fields(self)})


def main_classes(rows: NDArray[np.int64], seed: int, domain: Domain) -> Tensor:
    """Return the class of the largest shape of these images, (N,) int64."""
    first = _uniform(rows, _key(seed, domain), np.array([_PER_IMAGE], dtype=np.uint64))
    return torch.from_numpy((first[:, 0] * len(CLASSES)).astype(np.int64))


def draw_scenes(rows: NDArray[np.int64], seed: int, domain: Domain, shapes: int) -> Scenes:
    """Draw random descriptions of images.

    Args:
        rows: Numbers of the images.
        seed: Seed of the dataset.
        domain: Style of the images.
        shapes: Maximum number of shapes in an image; at least one.
    """
    counters = np.arange(_PER_IMAGE + shapes * _PER_SHAPE, dtype=np.uint64)
    numbers = torch.from_numpy(_uniform(rows, _key(seed, domain), counters))
    image, shape = numbers[:, :_PER_IMAGE], numbers[:, _PER_IMAGE:].view(len(rows), shapes, _PER_SHAPE)
    kind = (shape[..., 0] * len(CLASSES)).long()
    kind[torch.arange(shapes) > (image[:, :1] * shapes).floor()] = -1  # between 1 and all of them
    radius = 0.1 + 0.08 * shape[..., 1]
    radius[:, 0] = (0.24 + 0.16 * shape[:, 0, 1]) if shapes == 1 else (0.22 + 0.1 * shape[:, 0, 1])
    center = _centers(kind, radius, shape[..., 6:].view(len(rows), shapes, _CANDIDATES, 2))
    light_ground = image[:, 1] < 0.5
    ground = _colors(image[:, 2:8].view(-1, 2, 3), light_ground[:, None])
    color = _colors(torch.stack([shape[..., 2:5], shape[..., 2:5].roll(1, -1)], 2), ~light_ground[:, None, None])
    pattern = torch.stack([image[:, 8:11], image[:, 11:14]], 1)
    angle = 2 * torch.pi * shape[..., 5]
    return Scenes(kind, center, radius, angle, color, ground, pattern, image[:, 14])


def _centers(kind: Tensor, radius: Tensor, candidates: Tensor) -> Tensor:
    """Choose centers shape by shape, inside the image; drop shapes without free space (in `kind`)."""
    margin = (radius + 0.01).clamp(max=0.5)
    candidate_centers = margin[..., None, None] + candidates * (1 - 2 * margin[..., None, None])
    centers = [candidate_centers[:, 0, 0]]
    for k in range(1, kind.shape[1]):
        placed = torch.stack(centers, 1)
        distance = torch.linalg.vector_norm(candidate_centers[:, k, :, None] - placed[:, None], dim=-1)
        gap = distance - radius[:, None, :k] - radius[:, k, None, None]
        gap = gap.masked_fill((kind[:, :k] < 0)[:, None], 1.0).amin(-1)
        best = gap.argmax(1)
        kind[:, k] = kind[:, k].masked_fill(gap.amax(1) < -0.3 * radius[:, k], -1)
        centers.append(candidate_centers[torch.arange(len(candidate_centers)), k, best])
    return torch.stack(centers, 1)


def _colors(numbers: Tensor, light: Tensor) -> Tensor:
    """Return light or dark colors of any hue, so that shapes contrast with the background."""
    hue, saturation, value = numbers.unbind(-1)
    value = torch.where(light, 0.72 + 0.28 * value, 0.05 + 0.33 * value)
    saturation = torch.where(light, 0.1 + 0.5 * saturation, 0.2 + 0.8 * saturation)
    wheel = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(wheel, 4 - wheel).clamp(0, 1))


def _key(seed: int, domain: Domain) -> int:
    return (seed * len(DOMAINS) + DOMAINS.index(domain)) % 2**64


def _uniform(rows: NDArray[np.int64], key: int, counters: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return numbers in [0, 1) that depend only on (key, row, counter), (N, C): the SplitMix64 hash.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    start = _mix(np.array([key], dtype=np.uint64))
    base = _mix(start + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    mixed = _mix(base[:, None] + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)).astype(np.float32)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
