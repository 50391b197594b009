"""Pictures of what a masked autoencoder makes of validation images."""

import time
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.run_output import figures_wanted, guarded, publish
from lit_cv.figures import image_grid

__all__ = ["Reconstructions"]

_GREY = 0.5  # of hidden pixels


class Reconstructions(L.Callback):
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

    def __init__(self, n: int = 8, every_n_seconds: float = 60.0) -> None:
        if n < 1:
            raise ValueError(f"n={n}: give the number of images to show, at least 1.")
        if every_n_seconds < 0:
            raise ValueError(f"every_n_seconds={every_n_seconds}: give a number of seconds, 0 for every validation.")
        self.n = n
        self.every_n_seconds = every_n_seconds
        self._active = False
        self._made: tuple[Tensor, str, int] | None = None  # not drawn yet
        self._drawn_at = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle whether there is anything to do."""
        self._active = (
            trainer.is_global_zero and figures_wanted(trainer) and callable(getattr(pl_module, "reconstruct", None))
        )
        self._made = None
        self._drawn_at = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Rebuild the first images."""
        if not self._active or trainer.sanity_checking or batch_idx or dataloader_idx:
            return
        images = batch.get("image") if isinstance(batch, Mapping) else None
        if not isinstance(images, Tensor) or images.ndim != 4:
            return
        with guarded("Rebuilding validation images"):
            shown = images[: self.n]
            rebuilt, hidden = cast(Any, pl_module).reconstruct(shown)
            heading = f"validation images, rebuilt after epoch {trainer.current_epoch + 1}"
            self._made = (_rows(shown, rebuilt, hidden), heading, trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw if it is time."""
        if time.monotonic() - self._drawn_at >= self.every_n_seconds:
            self._draw(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation."""
        self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the last validation of a run that ends early."""
        self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        made, self._made = self._made, None
        if made is None:
            return
        rows, heading, step = made
        with guarded("Drawing reconstructions"):
            n = len(rows) // 4
            titles = [""] * len(rows)
            for row, title in enumerate(("original", "masked", "reconstruction", "pasted")):
                titles[row * n] = title
            publish(trainer, image_grid(rows, titles, heading, columns=n), "reconstructions", step)
        self._drawn_at = time.monotonic()


def _rows(images: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
    """Return the four rows as (4 N, C, H, W), float in [0, 1]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    rebuilt = rebuilt.float()
    masked = torch.where(hidden, _GREY, images)
    return torch.cat([images, masked, rebuilt, torch.where(hidden, rebuilt, images)])
