"""Weights of object and pixel classes, compared with independent formulas."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from datamodules import AnnotatedImagesDataModule, ShapesDataModule
from lit_cv import DetectionModule, MultiTaskModule, SegmentationModule
from lit_cv.annotations.coco_writing import write_coco
from lit_cv.losses import dice_loss
from lit_cv.nn import create_backbone
from lit_cv.nn.detection import build_detector, faster_rcnn
from lit_cv.nn.detection.fcos_targets import fcos_assign
from lit_cv.tasks.class_weights import class_weights, object_weights, pixel_weights
from tests.annotations.sets import example
from tests.modules.scenes import QUIET, Rectangles
from tests.nn.detection.test_detectors import BOXES, LABELS, images
from tests.tasks.test_tasks import features, task, total

WEIGHT = torch.tensor([0.5, 1.0, 4.0])
DENSE: dict[str, Any] = {"backbone": "resnet9_small", "channels": 32}
QUICK: dict[str, Any] = {**QUIET, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}


def shapes(**kwargs: Any) -> ShapesDataModule:
    options: dict[str, Any] = {"image_size": 32, "num_images": 60, "shapes_per_image": 3, "batch_size": 8}
    return ShapesDataModule(**options | kwargs)


class Counts:
    """A DataModule with the same class counts for all its targets."""

    def __init__(self, *counts: int) -> None:
        self.counts = torch.tensor(counts)

    def object_counts(self) -> Tensor:
        return self.counts

    class_counts = pixel_counts = object_counts


def test_pixel_weights_match_torch_cross_entropy() -> None:
    it = task((32, 32), type="segmentation", classes=["a", "b", "c"], channels=32, class_weight=WEIGHT.tolist())
    it.start(None, torch.device("cpu"))
    mask = torch.randint(0, 3, (3, 32, 32), generator=torch.Generator().manual_seed(0))
    mask[1, :9] = 255
    logits = it(features())
    for training, weight in ((True, WEIGHT), (False, None)):
        it.training = training
        expected = F.cross_entropy(logits, mask, weight, ignore_index=255) + dice_loss(logits, mask)
        assert total(it, it.batch_loss(logits, mask)) == pytest.approx(float(expected.detach()), rel=1e-5)


def raw_outputs(name: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small").eval()
    detector: Any = build_detector(name, backbone.feature_levels(), 3, [4, 8], channels=32)
    return detector, detector(backbone.forward_maps(images()))


def focal_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The weighted focal loss by its definition, in double precision."""
    p = logits.double().sigmoid()
    objects = targets * (WEIGHT.double() * 0.25 * (1 - p) ** 2 * -p.log())
    return (objects + (1 - targets) * 0.75 * p**2 * -(1 - p).log()).sum()


def test_fcos_weights_object_locations() -> None:
    detector, raw = raw_outputs("fcos")
    targets = torch.zeros_like(raw["cls_logits"], dtype=torch.float64)
    for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        for place, box in enumerate(fcos_assign(raw["points"], raw["strides"], boxes).tolist()):
            if box >= 0:
                targets[image, place, labels[box]] = 1.0
    sums = detector.loss_sums(raw, BOXES, LABELS, WEIGHT)
    expected = focal_sum(raw["cls_logits"], targets)
    torch.testing.assert_close(sums["class_loss"][0].double(), expected, rtol=1e-5, atol=1e-6)
    assert float(sums["class_loss"][1]) == float(targets.sum()) > 0
    plain = detector.loss_sums(raw, BOXES, LABELS)
    assert torch.equal(plain["box_loss"][0], sums["box_loss"][0])


def test_retinanet_weights_object_anchors() -> None:
    detector, raw = raw_outputs("retinanet")
    expected = torch.zeros((), dtype=torch.float64)
    for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        matched = torch.full((len(raw["anchors"]),), -1)
        if len(boxes):
            matched = detector.matcher(box_iou(boxes, raw["anchors"]))
        targets = torch.zeros_like(raw["cls_logits"][image], dtype=torch.float64)
        targets[matched >= 0, labels[matched[matched >= 0]]] = 1.0
        decided = matched >= -1
        expected += focal_sum(raw["cls_logits"][image][decided], targets[decided]) / max(1, int((matched >= 0).sum()))
    total, count = detector.loss_sums(raw, BOXES, LABELS, WEIGHT)["class_loss"]
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
    assert float(count) == 2


