"""Figures and tables of a classifier's validation errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.classification_tables import class_table, confusion_table, loss_table
from lit_cv.callbacks.error_counts import ErrorCounts, MultiLabelCounts, WorstImages
from lit_cv.callbacks.monitored import is_better, monitor_and_mode
from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.callbacks.run_output import class_names, figures_wanted, publish, publish_table, run_folder
from lit_cv.contracts import as_dataset, dataset_of
from lit_cv.errors import OptionError
from lit_cv.figures import confusion_figure, image_grid, label_titles, precision_recall_figure, short_name
from lit_cv.figures.canvas import INK, RED

__all__ = ["ClassificationFigures"]

_MAX_CLASSES = 2000  # above this, the confusion matrix needs too much memory
_MAX_COLUMNS = 100  # above this, a table of the confusion matrix is too wide to read


@dataclass
class _Errors:
    """Errors of one validation, on the device."""

    worst: WorstImages
    counts: ErrorCounts | MultiLabelCounts | None
    names: list[str] | None
    epoch: int = 0
    step: int = 0


class ClassificationFigures(PeriodicFigure):
    """Shows the confusion matrix and the images with the highest losses of the best epoch's validation.

    Each validation gathers counts and images on the device with a few small operations per batch. Figures are drawn
    from time to time and when training ends, even after an error: `confusion_matrix.png` and `most_wrong.png` in the
    run's folder and in the loggers. With several labels per image, `precision_recall.png` replaces the confusion
    matrix.

    The same numbers are written as tables, to the folder and to loggers that take them: `confusion_counts.csv` (up to
    100 classes), `class_metrics.csv` (recall, precision and F1 of each class) and `highest_losses.csv`, which names the
    images of `most_wrong.png` from left to right, row by row.

    It works for every module whose `validation_step` returns `logits` (N, K) and `target`, and does nothing
    for others. The images are those of the batch, or `images` (N, C, H, W) if the step changes and returns them. With
    several ranks, the counts cover all ranks, the images only rank 0.

    Args:
        n_wrong: Number of images to show.
        every_n_seconds: During training, minimum time between two drawings of a new best epoch.
    """

    what: ClassVar[str] = "Drawing the classifier's errors"

    def __init__(self, n_wrong: int = 16, every_n_seconds: float = 120.0) -> None:
        super().__init__(every_n_seconds)
        if n_wrong < 1:
            raise OptionError(self, "n_wrong", n_wrong, "must be at least 1")
        self.n_wrong = n_wrong
        self._current: _Errors | None = None
        self._best_value: float | None = None

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether figures are wanted, on every rank, since all ranks count."""
        return figures_wanted(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the state of a previous fit."""
        super().on_fit_start(trainer, pl_module)
        self._current = None
        folder = run_folder(trainer)
        if folder is None or not (folder / "most_wrong.png").is_file():
            self._best_value = None  # a run resumed in another folder needs its own figures

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the counts of the previous validation."""
        self._current = None

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a batch and keep the images with the highest losses."""
        classified = _classified(outputs, batch)
        if classified is None:
            return
        images, logits, target = classified
        if self._current is None:
            classes = logits.shape[1]
            counts: ErrorCounts | MultiLabelCounts | None = None
            if target.ndim == 2:
                counts = MultiLabelCounts(classes, logits.device)
            elif classes <= _MAX_CLASSES:
                counts = ErrorCounts(classes, logits.device)
            # Modules with several tasks return the names of the task's classes.
            names = outputs.get("class_names", class_names(trainer, pl_module, classes)) or None
            self._current = _Errors(
                WorstImages(self.n_wrong), counts, names if names and len(names) == classes else None
            )
        if self._current.counts is not None:
            self._current.counts.update(logits, target)
        if trainer.is_global_zero and images is not None:
            index = batch.get("index") if isinstance(batch, Mapping) else None
            fits = isinstance(index, Tensor) and index.shape == logits.shape[:1]
            self._current.worst.update(images, logits, target, index if fits else None)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the counts if this epoch is the best so far."""
        current, self._current = self._current, None
        if current is None or not self.active:
            return
        if current.counts is not None:
            current.counts.reduce()
        if not trainer.is_global_zero:
            return
        monitor, mode = monitor_and_mode(trainer, pl_module)
        value = trainer.callback_metrics.get(monitor) if monitor else None
        if value is not None and not is_better(float(value), self._best_value, mode):
            return
        self._best_value = None if value is None else float(value)
        current.epoch, current.step = trainer.current_epoch + 1, trainer.global_step
        self.keep(current)
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the metric of the best epoch."""
        return {"best_value": self._best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metric of the best epoch."""
        self._best_value = state_dict["best_value"]

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the counts and the images with the highest losses of the best epoch, and write their tables."""
        counts, worst, names = kept.counts, kept.worst, kept.names
        if isinstance(counts, ErrorCounts):
            matrix = counts.matrix.cpu()
            figure = confusion_figure(matrix, names, f"validation, epoch {kept.epoch}")
            publish(trainer, figure, "confusion_matrix", kept.step)
            if len(matrix) <= _MAX_COLUMNS:
                publish_table(trainer, confusion_table(matrix, names), "confusion_counts", kept.step)
            table = torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)])
            publish_table(trainer, class_table(table, names), "class_metrics", kept.step)
        elif isinstance(counts, MultiLabelCounts):
            heading = f"precision and recall in validation, epoch {kept.epoch}"
            publish(trainer, precision_recall_figure(counts.table, names, heading), "precision_recall", kept.step)
            publish_table(trainer, class_table(counts.table, names), "class_metrics", kept.step)
        if worst.images is not None:
            titles, colors = _titles(worst, names)
            heading = f"highest losses in validation, epoch {kept.epoch}: true label → prediction"
            publish(trainer, image_grid(worst.images, titles, heading, colors), "most_wrong", kept.step)
            loader: Any = trainer.val_dataloaders
            dataset = dataset_of(loader[0] if isinstance(loader, list) and loader else loader)
            sample_name = as_dataset(dataset).sample_name or str
            images = [str(sample_name(position)) if position >= 0 else None for position in worst.positions.tolist()]
            publish_table(trainer, loss_table(worst, images, names), "highest_losses", kept.step)


def _classified(outputs: Any, batch: Any) -> tuple[Tensor | None, Tensor, Tensor] | None:
    """Return images, logits (N, K) and target of a classifier's batch, `None` for other outputs."""
    if not isinstance(outputs, Mapping):
        return None
    logits, target = outputs.get("logits"), outputs.get("target")
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor) or logits.ndim != 2 or not len(logits):
        return None
    multi_label = target.shape == logits.shape
    single_label = target.shape == logits.shape[:1] and target.dtype == torch.int64
    if not (single_label or multi_label):
        return None
    images = batch.get("image") if isinstance(batch, Mapping) else None
    images = outputs.get("images", images)  # returned by steps that transform the images
    fits = isinstance(images, Tensor) and images.ndim == 4 and len(images) == len(logits)
    return (images if fits else None), logits, target


def _titles(worst: WorstImages, names: list[str] | None) -> tuple[list[str], list[str]]:
    """Return a title "true → predicted (probability)" and its color for each image."""
    targets, scores = worst.targets.cpu(), worst.scores.cpu()
    if targets.ndim == 2:
        predicted, true = label_titles((scores > 0.5).float(), names), label_titles(targets.float(), names)
        titles = [f"{a}\n→ {b}" for a, b in zip(true, predicted, strict=True)]
        return titles, [INK if a == b else RED for a, b in zip(true, predicted, strict=True)]
    probabilities, classes = scores.max(-1)
    titles, colors = [], []
    for true_class, predicted_class, p in zip(targets.tolist(), classes.tolist(), probabilities.tolist(), strict=True):
        true_name, name = (short_name(names[i] if names else i, 14) for i in (true_class, predicted_class))
        titles.append(f"{true_name if true_class >= 0 else 'unlabeled'}\n→ {name} ({100 * p:.0f} %)")
        colors.append(INK if true_class == predicted_class else RED)
    return titles, colors
