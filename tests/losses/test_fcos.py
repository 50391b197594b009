"""The loss of FCOS, compared with torchvision's and with a loop."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS

from lit_cv.losses import fcos_loss
from lit_cv.nn.detection.fcos_targets import centerness, fcos_assign

STRIDES = (8, 16, 32)


def places(height: int = 96, width: int = 128) -> tuple[Tensor, Tensor]:
    points, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        points.append((torch.stack([x, y], 2).flatten(0, 1) + 0.5) * stride)
        strides.append(torch.full((len(points[-1]),), float(stride)))
    return torch.cat(points), torch.cat(strides)


def random_boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2) * torch.tensor([100.0, 70.0])
    return torch.cat([corner, corner + 4 + torch.rand(n, 2) * torch.tensor([90.0, 60.0])], 1)


def random_case(counts: list[int], num_classes: int = 4) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
    points, strides = places()
    n, length = len(counts), len(points)
    raw = {
        "cls_logits": torch.randn(n, length, num_classes), "bbox_regression": torch.rand(n, length, 4) * 4,
        "bbox_ctrness": torch.randn(n, length, 1), "points": points, "strides": strides,
    }  # fmt: skip
    return raw, [random_boxes(k) for k in counts], [torch.randint(num_classes, (k,)) for k in counts]


@pytest.mark.parametrize("counts", [[5, 0, 12], [1], [0, 0]])
def test_losses_equal_torchvision(counts: list[int]) -> None:
    torch.manual_seed(len(counts))
    raw, boxes, labels = random_case(counts)

    class Backbone(nn.Module):
        out_channels = 32

    half = raw["strides"][:, None] / 2
    anchors = torch.cat([raw["points"] - half, raw["points"] + half], 1)
    sizes = [int((raw["strides"] == stride).sum()) for stride in STRIDES]
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    outputs = {name: raw[name] for name in ("cls_logits", "bbox_regression", "bbox_ctrness")}
    expected = FCOS(Backbone(), 4).compute_loss(targets, outputs, [anchors] * len(counts), sizes)
    found = fcos_loss(raw, boxes, labels)
    torch.testing.assert_close(found["class_loss"], expected["classification"])
    torch.testing.assert_close(found["box_loss"], expected["bbox_regression"])
    torch.testing.assert_close(found["centerness_loss"], expected["bbox_ctrness"])


def test_locations_are_assigned_to_smallest_box_of_their_scale() -> None:
    torch.manual_seed(0)
    points, strides = places()
    boxes = random_boxes(15)
    found = fcos_assign(points, strides, boxes).tolist()
    for (x, y), stride, own in zip(points.tolist(), strides.tolist(), found, strict=True):
        fitting = {}
        for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            edges = (x - x0, y - y0, x1 - x, y1 - y)
            reach = {8: (0, 64), 16: (64, 128), 32: (128, math.inf)}[int(stride)]
            near = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < 1.5 * stride
            if min(edges) > 0 and near and reach[0] < max(edges) < reach[1]:
                fitting[k] = (x1 - x0) * (y1 - y0)
        assert own == (min(fitting, key=lambda k: fitting[k]) if fitting else -1)
    assert len(set(found)) > 5


def test_centerness() -> None:
    point, box = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0, 9.0, 12.0]])
    assert float(centerness(point, box)) == pytest.approx(math.sqrt(2 / 6 * 4 / 8))


def test_perfect_outputs_have_almost_no_loss() -> None:
    points, strides = places()
    box = torch.tensor([[20.0, 12.0, 76.0, 60.0]])
    matched = fcos_assign(points, strides, box)
    logits = torch.full((1, len(points), 2), -20.0)
    logits[0, matched == 0, 1] = 20.0
    reach = torch.cat([points - box[:, :2], box[:, 2:] - points], 1).clamp_min(0) / strides[:, None]
    quality = torch.logit(centerness(points, box.expand(len(points), 4)).nan_to_num(0), eps=1e-6)
    raw = {
        "cls_logits": logits, "bbox_regression": reach[None], "bbox_ctrness": quality[None, :, None],
        "points": points, "strides": strides,
    }  # fmt: skip
    losses = fcos_loss(raw, [box], [torch.tensor([1])])
    assert float(losses["class_loss"]) < 1e-6
    assert float(losses["box_loss"]) < 1e-5
    p = centerness(points, box.expand(len(points), 4))[matched == 0].double()
    entropy = -(p * p.log() + (1 - p).clamp_min(1e-12) * (1 - p).clamp_min(1e-12).log()).mean()
    assert float(losses["centerness_loss"]) == pytest.approx(float(entropy), rel=1e-3)


def test_image_without_objects_has_only_class_loss() -> None:
    torch.manual_seed(0)
    raw, boxes, labels = random_case([0, 0])
    outputs = {name: value.requires_grad_() for name, value in raw.items() if name not in ("points", "strides")}
    losses = fcos_loss({**raw, **outputs}, boxes, labels)
    assert float(losses["box_loss"].detach()) == float(losses["centerness_loss"].detach()) == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(value.grad).all() for value in outputs.values())
    assert outputs["cls_logits"].grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    raw, boxes, labels = random_case([3, 4])
    half = {name: v.bfloat16() if name not in ("points", "strides") else v for name, v in raw.items()}
    single = {name: v.float() for name, v in half.items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = fcos_loss(half, boxes, labels)
    for name, expected in fcos_loss(single, boxes, labels).items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected)
