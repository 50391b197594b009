"""Figure of the first training batch as the model sees it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.callbacks.run_output import class_names, figures_wanted, guarded, publish
from lit_cv.contracts import data_of
from lit_cv.errors import OptionError
from lit_cv.figures import draw_objects, image_grid, label_titles, mask_legend, object_titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BatchFigure"]

_WITH_OBJECTS = 12  # maximum number of images with boxes or masks, which need more space


class BatchFigure(L.Callback):
    """Shows augmented training images with their training labels.

    The first training batch is saved as `train_batch.png` in the run's folder and in the loggers. It makes wrong
    channels, labels off by one and too strong augmentation visible. If the training step changes the images itself, the
    `images` and `target` that it returns are shown. Titles of mixed images contain the weights of their labels. Views
    of one image are placed side by side, followed by its smaller local views, several in a tile. Source and target
    alternate row by row. Of few-shot batches the first episode is shown, support images before query images. Boxes and
    masks are drawn over the images.

    Args:
        every_n_epochs: Show the first batch of every n-th epoch; 0 for the first epoch only.
        n: Maximum number of images.
    """

    def __init__(self, every_n_epochs: int = 0, n: int = 32) -> None:
        if every_n_epochs < 0:
            raise OptionError(self, "every_n_epochs", every_n_epochs, "must be at least 0 (0: the first epoch only)")
        if n < 1:
            raise OptionError(self, "n", n, "must be at least 1")
        self.every_n_epochs = every_n_epochs
        self.n = n
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Request a figure of the next batch, which is not number 0 in a resumed epoch."""
        self._due = trainer.is_global_zero and figures_wanted(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Request a figure of this epoch's first batch if one is due."""
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self._due = trainer.is_global_zero and figures_wanted(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the requested figure."""
        if not self._due:
            return
        self._due = False
        with guarded("Drawing the training batch"):
            batch, classes = _as_trained(batch, outputs)
            images_and_labels = _find_images(batch)
            if images_and_labels is None:
                return
            images, labels, views = images_and_labels
            epoch = trainer.current_epoch + 1
            heading = f"training images of epoch {epoch}, as the model sees them"
            if "boxes" in batch or isinstance(batch.get("mask"), Tensor):
                figure = _draw_objects(batch, min(self.n, _WITH_OBJECTS), heading, trainer)
                publish(trainer, figure, "train_batch", trainer.global_step, "train")
                return
            shown = max(self.n // views, 1) * views
            titles = _titles(labels, views, trainer, pl_module, classes)[:shown]
            # A multiple of the number of views keeps the views of an image in one row.
            columns = 8 if 8 % views == 0 else views
            figure = image_grid(images[:shown], titles, heading, columns=columns)
            publish(trainer, figure, "train_batch", trainer.global_step, "train")


def _draw_objects(batch: Mapping[str, Any], n: int, heading: str, trainer: L.Trainer) -> "Figure":
    """Return a figure of images with their boxes and masks."""
    data = data_of(trainer)
    names = (list(data.box_classes or []), list(data.mask_classes or []))
    images = batch["image"][:n]
    boxes, labels = (batch[key][:n] if key in batch else None for key in ("boxes", "box_labels"))
    mask = batch["mask"][:n] if isinstance(batch.get("mask"), Tensor) else None
    titles = object_titles(boxes, labels, mask, *names, count=len(images))
    masks = batch["masks"][:n] if boxes is not None and "masks" in batch else None
    drawn = draw_objects(images, boxes, labels, mask, *names, object_masks=masks)
    legend = mask_legend([mask], names[1], names[0])
    return image_grid(drawn, titles, heading, columns=4, cell=3.2, legend=legend)


def _as_trained(batch: Any, outputs: Any) -> tuple[Any, int | None]:
    """Return the batch as trained on and its number of classes, if the step returns its own `images` and `target`."""
    if not isinstance(outputs, Mapping) or not _is_images(outputs.get("images")):
        return batch, None
    logits = outputs.get("logits")
    classes = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
    return {"image": outputs["images"], "label": outputs.get("target")}, classes


def _find_images(batch: Any) -> tuple[Tensor, Tensor | None, int] | None:
    """Return images (N, C, H, W), labels and the number of consecutive views of each image."""
    if not isinstance(batch, Mapping):
        return None
    labels = batch.get("label")
    labels = labels if isinstance(labels, Tensor) and labels.ndim in (1, 2) else None
    views = batch.get("views")
    if isinstance(views, list | tuple) and views and all(_is_images(view) for view in views):
        if len({view.shape for view in views}) > 1:  # crops of several sizes: show the first
            return views[0], labels, 1
        views = torch.stack(list(views))
    if isinstance(views, Tensor) and views.ndim == 5:
        local = batch.get("local_views")
        if isinstance(local, Tensor) and local.ndim == 5 and len(local):
            views = _with_local(views, local)
        return views.transpose(0, 1).flatten(0, 1), labels, len(views)
    if _is_images(batch.get("image")):
        return batch["image"], labels, 1
    support, query = batch.get("support"), batch.get("query")
    if isinstance(support, Mapping) and isinstance(query, Mapping) and _is_episodes(support, query):
        first = [torch.cat([support[key][0], query[key][0]]) for key in ("image", "label")]
        return first[0], first[1], 1
    parts = [part for value in batch.values() if isinstance(value, Mapping) and (part := _find_images(value))]
    return _row_by_row(parts) if parts else None


def _with_local(views: Tensor, local: Tensor) -> Tensor:
    """Return views (V, N, C, H, W) and further white tiles that show local views (L, N, C, h, w) at the same scale."""
    white = 255 if views.dtype == torch.uint8 else 1
    counts = [max(side // local_side, 1) for side, local_side in zip(views.shape[3:], local.shape[3:], strict=True)]
    gap = max(min(views.shape[3:]) // 32, 1)
    height, width = (
        max(side, count * local_side + (count + 1) * gap)
        for side, local_side, count in zip(views.shape[3:], local.shape[3:], counts, strict=True)
    )
    down, right = height - views.shape[3], width - views.shape[4]
    tiles = [F.pad(views, (right // 2, right - right // 2, down // 2, down - down // 2), value=white)]
    for group in torch.split(local, counts[0] * counts[1]):
        tile = views.new_full((*views.shape[1:3], height, width), white)
        for position, crops in enumerate(group):
            top = gap + position // counts[1] * (local.shape[3] + gap)
            left = gap + position % counts[1] * (local.shape[4] + gap)
            tile[:, :, top : top + local.shape[3], left : left + local.shape[4]] = crops
        tiles.append(tile[None])
    return torch.cat(tiles)


def _row_by_row(parts: list[tuple[Tensor, Tensor | None, int]], row: int = 8) -> tuple[Tensor, Tensor | None, int]:
    """Return nested batches, such as source and target, alternating by rows of images."""
    count = min(len(images) for images, _, _ in parts) // row * row
    fit = all(
        images.shape[1:] == parts[0][0].shape[1:] and views == 1 and (labels is None or labels.ndim == 1)
        for images, labels, views in parts
    )
    if not count or not fit:
        return parts[0]
    images = torch.stack([images[:count].view(-1, row, *images.shape[1:]) for images, _, _ in parts], 1).flatten(0, 2)
    unknown = torch.full((count,), -1, device=images.device)
    labels = [unknown if labels is None else labels[:count] for _, labels, _ in parts]
    return images, torch.stack([part.view(-1, row) for part in labels], 1).flatten(), 1


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and len(value) > 0


def _is_episodes(*parts: Mapping[str, Any]) -> bool:
    return all(isinstance(part.get("image"), Tensor) and part["image"].ndim == 5 for part in parts)


def _titles(
    labels: Tensor | None, views: int, trainer: L.Trainer, pl_module: L.LightningModule, classes: int | None
) -> list[str]:
    if labels is None:
        return []
    names = class_names(trainer, pl_module, labels.shape[1] if labels.ndim == 2 else classes)
    return [title for title in label_titles(labels, names) for _ in range(views)]
