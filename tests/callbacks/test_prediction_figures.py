"""Figures of predicted boxes and masks."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

import lit_cv.callbacks.prediction_figures as module
from lit_cv import DetectionModule, SegmentationModule, SupervisedModule
from lit_cv.callbacks import PredictionFigures
from lit_cv.callbacks.prediction_figures import _confident
from tests.callbacks.classifier import board, run_trainer
from tests.modules.scenes import Rectangles

pytestmark = pytest.mark.draws


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    draw = module.draw_objects

    def spy(*args: Any, **kwargs: Any) -> Any:
        made.append((args, kwargs))
        return draw(*args, **kwargs)

    monkeypatch.setattr(module, "draw_objects", spy)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DetectionModule, SegmentationModule])
def test_ground_truth_above_prediction(tmp_path: Path, calls: list[Any], cls: type[L.LightningModule]) -> None:
    data = Rectangles(8)
    model = cls(backbone="resnet9_small", channels=32)
    run_trainer(tmp_path / "run", [PredictionFigures(n=3, min_score=0.0)], max_epochs=1).fit(model, datamodule=data)
    truth, predicted = calls
    shown = [data.items[i] for i in (1, 4, 6)]  # of 8 images
    images = torch.stack([item["image"] for item in shown])
    for args, _ in calls:
        assert torch.equal(args[0], images)
        assert args[4] == ["red", "blue"]
    for i in range(3):
        assert torch.equal(truth[0][1][i], shown[i]["boxes"])
        assert torch.equal(truth[0][3][i], shown[i]["mask"])
    _, boxes, labels, mask, _, _, scores = predicted[0]
    if cls is DetectionModule:
        assert len(boxes) == len(labels) == len(scores) == 3
        assert mask is None
    else:
        assert mask.shape == (3, 48, 64)
        assert boxes is None
    assert Image.open(tmp_path / "run" / "predictions.png").size[0] > 500
    assert "val/predictions" in board(tmp_path / "run").Tags()["images"]


@pytest.mark.slow
def test_masks_of_objects(tmp_path: Path, calls: list[Any]) -> None:
    data = Rectangles(8)
    for item in data.items:
        item["masks"] = torch.ones(len(item["boxes"]), 48, 64, dtype=torch.bool)
    model = DetectionModule(backbone="resnet9_small", channels=32, detector="mask_rcnn", score_threshold=0.0)
    trainer = run_trainer(
        tmp_path / "run", [PredictionFigures(n=3, min_score=0.0)], max_epochs=1, limit_train_batches=1
    )
    trainer.fit(model, datamodule=data)
    (_, truth), (_, predicted) = calls
    assert [masks.shape for masks in truth["object_masks"]] == [(1, 48, 64), (1, 48, 64), (0, 48, 64)]
    assert [masks.shape[1:] for masks in predicted["object_masks"]] == [(48, 64)] * 3
    assert Image.open(tmp_path / "run" / "predictions.png").size[0] > 500


def test_no_figure_for_other_modules(tmp_path: Path, calls: list[Any]) -> None:
    data = Rectangles(8)
    for i, item in enumerate(data.items):
        item["label"] = i % 2
    model = SupervisedModule(backbone="conv4", num_classes=2)
    run_trainer(tmp_path / "run", [PredictionFigures()], max_epochs=1).fit(model, datamodule=data)
    assert not calls
    assert not (tmp_path / "run" / "predictions.png").exists()


def test_error_names_argument() -> None:
    with pytest.raises(ValueError, match="n=0"):
        PredictionFigures(n=0)
    with pytest.raises(ValueError, match="every_n_seconds=-1"):
        PredictionFigures(every_n_seconds=-1)


def test_best_box_is_drawn_last() -> None:
    outputs = {
        "boxes": [torch.arange(12.0).view(3, 4)],
        "box_labels": [torch.tensor([5, 6, 7])],
        "scores": [torch.tensor([0.9, 0.1, 0.4])],
    }
    boxes, labels, scores, masks = _confident(outputs, 0.3)
    assert masks is None
    assert boxes is not None
    assert labels is not None
    assert scores is not None
    assert scores[0].tolist() == pytest.approx([0.4, 0.9])
    assert labels[0].tolist() == [7, 5]
    assert boxes[0][:, 0].tolist() == [8.0, 0.0]
