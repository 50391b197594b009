"""torchvision's published detectors: loading of weights and equality of outputs."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from lit_cv import DetectionModule
from lit_cv.nn.detection import LAYOUTS, Detections, read_detector
from tests.nn.detection.reference import CATEGORIES, NO_CLASS, limits, reference, silence, smallest

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 128, 160  # maps of 2 x 3 and 1 x 2 locations, whose steps are not powers of two
SIZES = [(96, 150), (128, 100)]
QUICK = ("fasterrcnn_mobilenet_v3_large_fpn",)
SMALLEST = "FasterRCNN_MobileNet_V3_Large_320_FPN"
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYOUTS]


def batch() -> tuple[list[Tensor], Tensor]:
    """Return images of different sizes, and a batch of them padded as in torchvision, with the mean."""
    torch.manual_seed(1)
    images = [torch.rand(3, *size) for size in SIZES]
    padded = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).repeat(len(images), 1, HEIGHT, WIDTH)
    for padded_image, image in zip(padded, images, strict=True):
        padded_image[:, : image.shape[1], : image.shape[2]] = image
    return images, padded


def started(path: Path, **options: Any) -> DetectionModule:
    """Return a module initialized from a weights file."""
    module = DetectionModule(weights=str(path), **options)
    module.configure_model()
    return module.eval()


def saved(network: Any, folder: Path) -> Path:
    path = folder / "detector.pth"
    torch.save(network.state_dict(), path)
    return path


def assert_found(first: tuple[Tensor, Tensor, list[str]], second: tuple[Tensor, Tensor, list[str]]) -> None:
    """Check that the best objects are among others; the order of equal scores depends on rounding."""
    for box, score, label in list(zip(*first, strict=True))[:50]:
        same = torch.tensor([other == label for other in second[2]])
        near = ((second[1] - score).abs() < 1e-4) & ((second[0] - box).abs().amax(1) < 0.1)
        assert (same & near).any()


def assert_same_masks(own: Detections, boxes: Tensor, masks: Tensor) -> None:
    """Check that masks of boxes that are near to each other differ in few pixels."""
    assert 0.1 < masks.sum() / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() < 0.9
    for box, mask in zip(own.boxes, own.masks, strict=True):
        same = (boxes - box).abs().amax(1) < 0.1
        assert (masks[same] != mask).flatten(1).float().mean(1).min() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_torchvision(name: str, tmp_path: Path) -> None:
    network = reference(name)
    if not LAYOUTS[name].two_stage:
        silence(network)
    module = started(saved(network, tmp_path), layout=name if "320" in name else None)
    layout = LAYOUTS[name]
    assert (module.hparams["layout"], module.hparams["backbone"]) == (name, layout.backbone)
    assert module.class_names == [category for category in CATEGORIES if category not in NO_CLASS]
    assert any(isinstance(m, FrozenBatchNorm2d) for m in module.backbone.modules()) == (layout.frozen_eps is not None)
    images, padded = batch()
    with torch.no_grad():
        expected = network(images)
        found = module.task._detector.detect(module(padded), SIZES, limits(network))
        for own, other in zip(found, expected, strict=True):
            labels = [CATEGORIES[label] for label in other["labels"]]
            kept = torch.tensor([label not in NO_CLASS for label in labels])
            theirs = (other["boxes"][kept], other["scores"][kept], [label for label in labels if label not in NO_CLASS])
            ours = (own.boxes, own.scores, [module.class_names[label] for label in own.labels])
            assert len(ours[2]) > 5
            assert_found(ours, theirs)
            assert_found(theirs, ours)
            if own.masks is not None:
                assert_same_masks(own, other["boxes"][kept], other["masks"][kept, 0] > 0.5)
        raw = module.double()(padded.double())
        maps = network.double().backbone(network.transform([image.double() for image in images])[0].tensors)
    rows = torch.tensor([category not in NO_CLASS for category in CATEGORIES])
    heads = network.head(list(maps.values())) if hasattr(network, "head") else {}
    for key, value in heads.items():
        wanted = value[..., rows] if key == "cls_logits" else value
        torch.testing.assert_close(raw[key], wanted, atol=1e-6, rtol=1e-6)
    if not heads:
        for own, other in zip(raw["features"].values(), maps.values(), strict=True):
            torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-6)


def test_mask_rcnn_losses_equal_torchvision(tmp_path: Path) -> None:
    network = reference("maskrcnn_resnet50_fpn").train()
    module = started(saved(network, tmp_path)).train()
    torch.manual_seed(2)
    boxes = [torch.tensor([[10.0, 8, 70, 60], [60, 30, 140, 90]]), torch.tensor([[5.0, 20, 90, 120]])]
    labels = [torch.tensor([3, 18]), torch.tensor([1])]
    masks = [torch.rand(len(each), HEIGHT, WIDTH) < 0.5 for each in boxes]
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    targets = [{"boxes": b, "labels": k, "masks": m} for b, k, m in zip(boxes, labels, masks, strict=True)]
    torch.manual_seed(3)
    expected = network(list(images), targets)
    numbers = [torch.tensor([module.class_names.index(CATEGORIES[i]) for i in each]) for each in labels]
    torch.manual_seed(3)
    found = module.task._detector.losses(module(images), boxes, numbers, masks=masks)
    names = {"class_loss": "loss_classifier", "box_loss": "loss_box_reg", "mask_loss": "loss_mask"}
    names |= {"objectness_loss": "loss_objectness", "rpn_box_loss": "loss_rpn_box_reg"}
    for own, other in names.items():
        torch.testing.assert_close(found[own], expected[other], atol=1e-4, rtol=1e-3)
    # Objects without a mask do not enter the mask loss.
    torch.manual_seed(3)
    without = [torch.cat([masks[0][:1], masks[0][1:] & False]), masks[1] & False]
    fewer = module.task._detector.losses(module(images), boxes, numbers, masks=without)
    torch.testing.assert_close(fewer["class_loss"], found["class_loss"])
    assert fewer["mask_loss"] != found["mask_loss"]
    none = module.task._detector.losses(module(images), boxes, numbers, masks=[mask & False for mask in masks])
    assert none["mask_loss"] == 0


def test_image_sides_not_divisible_by_32(tmp_path: Path) -> None:
    network = smallest()
    module = started(saved(network, tmp_path))
    image = batch()[0][0]
    with torch.no_grad():
        maps = network.backbone(network.transform([image])[0].tensors)
        raw = module(image[None])
    for own, other in zip(raw["features"].values(), maps.values(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.slow
def test_outputs_are_matched_by_class_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = smallest()
    images, padded = batch()
    with torch.no_grad():
        expected = network(images)
    seen = Counter(CATEGORIES[label] for other in expected for label in other["labels"])
    first, second = [name for name, _ in seen.most_common() if name not in NO_CLASS][:2]
    with caplog.at_level(logging.INFO, "lit_cv"):
        module = started(saved(network, tmp_path), box_classes=[second, "unicorn", first], keep_classes=True)
    assert "classes with random outputs: unicorn" in caplog.text
    assert module.hparams["other_classes"] == len(CATEGORIES) - 1 - 2
    with torch.no_grad():
        module.head.roi.box_predictor.cls_score.weight[2] = 0.0
        module.head.roi.box_predictor.cls_score.bias[2] = -100.0  # COCO has no unicorns
        found = module.task._detector.detect(module(padded), SIZES, limits(network))
    for own, other in zip(found, expected, strict=True):
        labels = [CATEGORIES[label] for label in other["labels"]]
        kept = torch.tensor([label in module.class_names for label in labels])
        theirs = (
            other["boxes"][kept],
            other["scores"][kept],
            [label for label in labels if label in module.class_names],
        )
        assert len(theirs[2]) > 5
        assert_found(theirs, (own.boxes, own.scores, [module.class_names[label] for label in own.labels]))


def test_other_classes_are_random(tmp_path: Path) -> None:
    network = smallest()
    state = network.state_dict()
    module = started(saved(network, tmp_path), box_classes=["person", "car"])
    assert module.hparams["other_classes"] == 0
    predictor = module.head.roi.box_predictor
    assert predictor.cls_score.weight.shape[0] == 3
    assert not torch.equal(predictor.cls_score.weight[1], state["roi_heads.box_predictor.cls_score.weight"][1])
    torch.testing.assert_close(module.head.roi.box_head.fc6.weight, state["roi_heads.box_head.fc6.weight"])
    torch.testing.assert_close(module.backbone.body.features[0][0].weight, state["backbone.body.0.0.weight"])


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert to the layer names of files published before torchvision renamed them."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if key.count(".0.") else key
        for i in range(4):
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}.")
            key = key.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(
    "name",
    ["fasterrcnn_mobilenet_v3_large_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"],
)
def test_old_names_of_published_files(name: str, tmp_path: Path) -> None:
    state = reference(name).state_dict()
    torch.save(old_names(state), tmp_path / "old.pth")
    assert old_names(state).keys() != state.keys()
    found = read_detector(str(tmp_path / "old.pth"), "fcos", "resnet9")
    assert found is not None
    assert (found.layout, found.state.keys()) == (name, state.keys())


@pytest.mark.slow
def test_unfrozen_backbone_stays_unfrozen(tmp_path: Path) -> None:
    network = reference("fasterrcnn_mobilenet_v3_large_fpn", frozen=False)
    module = started(saved(network, tmp_path))
    assert module.hparams["frozen_norm"] is False
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in module.modules())
    _, padded = batch()
    with torch.no_grad():
        maps = network.backbone((padded - module.backbone.mean) / module.backbone.std)
        for own, other in zip(module(padded)["features"].values(), maps.values(), strict=True):
            torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "detector", "backbone", "layout"),
    [
        ("COCO", "fcos", "resnet9", "fcos_resnet50_fpn"),
        ("COCO", "retinanet", "resnet50", "retinanet_resnet50_fpn_v2"),
        ("COCO", "faster_rcnn", "resnet50", "fasterrcnn_resnet50_fpn_v2"),
        ("COCO", "faster_rcnn", "mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"),
        ("COCO", "mask_rcnn", "resnet50", "maskrcnn_resnet50_fpn_v2"),
        ("MaskRCNN_ResNet50_FPN_Weights.COCO_V1", "fcos", "resnet9", "maskrcnn_resnet50_fpn"),
        ("RetinaNet_ResNet50_FPN_Weights.COCO_V1", "fcos", "resnet9", "retinanet_resnet50_fpn"),
        (f"{SMALLEST}_Weights.DEFAULT", "fcos", "resnet9", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    ],
)  # fmt: skip
def test_published_weights_by_name(
    weights: str, detector: str, backbone: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(self: WeightsEnum, progress: bool, check_hash: bool) -> dict[str, Tensor]:
        asked.append(str(self))
        raise OSError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", download)
    with pytest.raises(OSError, match=r"could not be downloaded \(no network\)"):
        read_detector(weights, detector, backbone)
    assert asked[0].lower().replace("_", "").startswith(layout.replace("_", ""))


@pytest.mark.slow
def test_invalid_options_are_refused(tmp_path: Path) -> None:
    path = saved(smallest(), tmp_path)
    with pytest.raises(
        ValueError, match=r"it has none of the classes cell; its classes are person, bicycle, .*keep_classes"
    ):
        started(path, box_classes=["cell"], keep_classes=True)
    with pytest.raises(ValueError, match=r"layout='fcos_resnet50_fpn'.*must be fasterrcnn_mobilenet_v3_large_fpn"):
        started(path, layout="fcos_resnet50_fpn")
    with pytest.raises(ValueError, match="layout='yolo'"):
        DetectionModule(layout="yolo")  # type: ignore[arg-type]
    backbone = DetectionModule(backbone="conv4", box_classes=["cell"], channels=32, strides=[8])
    backbone.configure_model()
    torch.save(backbone.backbone.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match="keep_classes=True: needs the weights of one of torchvision's detectors"):
        started(tmp_path / "backbone.pth", backbone="conv4", box_classes=["cell"], keep_classes=True)


@pytest.mark.slow
def test_weights_of_unnamed_classes(tmp_path: Path) -> None:
    state = smallest().state_dict()
    for key in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"):
        name = f"roi_heads.box_predictor.{key}"
        state[name] = state[name][: 3 * len(state[name]) // len(CATEGORIES)]
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(ValueError, match="classes of the boxes are unknown"):
        started(tmp_path / "own.pth")
    with pytest.raises(ValueError, match=r"own\.pth: it has no names for its 3 outputs"):
        started(tmp_path / "own.pth", box_classes=["a", "b"], keep_classes=True)
    assert started(tmp_path / "own.pth", box_classes=["a", "b"]).class_names == ["a", "b"]


@pytest.mark.slow
def test_start_from_published_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    state = smallest().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, progress, check_hash: state)
    module = DetectionModule(weights="COCO", detector="faster_rcnn", backbone="mobilenet_v3_large")
    module.configure_model()
    assert len(module.class_names) == 80
    assert module.backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.testing.assert_close(module.head.rpn.head.cls_logits.weight, state["rpn.head.cls_logits.weight"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("roi_heads.box_predictor.cls_score.weight", torch.tensor(1.0)),
        ("backbone.fpn.inner_blocks.0.0.weight", torch.zeros(256, 7, 1, 1)),
        ("rpn.head.cls_logits.bias", torch.zeros(15, dtype=torch.complex64)),
    ],
)
def test_broken_files_are_refused(key: str, value: Tensor, tmp_path: Path) -> None:
    state = smallest().state_dict()
    assert key in state
    torch.save({**state, key: value}, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"broken\.pth") as caught:
        started(tmp_path / "broken.pth")
    assert "\n" not in str(caught.value)
