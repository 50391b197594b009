"""Detectors: losses and detections."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou

from lit_cv.nn import create_backbone
from lit_cv.nn.detection import DETECTORS, Limits, build_detector, default_strides, named_entries
from lit_cv.nn.detection.fcos import FCOSDetector
from lit_cv.nn.detection.places import map_anchors, map_points
from lit_cv.nn.detection.selection import Selection, select

NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
BOXES = [torch.tensor([[6.0, 8.0, 30.0, 28.0], [34.0, 30.0, 60.0, 58.0]]), NOTHING[0]]
LABELS = [torch.tensor([0, 2]), NOTHING[1]]


def images() -> Tensor:
    """Return two images, one with a red and a blue rectangle, one empty, with boxes and labels."""
    shown = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    for (x0, y0, x1, y1), label in zip(BOXES[0].int().tolist(), LABELS[0].tolist(), strict=True):
        shown[0, :, y0:y1, x0:x1] = 0
        shown[0, label, y0:y1, x0:x1] = 255
    return shown


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("name", DETECTORS)
def test_detector_fits_two_images(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    backbone = create_backbone("resnet9_small")
    detector = build_detector(name, backbone.feature_levels(), 3, [4, 8], channels=32, num_convs=1)
    network = nn.ModuleList([backbone, detector]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=80)
    masks = [torch.zeros(2, 64, 64, dtype=torch.bool), torch.zeros(0, 64, 64, dtype=torch.bool)]
    masks[0][0, 8:28, 6:18] = masks[0][1, 30:44, 34:60] = True  # the left and the upper half
    targets = {"masks": masks} if detector.predicts_masks else {}
    first = None
    for _ in range(80):  # the learning rate falls to 0, so that weights and BatchNorm statistics settle
        losses = detector.losses(detector(backbone.forward_maps(images())), BOXES, LABELS, **targets)
        total = torch.stack(list(losses.values())).sum()
        first = float(total.detach()) if first is None else first
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    assert float(total.detach()) < 0.5 * first
    network.eval()
    with torch.no_grad():
        some, none = detector.detect(
            detector(backbone.forward_maps(images())), [(64, 64)] * 2, Limits(score_threshold=0.3)
        )
    assert len(none.boxes) == 0
    overlap = box_iou(BOXES[0], some.boxes)
    assert (overlap.amax(1) > 0.6).all()
    assert some.labels[overlap.argmax(1)].tolist() == LABELS[0].tolist()
    assert (some.masks is not None) == detector.predicts_masks
    if some.masks is not None:
        found = some.masks[overlap.argmax(1)]
        assert ((found & masks[0]).sum((1, 2)) / (found | masks[0]).sum((1, 2)) > 0.7).all()


@pytest.mark.slow
def test_fcos_starts_with_positive_distances_to_all_sides() -> None:
    for seed in range(20):  # a side that is negative at all locations gets no gradient
        torch.manual_seed(seed)
        backbone = create_backbone("resnet9_small")
        detector = build_detector("fcos", backbone.feature_levels(), 3, [4, 8], channels=32, num_convs=1)
        distances = detector(backbone.forward_maps(images()))["bbox_regression"]
        assert (distances > 0).all(1).all(), seed


@pytest.mark.parametrize("name", DETECTORS)
def test_batch_without_objects(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small")
    detector = build_detector(name, backbone.feature_levels(), 2, [4, 8], channels=32)
    targets = {"masks": [torch.zeros(0, 64, 64, dtype=torch.bool)] * 2} if detector.predicts_masks else {}
    losses = detector.losses(detector(backbone.forward_maps(images())), [NOTHING[0]] * 2, [NOTHING[1]] * 2, **targets)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_other_sizes_and_padding(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small").eval()
    detector = build_detector(name, backbone.feature_levels(), 2, [4, 8], channels=32).eval()
    with torch.no_grad():
        detector.detect(detector(backbone.forward_maps(images())), [(64, 64)] * 2, Limits(0.0))
        raw = detector(backbone.forward_maps(torch.randint(0, 256, (2, 3, 72, 100), dtype=torch.uint8)))
        found = detector.detect(raw, [(72, 100), (40, 50)], Limits(0.0, max_detections=30))
    for own, (height, width) in zip(found, [(72, 100), (40, 50)], strict=True):
        assert 0 < len(own.boxes) <= 30
        assert own.boxes.min() >= 0
        assert own.boxes[:, 2].max() <= width
        assert own.boxes[:, 3].max() <= height
        assert (own.scores[:-1] >= own.scores[1:]).all()


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn"])
def test_objects_of_equal_scores_are_those_of_programs(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small").eval()
    detector: Any = build_detector(name, backbone.feature_levels(), 2, [4, 8], channels=32).eval()
    size, limits = (192, 192), Limits(0.0, 0.5, max_detections=30)
    with torch.no_grad():  # places far from the border have exactly equal scores
        raw = detector(backbone.forward_maps(torch.full((1, 3, *size), 90, dtype=torch.uint8)))
        if name == "faster_rcnn":  # rounding may tell its final scores apart
            detector.rpn._pre_nms_top_n = detector.rpn._post_nms_top_n = {"testing": 100}
            boxes, used = detector._propose_padded(raw, size)
            assert torch.equal(detector._propose(raw, [size])[0], boxes[used])
            return
        found, padded = detector.detect(raw, [size], limits)[0], detector.detect_padded(raw, size, limits)
    assert len(found.scores.unique()) < len(found.scores)
    for name, value in named_entries(found).items():
        assert torch.equal(value, getattr(padded, name)[0, : len(value)])


def test_fcos_decodes_targets() -> None:
    detector = FCOSDetector({8: 32}, 2, [8], 32, 1)
    points, strides = map_points([(8, torch.zeros(1, 1, 4, 6))])
    assert points[:2].tolist() == [[4.0, 4.0], [12.0, 4.0]]
    reach = torch.rand(2, 24, 4) + 0.5
    logits = torch.full((2, 24, 2), -9.0)
    logits[0, 9, 1], logits[1, 20, 0] = 2.0, 1.0
    quality = torch.zeros(2, 24, 1)
    raw = {
        "cls_logits": logits,
        "bbox_regression": reach,
        "bbox_ctrness": quality,
        "points": points,
        "strides": strides,
    }
    first, second = detector.detect(raw, [(32, 48)] * 2, Limits(score_threshold=0.2))
    x, y = 3 * 8 + 4, 1 * 8 + 4
    left, top, right, bottom = (reach[0, 9] * 8).tolist()
    torch.testing.assert_close(first.boxes, torch.tensor([[x - left, y - top, x + right, y + bottom]]))
    expected = (torch.tensor(2.0).sigmoid() * 0.5).sqrt()
    torch.testing.assert_close(first.scores[0], expected)
    assert (first.labels.tolist(), second.labels.tolist()) == ([1], [0])


def test_nms_is_per_class() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [1.0, 1, 21, 21], [30.0, 30, 44, 44], [0.0, 0, 0.5, 9]])
    scores = torch.tensor([[0.8, 0.0], [0.9, 0.7], [0.1, 0.0], [0.9, 0.0]])
    found = select(boxes, scores, (40, 40), Limits(0.05, 0.5, max_detections=10), Selection())
    assert found.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.1]))
    torch.testing.assert_close(found.boxes[2], torch.tensor([30.0, 30, 40, 40]))
    assert len(select(boxes, scores, (40, 40), Limits(0.05, 0.5, max_detections=1), Selection()).boxes) == 1


def test_anchors_equal_torchvision_plus_half_stride() -> None:
    maps = {8: torch.zeros(1, 1, 3, 4), 16: torch.zeros(1, 1, 2, 2)}
    generator = AnchorGenerator(((32.0, 48.0), (64.0, 96.0)), ((0.5, 1.0, 2.0),) * 2)
    generator.cell_anchors = [
        generator.generate_anchors(s, r) for s, r in zip(generator.sizes, generator.aspect_ratios, strict=True)
    ]
    expected = generator.grid_anchors([[3, 4], [2, 2]], [[torch.tensor(8)] * 2, [torch.tensor(16)] * 2])
    points, strides = map_points(maps.items())
    own = map_anchors(points, strides, (4.0, 6.0), (0.5, 1.0, 2.0))
    # torchvision orders sizes within ratios and rounds to integers
    own = own.view(-1, 3, 2, 4) - strides[:, None, None, None] / 2
    torch.testing.assert_close(
        own.flatten(0, 2), torch.cat(expected).view(-1, 3, 2, 4).flatten(0, 2), atol=0.51, rtol=0
    )


def test_retinanet_losses_equal_torchvision() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small")
    detector: Any = build_detector("retinanet", backbone.feature_levels(), 3, [4, 8], channels=32)
    raw = {name: value.detach() for name, value in detector(backbone.forward_maps(images())).items()}

    class Backbone(nn.Module):
        out_channels = 32

    reference = RetinaNet(Backbone(), 3)
    targets = [{"boxes": b, "labels": k} for b, k in zip(BOXES, LABELS, strict=True)]
    expected = reference.compute_loss(targets, raw, [raw["anchors"]] * 2)
    found = detector.losses(raw, BOXES, LABELS)
    torch.testing.assert_close(found["class_loss"], expected["classification"])
    torch.testing.assert_close(found["box_loss"], expected["bbox_regression"])
    some = reference.postprocess_detections(
        {name: [raw[name]] for name in ("cls_logits", "bbox_regression")}, [[raw["anchors"]]] * 2, [(64, 64)] * 2
    )
    own = detector.detect(raw, [(64, 64)] * 2, Limits(0.05, 0.5, 300))
    assert [len(o.boxes) for o in own] == [len(s["boxes"]) for s in some]


def test_faster_rcnn_proposals_equal_torchvision() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet9_small").eval()
    detector: Any = build_detector("faster_rcnn", backbone.feature_levels(), 3, [4, 8], channels=32).eval()
    raw = detector(backbone.forward_maps(images()))

    class Anchors(nn.Module):
        def forward(self, listed: Any, features: Any) -> list[Tensor]:
            return [raw["anchors"]] * 2

    detector.rpn.anchor_generator = Anchors()
    listed = ImageList(images(), [(64, 64)] * 2)
    with torch.no_grad():
        expected, _ = detector.rpn(listed, raw["features"])
        for own, other in zip(detector._propose(raw, [(64, 64)] * 2), expected, strict=True):
            torch.testing.assert_close(own, other)
        found, _ = detector.roi(raw["features"], expected, [(64, 64)] * 2)
    for own, other in zip(detector.detect(raw, [(64, 64)] * 2, Limits(0.05, 0.5, 100)), found, strict=True):
        assert len(own.boxes) <= len(other["boxes"])  # lit_cv drops boxes narrower than a pixel
        assert own.scores.tolist() == other["scores"][: len(own.scores)].tolist() or len(own.boxes) < len(
            other["boxes"]
        )


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no detector 'yolo': choose one of fcos, retinanet, faster_rcnn, mask_rcnn"):
        build_detector("yolo", {8: 8}, 3, [8])
    with pytest.raises(ValueError, match="channels=40"):
        build_detector("fcos", {8: 8}, 3, [8], channels=40)
    with pytest.raises(ValueError, match="num_classes=0"):
        build_detector("fcos", {8: 8}, 0, [8])


def test_default_strides() -> None:
    assert default_strides((480, 640)) == [8, 16, 32, 64, 128]
    assert default_strides((240, 320)) == [8, 16, 32, 64]
    assert default_strides((32, 32)) == [4, 8]
    assert default_strides(None) == [8, 16, 32, 64, 128]
