"""Pictures of what a classifier gets wrong in validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.error_counts import ErrorCounts, MultiLabelCounts, WorstImages
from lit_cv.callbacks.monitored import is_better, monitor_and_mode
from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.callbacks.run_output import class_names, figures_wanted, publish, run_folder
from lit_cv.errors import OptionError
from lit_cv.figures import confusion_figure, image_grid, label_titles, precision_recall_figure, short_name
from lit_cv.figures.canvas import INK, RED

__all__ = ["ClassificationFigures"]

_MAX_CLASSES = 2000  # above, the confusion matrix would take more memory than it tells


@dataclass
class _Errors:
    """What one validation found, on the device."""

    worst: WorstImages
    counts: ErrorCounts | MultiLabelCounts | None
    names: list[str] | None
    epoch: int = 0
    step: int = 0


class ClassificationFigures(PeriodicFigure):
    """Shows the confusion matrix and the most wrong validation images of the best epoch.

    They are gathered on the device in every validation, at the cost of some small operations a batch, and
    drawn when training ends, however it ends, as well as now and then on the way: `confusion_matrix.png` and
    `most_wrong.png` in the run's folder, and the same in TensorBoard. For images with several labels,
    `precision_recall.png` takes the place of the confusion matrix. It works for every module whose
    `validation_step` returns `logits` (N, K) and `target`, and does nothing for others. The images shown are those
    of the batch, or the `images` (N, C, H, W) that the step returns, where it changes them itself. Over several
    processes the counts are those of all of them, the images those of the first.

    Args:
        n_wrong: Images to show.
        every_n_seconds: While training goes on, draw a new best epoch at most this often.
    """

    what: ClassVar[str] = "Drawing what the classifier gets wrong"

    def __init__(self, n_wrong: int = 16, every_n_seconds: float = 120.0) -> None:
        super().__init__(every_n_seconds)
        if n_wrong < 1:
            raise OptionError(self, "n_wrong", n_wrong, "give the number of images to show, at least 1")
        self.n_wrong = n_wrong
        self._current: _Errors | None = None
        self._best_value: float | None = None

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether figures are wanted: all processes count."""
        return figures_wanted(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the fit before."""
        super().on_fit_start(trainer, pl_module)
        self._current = None
        folder = run_folder(trainer)
        if folder is None or not (folder / "most_wrong.png").is_file():
            self._best_value = None  # a run continued in another folder wants its own figures

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the validation before."""
        self._current = None

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a batch and keep its worst images."""
        found = _find(outputs, batch)
        if found is None:
            return
        images, logits, target = found
        if self._current is None:
            classes = logits.shape[1]
            counts: ErrorCounts | MultiLabelCounts | None = None
            if target.ndim == 2:
                counts = MultiLabelCounts(classes, logits.device)
            elif classes <= _MAX_CLASSES:
                counts = ErrorCounts(classes, logits.device)
            # a module with several tasks says whose classes these are
            names = outputs.get("class_names", class_names(trainer, pl_module, classes)) or None
            self._current = _Errors(
                WorstImages(self.n_wrong), counts, names if names and len(names) == classes else None
            )
        if self._current.counts is not None:
            self._current.counts.update(logits, target)
        if trainer.is_global_zero and images is not None:
            self._current.worst.update(images, logits, target)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what was found if this epoch is the best so far."""
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
        """Restore what `state_dict` gave."""
        self._best_value = state_dict["best_value"]

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the counts and the worst images of the best epoch."""
        counts, worst, names = kept.counts, kept.worst, kept.names
        if isinstance(counts, ErrorCounts):
            figure = confusion_figure(counts.matrix, names, f"validation, epoch {kept.epoch}")
            publish(trainer, figure, "confusion_matrix", kept.step)
        elif isinstance(counts, MultiLabelCounts):
            heading = f"precision and recall in validation, epoch {kept.epoch}"
            publish(trainer, precision_recall_figure(counts.table, names, heading), "precision_recall", kept.step)
        if worst.images is not None:
            titles, colors = _titles(worst, names)
            heading = f"highest losses in validation, epoch {kept.epoch}: true label → prediction"
            publish(trainer, image_grid(worst.images, titles, heading, colors), "most_wrong", kept.step)


def _find(outputs: Any, batch: Any) -> tuple[Tensor | None, Tensor, Tensor] | None:
    """Return images, logits (N, K) and target of a classifier's batch."""
    if not isinstance(outputs, Mapping):
        return None
    logits, target = outputs.get("logits"), outputs.get("target")
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor) or logits.ndim != 2 or not len(logits):
        return None
    several = target.shape == logits.shape
    one = target.shape == logits.shape[:1] and target.dtype == torch.int64
    if not (one or several):
        return None
    images = batch.get("image") if isinstance(batch, Mapping) else None
    images = outputs.get("images", images)  # of a step that turns or crops them, and asks about that
    fits = isinstance(images, Tensor) and images.ndim == 4 and len(images) == len(logits)
    return (images if fits else None), logits, target


def _titles(worst: WorstImages, names: list[str] | None) -> tuple[list[str], list[str]]:
    """Return "true, → predicted, probability" and its color for each image."""
    targets, scores = worst.targets.cpu(), worst.scores.cpu()
    if targets.ndim == 2:
        given, true = label_titles((scores > 0.5).float(), names), label_titles(targets.float(), names)
        titles = [f"{a}\n→ {b}" for a, b in zip(true, given, strict=True)]
        return titles, [INK if a == b else RED for a, b in zip(true, given, strict=True)]
    probability, predicted = scores.max(-1)
    titles, colors = [], []
    for true, answer, p in zip(targets.tolist(), predicted.tolist(), probability.tolist(), strict=True):
        wanted, given_name = (short_name(names[i] if names else i, 14) for i in (true, answer))
        titles.append(f"{wanted if true >= 0 else 'unlabeled'}\n→ {given_name} ({100 * p:.0f} %)")
        colors.append(INK if true == answer else RED)
    return titles, colors
