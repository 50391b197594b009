"""Figures of predicted boxes and masks beside the ground truth."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.run_output import guarded, plain_names, publish
from lit_cv.callbacks.spread_images import SpreadFigure
from lit_cv.contracts import class_lists, datamodule_of
from lit_cv.figures import draw_objects, image_grid, mask_legend

__all__ = ["PredictionFigures"]

_CELL = 3.0  # inches per image


class PredictionFigures(SpreadFigure):
    """Shows validation images with their true and their predicted boxes and masks.

    It works for every module whose `predict_step` returns `boxes`, `box_labels` and `scores`, optionally with a list of
    `masks`, or a tensor of `masks`, also with the prefix `TASK_`, and does nothing for others. The images are spread
    over the validation set and the same in every epoch. They are drawn from time to time and when training ends, even
    after an error, as `predictions.png` in the run's folder and in the loggers. A legend names the colors of masks.

    Args:
        n: Number of images to show.
        every_n_seconds: During training, minimum time between two drawings.
        min_score: Minimum score of the boxes shown.
    """

    what: ClassVar[str] = "Drawing predictions"

    def __init__(self, n: int = 4, every_n_seconds: float = 60.0, min_score: float = 0.3) -> None:
        super().__init__(n, every_n_seconds)
        self.min_score = min_score

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether the module has a `predict_step` and figures are wanted."""
        predicts = type(pl_module).predict_step is not L.LightningModule.predict_step
        return super().is_wanted(trainer, pl_module) and predicts

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Collect images of batches with boxes or masks."""
        if isinstance(batch, Mapping) and {"boxes", "mask"} & batch.keys():
            super().look(trainer, pl_module, outputs, batch, batch_idx)
        else:
            self.active = False

    def show(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Any]) -> None:
        """Predict the images and keep the predictions."""
        with guarded("Predicting validation images"):
            predictions = cast(Any, pl_module).predict_step(batch, 0)
            predictions = plain_names(predictions) if isinstance(predictions, Mapping) else {}
            if not {"boxes", "masks"} & predictions.keys():
                self.active = False
                return
            heading = f"validation images, truth above prediction, after epoch {trainer.current_epoch + 1}"
            self.keep((batch, predictions, heading, trainer.global_step))

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the ground truth above the predictions."""
        batch, outputs, heading, step = kept
        names = (_classes("box_classes", trainer, pl_module), _classes("mask_classes", trainer, pl_module))
        boxes, labels, mask = (batch.get(key) for key in ("boxes", "box_labels", "mask"))
        truth = draw_objects(batch["image"], boxes, labels, mask, *names, object_masks=batch.get("masks"))
        boxes, labels, scores, masks = _confident(outputs, self.min_score)
        predicted = draw_objects(
            batch["image"], boxes, labels, outputs.get("masks"), *names, scores, object_masks=masks
        )
        legend = mask_legend([batch.get("mask"), outputs.get("masks")], names[1], names[0])
        figure = image_grid(
            torch.cat([truth, predicted]), heading=heading, columns=len(truth), cell=_CELL, legend=legend
        )
        publish(trainer, figure, "predictions", step)


def _confident(outputs: Mapping[str, Any], min_score: float) -> tuple[list[Tensor] | None, ...]:
    """Return boxes, classes, scores and masks of objects with at least `min_score`, the best last (on top).

    Each is a list with an entry for each image, or `None` if it is not predicted.
    """
    keys = ("boxes", "box_labels", "scores", "object_masks")
    if "boxes" not in outputs:
        return None, None, None, None
    orders = [scores.argsort() for scores in outputs["scores"]]
    chosen = [order[scores[order] >= min_score] for order, scores in zip(orders, outputs["scores"], strict=True)]
    return tuple(
        [v[rows] for v, rows in zip(outputs[key], chosen, strict=True)] if key in outputs else None for key in keys
    )


def _classes(key: str, trainer: L.Trainer, pl_module: L.LightningModule) -> list[str]:
    return class_lists(datamodule_of(trainer), key).get(key) or list(pl_module.hparams.get(key) or [])
