"""Pictures of what a masked autoencoder makes of validation images."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.callbacks.run_output import guarded, publish
from lit_cv.contracts import module_extras
from lit_cv.errors import OptionError
from lit_cv.figures import image_grid

__all__ = ["Reconstructions"]

_GREY = 0.5  # of hidden pixels


class Reconstructions(PeriodicFigure):
    """Shows validation images beside what the model rebuilt from a part of them.

    Four rows: the images, what the model saw of them, what it made of it, and the latter with the pixels that it
    saw pasted in. The first images of every validation are rebuilt; they are drawn when training ends, however it
    ends, as well as now and then on the way: `reconstructions.png` in the run's folder, and the same in
    TensorBoard. It works for every module with a method `reconstruct(images)` that returns the reconstruction
    (N, C, H, W) in [0, 1] and where pixels were hidden, (N, 1, H, W) bool, and does nothing for others.

    Args:
        n: Images to show.
        every_n_seconds: While training goes on, draw at most this often.
    """

    what: ClassVar[str] = "Drawing reconstructions"

    def __init__(self, n: int = 8, every_n_seconds: float = 60.0) -> None:
        super().__init__(every_n_seconds)
        if n < 1:
            raise OptionError(self, "n", n, "give the number of images to show, at least 1")
        self.n = n

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether the module reconstructs images, and figures are wanted."""
        return super().is_wanted(trainer, pl_module) and callable(module_extras(pl_module).reconstruct)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Rebuild the first images."""
        images = batch.get("image") if isinstance(batch, Mapping) else None
        if batch_idx or not isinstance(images, Tensor) or images.ndim != 4:
            return
        with guarded("Rebuilding validation images"):
            shown = images[: self.n]
            rebuilt, hidden = cast(Any, pl_module).reconstruct(shown)
            heading = f"validation images, rebuilt after epoch {trainer.current_epoch + 1}"
            self.keep((_rows(shown, rebuilt, hidden), heading, trainer.global_step))

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the four rows."""
        rows, heading, step = kept
        n = len(rows) // 4
        titles = [""] * len(rows)
        for row, title in enumerate(("original", "masked", "reconstruction", "pasted")):
            titles[row * n] = title
        publish(trainer, image_grid(rows, titles, heading, columns=n), "reconstructions", step)


def _rows(images: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
    """Return the four rows as (4 N, C, H, W), float in [0, 1]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    rebuilt = rebuilt.float()
    masked = torch.where(hidden, _GREY, images)
    return torch.cat([images, masked, rebuilt, torch.where(hidden, rebuilt, images)])