def test_faster_rcnn_weights_match_torch_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, raw = raw_outputs("faster_rcnn")
    seen: list[tuple[Tensor, Tensor]] = []

    def noted(logits: Tensor, corrections: Tensor, kinds: list[Tensor], encoded: Any) -> Any:
        seen.append((logits, torch.cat(kinds)))
        return original(logits, corrections, kinds, encoded)

    original = faster_rcnn.fastrcnn_loss
    monkeypatch.setattr(faster_rcnn, "fastrcnn_loss", noted)
    total, count = detector.loss_sums(raw, BOXES, LABELS, WEIGHT)["class_loss"]
    logits, kinds = seen[0]
    assert {0, 1, 3} == set(kinds.tolist())  # 0 is the background
    expected = F.cross_entropy(logits, kinds, torch.tensor([1.0, *WEIGHT.tolist()]))
    torch.testing.assert_close(total / count, expected)


def test_balanced_pixel_weights_equal_image_weights() -> None:
    data = Counts(600, 300, 0, 100)
    weights = pixel_weights("balanced", 4, data, "class_weight")
    assert weights.tolist() == pytest.approx([1 / 3, 2 / 3, 0.0, 2.0])
    assert torch.equal(weights, class_weights("balanced", 4, False, data, "class_weight"))


def test_balanced_object_weights_have_mean_one() -> None:
    counts = torch.tensor([900.0, 90.0, 0.0, 10.0])
    weights = object_weights("balanced", 4, Counts(900, 90, 0, 10), "class_weight")
    assert float((weights * counts).sum()) == pytest.approx(1000)
    assert (weights * counts).tolist() == pytest.approx([1000 / 3, 1000 / 3, 0, 1000 / 3])


@pytest.mark.parametrize("weigh", [pixel_weights, object_weights])
def test_error_for_invalid_weights(weigh: Any) -> None:
    for invalid, message in (
        ([1.0, 2.0], "has 2 numbers for 3 classes"),
        ([1.0, -2.0, 1.0], "must not be negative"),
        ([0.0, 0.0, 0.0], "at least one number must be positive"),
        ([1.0, float("nan"), 1.0], "must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            weigh(invalid, 3, None, "class_weight")
    with pytest.raises(ValueError, match=r"needs a DataModule that counts its (pixels|objects)"):
        weigh("balanced", 3, Rectangles(), "class_weight")
    with pytest.raises(ValueError, match="the data have 2 classes, but the model has 3"):
        weigh("balanced", 3, Counts(1, 2), "class_weight")


def test_warning_for_weights_with_balanced_sampling(caplog: pytest.LogCaptureFixture) -> None:
    for balance in (0.0, 0.5):
        data = shapes(balance=balance)
        data.setup()
        class_weights("balanced", 8, False, data, "class_weight")
        assert ("class_weight: rare classes get higher weights and are also sampled more often" in caplog.text) == bool(
            balance
        )


def test_data_count_objects_and_pixels() -> None:
    data = shapes(targets="all")
    data.setup()
    batch = data.train_dataset.__getitems__(range(len(data.train_dataset)))
    assert torch.equal(data.object_counts(), torch.bincount(torch.cat(batch["box_labels"]), minlength=8))
    assert torch.equal(data.pixel_counts(), torch.bincount(batch["mask"].flatten(), minlength=9))
    assert shapes().object_counts().tolist() == []


def test_annotated_images_are_counted_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(example(tmp_path), tmp_path)
    data = AnnotatedImagesDataModule(str(tmp_path), format="coco", image_size=64, num_workers=0)
    data.setup()
    read = data.train_dataset.__getitems__(range(len(data.train_dataset)))
    monkeypatch.setattr(type(data.train_dataset), "read", None)
    assert torch.equal(data.object_counts(), torch.bincount(torch.cat(read["box_labels"]), minlength=3))


def test_modules_and_tasks_use_weights() -> None:
    weights = {}
    data = shapes(targets="all")
    for kind in (SegmentationModule, DetectionModule):
        module: Any = kind(**DENSE, class_weight="balanced")
        L.Trainer(**QUICK).fit(module, data)
        weights[kind.__name__] = module.task.class_weight
        assert module.hparams["class_weight"] == "balanced"
    torch.testing.assert_close(weights["SegmentationModule"], pixel_weights("balanced", 9, data, ""))
    torch.testing.assert_close(weights["DetectionModule"], object_weights("balanced", 8, data, ""))
    assert data.object_counts().min() >= 0
    options = {"channels": 32, "class_weight": "balanced"}
    tasks = {"objects": {"type": "detection", **options}, "pixels": {"type": "segmentation", **options}}
    several = MultiTaskModule(tasks, backbone="resnet9_small")
    L.Trainer(**QUICK).fit(several, data)
    torch.testing.assert_close(several.tasks["objects"].class_weight, weights["DetectionModule"])
    torch.testing.assert_close(several.tasks["pixels"].class_weight, weights["SegmentationModule"])
    assert not [name for name in several.state_dict() if "class_weight" in name]
