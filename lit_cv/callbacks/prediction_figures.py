"""Pictures of boxes and masks that a model predicts, beside the true ones."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.callbacks.run_output import guarded, plain_names, publish
from lit_cv.contracts import class_lists, datamodule_of
from lit_cv.errors import OptionError
from lit_cv.figures import draw_objects, image_grid

__all__ = ["PredictionFigures"]

_CELL = 3.0  # inches that an image takes


class PredictionFigures(PeriodicFigure):
    """Shows validation images with the objects and the classes of pixels that are there, and those predicted.

    It works for every module whose `predict_step` returns `boxes`, `box_labels` and `scores`, or `masks`, also with
    `TASK_` before the names, and does nothing for others. The first images of every validation are kept; they are
    drawn when training ends, however it ends, as well as now and then on the way: `predictions.png` in the run's
    folder, and the same in TensorBoard.

    Args:
        n: Images to show.
        every_n_seconds: While training goes on, draw at most this often.
        min_score: Least score of the boxes shown.
    """

    what: ClassVar[str] = "Drawing predictions"

    def __init__(self, n: int = 4, every_n_seconds: float = 60.0, min_score: float = 0.3) -> None:
        super().__init__(every_n_seconds)
        if n < 1:
            raise OptionError(self, "n", n, "give the number of images to show, at least 1")
        self.n = n
        self.min_score = min_score

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether the module predicts, and figures are wanted."""
        predicts = type(pl_module).predict_step is not L.LightningModule.predict_step
        return super().is_wanted(trainer, pl_module) and predicts

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Predict the first images."""
        if batch_idx:
            return
        if not isinstance(batch, Mapping) or not {"boxes", "mask"} & batch.keys():
            self.active = False
            return
        with guarded("Predicting validation images"):
            few = {name: value[: self.n] for name, value in batch.items() if isinstance(value, Tensor | list)}
            found = cast(Any, pl_module).predict_step(few, 0)
            found = plain_names(found) if isinstance(found, Mapping) else {}
            if not {"boxes", "masks"} & found.keys():
                self.active = False
                return
            heading = f"validation images, truth above prediction, after epoch {trainer.current_epoch + 1}"
            self.keep((few, found, heading, trainer.global_step))

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw truth above predictions."""
        batch, found, heading, step = kept
        names = (_classes("box_classes", trainer, pl_module), _classes("mask_classes", trainer, pl_module))
        truth = draw_objects(batch["image"], batch.get("boxes"), batch.get("box_labels"), batch.get("mask"), *names)
        boxes, labels, scores = _sure(found, self.min_score)
        predicted = draw_objects(batch["image"], boxes, labels, found.get("masks"), *names, scores)
        figure = image_grid(torch.cat([truth, predicted]), heading=heading, columns=len(truth), cell=_CELL)
        publish(trainer, figure, "predictions", step)


def _sure(found: Mapping[str, Any], min_score: float) -> tuple[list[Tensor] | None, ...]:
    """Return boxes, classes and scores of the objects of each image whose score is high enough, the best one last.

    It is drawn over the others.
    """
    keys = ("boxes", "box_labels", "scores")
    if "boxes" not in found:
        return None, None, None
    orders = [scores.argsort() for scores in found["scores"]]
    chosen = [order[scores[order] >= min_score] for order, scores in zip(orders, found["scores"], strict=True)]
    boxes, labels, scores = ([v[own] for v, own in zip(found[key], chosen, strict=True)] for key in keys)
    return boxes, labels, scores


def _classes(key: str, trainer: L.Trainer, pl_module: L.LightningModule) -> list[str]:
    return class_lists(datamodule_of(trainer), key).get(key) or list(pl_module.hparams.get(key) or [])
