"""Figures of a masked autoencoder's reconstructions of validation images."""

from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.run_output import guarded, publish
from lit_cv.callbacks.spread_images import SpreadFigure
from lit_cv.contracts import module_extras
from lit_cv.figures import image_grid

__all__ = ["Reconstructions"]

_GRAY = 0.5  # value of hidden pixels


class Reconstructions(SpreadFigure):
    """Shows validation images beside their reconstructions.

    The figure has four rows: the images, the visible part, the reconstruction, and the reconstruction with the visible
    pixels pasted in. The images are spread over the validation set and the same in every epoch. They are drawn from
    time to time and when training ends, even after an error, as `reconstructions.png` in the run's folder and in the
    loggers. It works for every module with a method `reconstruct(images)` that returns the reconstruction (N, C, H, W)
    in [0, 1] and a mask of the hidden pixels, (N, 1, H, W) bool, and does nothing for others.

    Args:
        n: Number of images to show.
        every_n_seconds: During training, minimum time between two drawings.
    """

    what: ClassVar[str] = "Drawing reconstructions"

    def __init__(self, n: int = 8, every_n_seconds: float = 60.0) -> None:
        super().__init__(n, every_n_seconds)

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether the module reconstructs images and figures are wanted."""
        return super().is_wanted(trainer, pl_module) and callable(module_extras(pl_module).reconstruct)

    def show(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Any]) -> None:
        """Reconstruct the images."""
        with guarded("Reconstructing validation images"):
            shown = batch["image"]
            reconstructed, hidden = cast(Any, pl_module).reconstruct(shown)
            heading = f"validation images, reconstructed after epoch {trainer.current_epoch + 1}"
            self.keep((_rows(shown, reconstructed, hidden), heading, trainer.global_step))

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the four rows."""
        rows, heading, step = kept
        n = len(rows) // 4
        titles = [""] * len(rows)
        for row, title in enumerate(("original", "masked", "reconstruction", "pasted")):
            titles[row * n] = title
        publish(trainer, image_grid(rows, titles, heading, columns=n), "reconstructions", step)


def _rows(images: Tensor, reconstructed: Tensor, hidden: Tensor) -> Tensor:
    """Return the four rows as (4 N, C, H, W), float in [0, 1]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    reconstructed = reconstructed.float()
    masked = torch.where(hidden, _GRAY, images)
    return torch.cat([images, masked, reconstructed, torch.where(hidden, reconstructed, images)])
