"""Tables of the scores of each class, of the best epoch."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch import Tensor

from lit_cv.callbacks import ClassScores, RunCheckpoint
from lit_cv.metrics_csv import MetricsCSVLogger
from tests.callbacks.tiny import Tiny, loader, trainer

NAN = float("nan")


class Scores(Tiny):
    """Logs the scores of its classes from lists, with a value for each epoch."""

    def __init__(self, scores: list[float], by_class: dict[str, list[float]]) -> None:
        super().__init__(scores)
        self.by_class = by_class

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log_dict({f"val_{name}": values[self.current_epoch] for name, values in self.by_class.items()})


class Scenes(L.LightningDataModule):
    box_classes = ("traffic light", "dog", "cat")
    mask_classes = ("road", "sky")

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(1)


def read(folder: Path) -> dict[str, list[list[str]]]:
    return {path.stem: list(csv.reader(path.open())) for path in sorted(folder.rglob("*_metrics.csv"))}


def fit(folder: Path, module: Any, seconds: float = 0.0, epochs: int = 3) -> dict[str, list[list[str]]]:
    callbacks = [ClassScores(seconds), RunCheckpoint()]
    run = trainer(folder, max_epochs=epochs, callbacks=callbacks, logger=MetricsCSVLogger(folder))
    run.fit(module, datamodule=Scenes())
    return read(folder)


@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_scores_are_those_of_best_epoch(tmp_path: Path, seconds: float) -> None:
    scores = {
        "ap_traffic_light": [0.1, 0.2, 0.3],
        "ap50_traffic_light": [0.2, 0.4, 0.6],
        "ap_dog": [0.3, NAN, 0.4],
        "ap50_dog": [0.3, 0.5, 0.4],
        "iou_sky": [0.6, 0.7, 0.8],
        "map50": [0.1, 0.2, 0.3],
    }
    assert fit(tmp_path, Scores([0.5, 0.9, 0.7], scores), seconds) == {
        "object_metrics": [
            ["class", "ap", "ap50"], ["traffic light", "0.2", "0.4"], ["dog", "", "0.5"], ["cat", "", ""],
        ],
        "pixel_metrics": [["class", "iou"], ["road", ""], ["sky", "0.7"]],
    }  # fmt: skip


def test_tasks_have_tables_of_their_own(tmp_path: Path) -> None:
    module = Scores([0.5], {"things_ap_cat": [0.25], "things_mask_ap_cat": [0.5], "ground_iou_road": [0.75]})
    module.tasks = {"things": None, "ground": None}
    assert fit(tmp_path, module, epochs=1) == {
        "ground_pixel_metrics": [["class", "iou"], ["road", "0.75"], ["sky", ""]],
        "things_object_metrics": [
            ["class", "ap", "mask_ap"], ["traffic light", "", ""], ["dog", "", ""], ["cat", "0.25", "0.5"],
        ],
    }  # fmt: skip


def test_other_modules_have_none(tmp_path: Path) -> None:
    assert fit(tmp_path, Tiny([0.5]), epochs=1) == {}
