"""Generated images of many classes: every shape in every color and texture."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import BaseDataModule, Split
from datamodules.checks import check
from datamodules.memory import InMemoryDataset
from datamodules.shape_drawing import draw_shapes
from datamodules.shape_scenes import CLASSES, Domain, Scenes, draw_scenes
from datamodules.splits import hold_out

__all__ = ["ShapeClassesDataModule"]

# Hues in turns of the color wheel, far enough apart to be distinguishable.
_COLORS = {
    "red": 0.0,
    "orange": 0.09,
    "yellow": 0.16,
    "green": 0.36,
    "cyan": 0.5,
    "blue": 0.62,
    "purple": 0.76,
    "pink": 0.9,
}
_TEXTURES: dict[str, Domain] = {"plain": "filled", "outlined": "outlined", "striped": "textured", "checked": "textured"}
_JITTER = 0.02  # maximum change of the hue in either direction


class ShapeClassesDataModule(BaseDataModule):
    """Generated images of 256 classes: 8 shapes in 8 colors and 4 textures, with any size, position and rotation.

    The classes are named `SHAPE/COLOR_TEXTURE`, so that few-shot learning can be tested on unseen shapes
    (`EpisodicDataModule(base=ShapeClassesDataModule(), split_by="group")`). Nothing is downloaded. A tenth of the
    images of each class is the test split.

    Args:
        image_size: Side in pixels, at least 16.
        images_per_class: Images per class over all splits.
        seed: Seed of the images.
        **kwargs: Arguments of `BaseDataModule`.

    Example:
        >>> data = ShapeClassesDataModule(images_per_class=4, image_size=16)
        >>> data.setup()
        >>> data.num_classes, data.class_names[0], data.image_size
        (256, 'circle/red_plain', (16, 16))
    """

    def __init__(self, image_size: int = 32, images_per_class: int = 20, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(self, "image_size", image_size, image_size >= 16, "at least 16")
        check(self, "images_per_class", images_per_class, images_per_class >= 1, "at least 1")
        check(self, "seed", seed, seed >= 0, "at least 0")
        self._splits: dict[str, InMemoryDataset] = {}

    def load(self, split: Split) -> InMemoryDataset | None:
        """Return the training or test images."""
        if not self._splits:
            h = self.hparams
            names = [f"{shape}/{color}_{texture}" for shape in CLASSES for color in _COLORS for texture in _TEXTURES]
            labels = torch.arange(len(names)).repeat_interleave(h["images_per_class"])
            dataset = InMemoryDataset(_draw(labels, h["image_size"], h["seed"]), labels, names)
            train, test = hold_out(dataset.labels, 0.1, h["split_seed"], purpose=2)
            self._splits = {"train": dataset.subset(train)}
            if len(test):
                self._splits["test"] = dataset.subset(test)
        return self._splits.get(split)


def _draw(labels: Tensor, size: int, seed: int) -> Tensor:
    """Return an image (3, size, size) uint8 for each label; image i depends only on (seed, i, label)."""
    scenes = draw_scenes(np.arange(len(labels)), seed, "textured", 1)
    shape, variant = labels // (len(_COLORS) * len(_TEXTURES)), labels % (len(_COLORS) * len(_TEXTURES))
    hue, texture = variant // len(_TEXTURES), variant % len(_TEXTURES)
    scenes.kind = shape[:, None]
    value = scenes.color.amax(-1)  # light or dark, unlike the background
    jitter = (scenes.pattern[:, 0, 0] * 2 - 1) * _JITTER
    color = _colors(torch.tensor(list(_COLORS.values()))[hue] + jitter, value[:, 0, 0])
    scenes.color = torch.stack([color, 0.35 * color], 1)[:, None]
    scenes.ground = scenes.ground.mean(-1, keepdim=True).expand_as(scenes.ground)  # gray, so only shapes have color
    images = torch.empty(len(labels), 3, size, size, dtype=torch.uint8)
    for number, (name, domain) in enumerate(_TEXTURES.items()):
        chosen = (texture == number).nonzero().flatten()
        part = _take(scenes, chosen)
        if domain == "textured":  # the phase selects stripes or checks
            part.pattern[:, 1, 2] = part.pattern[:, 1, 2] / 2 + (0.5 if name == "checked" else 0.0)
        images[chosen] = draw_shapes(part, size, domain, ground="filled")["image"]
    return images


def _take(scenes: Scenes, chosen: Tensor) -> Scenes:
    return Scenes(**{name: value[chosen] for name, value in vars(scenes).items()})


def _colors(hue: Tensor, value: Tensor) -> Tensor:
    """Return saturated colors (N, 3) in [0, 1] for hues in turns."""
    wheel = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    strength = 0.85 * torch.minimum(wheel, 4 - wheel).clamp(0, 1)
    return (0.45 + 0.55 * value)[:, None] * (1 - strength)
