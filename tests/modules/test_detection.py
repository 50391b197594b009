"""DetectionModule and its metric."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules import ShapesDataModule
from datamodules.shape_scenes import CLASSES
from lit_cv import DetectionModule
from lit_cv.metrics.detection import DetectionAP
from lit_cv.nn.detection import Detections
from tests.modules.scenes import QUIET, Rectangles

SMALL: dict[str, Any] = {"backbone": "resnet9_small", "channels": 32, "strides": [4, 8], "num_convs": 1}


def built(**kwargs: Any) -> DetectionModule:
    torch.manual_seed(0)
    module = DetectionModule(**SMALL | {"box_classes": ["red", "blue"]} | kwargs)
    module.configure_model()
    return module


def with_masks(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with the pixels of each box as its mask."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    masks = []
    for boxes in batch["boxes"]:
        left, top, right, bottom = boxes[:, :, None, None].unbind(1)
        masks.append((x >= left) & (x < right) & (y >= top) & (y < bottom))
    return {**batch, "masks": masks}


def batch(crowds: bool = False) -> dict[str, Any]:
    first: dict[str, Any] = next(iter(Rectangles(8, crowds).train_dataloader()))
    return first


@pytest.mark.slow
@pytest.mark.learns
def test_learns_and_logs(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    module = DetectionModule(**SMALL, lr=3e-3, iou_threshold=0.5)
    data = Rectangles()
    trainer = L.Trainer(**QUIET, max_epochs=25, check_val_every_n_epoch=25)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["val_map50"] > 0.9
    assert {"train_class_loss", "train_box_loss", "train_centerness_loss", "val_box_loss", "val_map"} <= logged.keys()
    assert {"val_ap_red", "val_ap50_blue", "val_map75", "val_mar"} <= logged.keys()
    parts = logged["train_class_loss"] + logged["train_box_loss"] + logged["train_centerness_loss"]
    assert logged["train_loss"] == pytest.approx(parts, rel=1e-5)
    assert logged["val_map50"] == pytest.approx((logged["val_ap50_red"] + logged["val_ap50_blue"]) / 2, abs=1e-6)
    assert module.hparams["box_classes"] == ["red", "blue"]
    predicted = trainer.predict(module, data)
    assert predicted is not None
    for output in predicted:
        assert output.keys() == {"boxes", "box_labels", "scores", "index"}
        for i, index in enumerate(output["index"].tolist()):
            height, width = data.items[index]["size"].tolist()
            boxes = output["boxes"][i]
            assert len(boxes) == len(output["scores"][i]) == len(output["box_labels"][i])
            assert (boxes[:, 2] <= width).all()
            assert (boxes[:, 3] <= height).all()


def random_detections(n: int) -> tuple[list[Detections], list[dict[str, Tensor]]]:
    detections, targets = [], []
    for _ in range(n):
        corner = torch.rand(6, 2) * 60
        true = torch.cat([corner, corner + 8 + torch.rand(6, 2) * 20], 1)
        labels = torch.randint(3, (6,))
        moved = torch.cat([true + torch.randn(6, 4) * 2, true[:3] + 30])
        kinds = torch.cat([labels, torch.randint(3, (3,))])
        detections.append(Detections(moved, torch.rand(9), kinds))
        targets.append({"boxes": true, "labels": labels, "iscrowd": torch.rand(6) < 0.1})
    return detections, targets


def test_ranks_with_different_numbers_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    detections, targets = random_detections(5)
    complete, first, second = (DetectionAP(["a", "b", "c"]) for _ in range(3))
    for metric, part in ((complete, slice(0, 5)), (first, slice(0, 2)), (second, slice(2, 5))):
        metric.update(detections[part], targets[part])
    others = iter([[value.cpu() for value in getattr(second, name)] for name in second._defaults])

    def gather(parts: list[Any], local: list[Tensor], group: Any = None) -> None:
        parts[:] = [local, next(others)]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    first._sync_dist()
    assert len(first.detection_box) == 5
    for name, value in complete.compute().items():
        torch.testing.assert_close(first.compute()[name], value)


def test_no_images_give_no_score() -> None:
    metric = DetectionAP(["a"])
    metric.update([], [])
    values = metric.compute()
    assert values.keys() == {"map", "map50", "map75", "mar"}
    assert all(value.isnan() for value in values.values())


def test_crowds_are_excluded_from_training() -> None:
    module, with_crowds = built(), batch(crowds=True)
    single = {k: v for k, v in with_crowds.items() if k != "iscrowd"}
    for name in ("boxes", "box_labels"):
        single[name] = [v[~crowd] for v, crowd in zip(single[name], with_crowds["iscrowd"], strict=True)]
    assert any(crowd.any() for crowd in with_crowds["iscrowd"])
    expected = module.step(single, "train")["loss"]
    torch.testing.assert_close(module.step(with_crowds, "train")["loss"], expected)
    output = module.step(with_crowds, "val")
    assert "iscrowd" in output["targets"][0]


def test_scores_of_masks_are_logged() -> None:
    data = ShapesDataModule(image_size=32, num_images=20, targets="instances", batch_size=4)
    trainer = L.Trainer(**QUIET)
    module = built(box_classes=list(CLASSES), detector="mask_rcnn", score_threshold=0.0)
    trainer.validate(module, data, verbose=False)
    logged = trainer.callback_metrics
    assert {"val_map50", "val_mask_map", "val_mask_map50", "val_mask_map75", "val_mask_mar"} <= logged.keys()
    assert logged["val_loss"].isfinite()
    assert 0 <= logged["val_mask_map"] <= logged["val_mask_map50"] < 0.5


@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn"])
def test_detectors(detector: Any) -> None:
    module = built(detector=detector)
    output = module.step(batch(), "train")
    output["loss"].backward()
    assert {"class_loss", "box_loss"} <= output.keys()
    assert sum(p.grad is not None for p in module.backbone.parameters()) > 0
    assert len(module.eval().step(batch(), "val")["detections"]) == 8


def test_mask_rcnn() -> None:
    module = built(detector="mask_rcnn", score_threshold=0.0, max_detections=5)
    crowded = with_masks(batch(crowds=True))
    module.step(crowded, "train")["loss"].backward()
    assert all(p.grad is not None for p in module.head.parameters())
    module.eval()
    assert {"mask_loss", "objectness_loss"} <= module.step(crowded, "val").keys()
    predicted = module.predict_step(crowded, 0)
    assert [masks.shape for masks in predicted["masks"]] == [(5, 48, 64)] * 8
    for masks, boxes, (height, width) in zip(predicted["masks"], predicted["boxes"], crowded["size"], strict=True):
        assert masks.dtype == torch.bool
        assert not masks[:, height:].any()
        assert not masks[:, :, width:].any()
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            inside = mask[max(int(top) - 2, 0) : int(bottom) + 3, max(int(left) - 2, 0) : int(right) + 3]
            assert inside.sum() == mask.sum()
    expected = "batches with `boxes`, `box_labels` and `masks`, but got .*: use .*`targets='instances'`"
    with pytest.raises(ValueError, match=expected):
        module.step(batch(), "train")


def test_vision_transformer() -> None:
    module = built(backbone="vit_micro_p8", image_size=[48, 64])
    assert len(module.detect(torch.zeros(2, 3, 40, 64, dtype=torch.uint8))) == 2
    module.step(batch(), "train")["loss"].backward()


def test_error_for_unknown_classes_and_missing_boxes() -> None:
    with pytest.raises(ValueError, match="classes of the boxes are unknown"):
        DetectionModule(**SMALL)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="batches with `boxes` and `box_labels`, but got one with image, label"):
        built().step({"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "label": torch.zeros(1)}, "train")
    with pytest.raises(ValueError, match="score_threshold=2"):
        DetectionModule(score_threshold=2)
    with pytest.raises(ValueError, match="max_detections=0"):
        DetectionModule(max_detections=0)


def test_warning_for_images_without_objects() -> None:
    data = Rectangles(3)
    for item in data.items:
        item["boxes"], item["box_labels"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    trainer = L.Trainer(**QUIET)
    with pytest.warns(
        UserWarning, match="no image of the test data has an object: `test_map` and related metrics are NaN"
    ):
        trainer.test(built(), data, verbose=False)
    logged = trainer.callback_metrics
    assert logged["test_loss"].isfinite()
    assert all(logged[f"test_{name}"].isnan() for name in ("map", "map50", "map75", "mar"))
