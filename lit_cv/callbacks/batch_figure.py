"""A picture of the first training batch, as the model sees it."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.run_output import class_names, figures_wanted, guarded, publish
from lit_cv.figures import image_grid, label_titles

__all__ = ["BatchFigure"]


class BatchFigure(L.Callback):
    """Shows augmented training images, with the labels that the model is taught for them.

    The first batch of training goes to `train_batch.png` in the run's folder and to TensorBoard: wrong
    channels, labels off by one and too strong an augmentation are seen at a glance. Mixed images are titled
    with their labels' weights; views of one image stand side by side; of episodes the first is shown, its support
    images before its query images.

    Args:
        every_n_epochs: Show the first batch of every so many epochs; 0 for that of the first one only.
        n: Images to show, at most.
    """

    def __init__(self, every_n_epochs: int = 0, n: int = 32) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs={every_n_epochs}: give a number of epochs, or 0 for the first one only.")
        if n < 1:
            raise ValueError(f"n={n}: give the number of images to show, at least 1.")
        self.every_n_epochs = every_n_epochs
        self.n = n
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the first batch, which need not be number 0 in a continued epoch."""
        self._due = trainer.is_global_zero and figures_wanted(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the first batch of this epoch when its turn has come."""
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self._due = trainer.is_global_zero and figures_wanted(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the batch that was asked for."""
        if not self._due:
            return
        self._due = False
        with guarded("Drawing the training batch"):
            found = _find_images(batch)
            if found is None:
                return
            images, labels, views = found
            shown = max(self.n // views, 1) * views
            titles = _titles(labels, views, trainer, pl_module)[:shown]
            epoch = trainer.current_epoch + 1
            heading = f"training images of epoch {epoch}, as the model sees them"
            # An even number of columns keeps the views of an image in one row.
            columns = 8 if 8 % views == 0 else views
            figure = image_grid(images[:shown], titles, heading, columns=columns)
            publish(trainer, figure, "train_batch", trainer.global_step)


def _find_images(batch: Any) -> tuple[Tensor, Tensor | None, int] | None:
    """Return images (N, C, H, W), labels and the number of views that stand one after another."""
    if not isinstance(batch, Mapping):
        return None
    labels = batch.get("label")
    labels = labels if isinstance(labels, Tensor) and labels.ndim in (1, 2) else None
    views = batch.get("views")
    if isinstance(views, list | tuple) and views and all(_is_images(view) for view in views):
        if len({view.shape for view in views}) > 1:  # crops of several sizes: show those of the first
            return views[0], labels, 1
        views = torch.stack(list(views))
    if isinstance(views, Tensor) and views.ndim == 5:
        return views.transpose(0, 1).flatten(0, 1), labels, len(views)
    if _is_images(batch.get("image")):
        return batch["image"], labels, 1
    support, query = batch.get("support"), batch.get("query")
    if isinstance(support, Mapping) and isinstance(query, Mapping) and _is_episodes(support, query):
        first = [torch.cat([support[key][0], query[key][0]]) for key in ("image", "label")]
        return first[0], first[1], 1
    for part in batch.values():  # such as the source and the target domain
        if isinstance(part, Mapping) and (found := _find_images(part)):
            return found
    return None


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and len(value) > 0


def _is_episodes(*parts: Mapping[str, Any]) -> bool:
    return all(isinstance(part.get("image"), Tensor) and part["image"].ndim == 5 for part in parts)


def _titles(labels: Tensor | None, views: int, trainer: L.Trainer, pl_module: L.LightningModule) -> list[str]:
    if labels is None:
        return []
    names = class_names(trainer, pl_module, labels.shape[1] if labels.ndim == 2 else None)
    return [title for title in label_titles(labels, names) for _ in range(views)]
