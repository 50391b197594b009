"""Detected objects as tensors of fixed sizes."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from lit_cv.nn.detection.padded import select_padded, suppress_ranked
from lit_cv.nn.detection.selection import Limits, PaddedDetections, Selection, best, select

SIZE = (80, 100)
LIMITS = Limits(0.3, 0.5, 40)


def places(n: int = 3, count: int = 200, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return boxes that overlap often, in part outside of the image, and scores; the last image has no objects."""
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(n, count, 2, generator=random) * 90 - 5
    boxes = torch.cat([corners, corners + torch.rand(n, count, 2, generator=random) * 40], 2)
    scores = torch.rand(n, count, classes, generator=random)
    scores[-1] *= 0.3
    return boxes, scores


def check_equal(padded: PaddedDetections, boxes: Tensor, scores: Tensor, limits: Limits,
                selection: Selection, groups: tuple[int, ...] = ()) -> list[int]:  # fmt: skip
    """Check that padded objects are those of `select`, and return their numbers."""
    counts = []
    for i in range(len(boxes)):
        expected = select(boxes[i], scores[i], SIZE, limits, selection, groups)
        counts.append(len(expected.scores))
        for name, unused in (("boxes", 0), ("scores", 0), ("labels", -1)):
            rows = getattr(padded, name)[i]
            assert torch.equal(rows[: counts[-1]], getattr(expected, name)), name
            assert (rows[counts[-1] :] == unused).all(), name
    return counts


@pytest.mark.parametrize("groups", [(), (120, 50, 30)])
@pytest.mark.parametrize("selection", [Selection(), Selection(60, 0.0), Selection(None, 8.0)])
def test_padded_objects_equal_selected_ones(groups: tuple[int, ...], selection: Selection) -> None:
    boxes, scores = places()
    for limits in (LIMITS, Limits(0.6, 0.2, 300), Limits(0.0, 0.9, 10)):
        padded = select_padded(boxes, scores, SIZE, limits, selection, groups)
        assert padded.boxes.shape == (3, limits.max_detections, 4)
        counts = check_equal(padded, boxes, scores, limits, selection, groups)
        assert counts[0] > 5
        assert counts[2] == 0 or limits.score_threshold == 0


def test_all_candidates_without_suppression() -> None:
    boxes, scores = places()
    padded = select_padded(boxes, scores, SIZE, LIMITS, Selection(90), suppress=False)
    assert padded.scores.shape == (3, 90)
    check_equal(padded, boxes, scores, Limits(0.3, 1.0, 90), Selection(90))


@pytest.mark.parametrize("selection", [Selection(60), Selection(None)])
def test_objects_of_equal_scores_are_selected_by_position(selection: Selection) -> None:
    boxes, scores = places()
    scores = (scores * 4).round() / 4  # five values, for thousands of candidates
    for groups in ((), (120, 50, 30)):
        padded = select_padded(boxes, scores, SIZE, LIMITS, selection, groups)
        assert check_equal(padded, boxes, scores, LIMITS, selection, groups)[0] > 5


def test_padded_objects_with_a_box_for_each_class() -> None:
    boxes, scores = places()
    moved = torch.stack([boxes, boxes + 7, boxes - 4], 2)
    padded = select_padded(moved, scores, SIZE, LIMITS, Selection(None))
    assert check_equal(padded, moved, scores, LIMITS, Selection(None))[0] > 5


@pytest.mark.parametrize("iou_threshold", [0.1, 0.3, 0.5])
def test_ranked_suppression_equals_torchvision(iou_threshold: float) -> None:
    boxes, scores = places(count=400, classes=1)
    scores, order = scores[..., 0].sort(descending=True)
    scores = torch.where(scores > 0.2, scores, 0.0)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    kept = suppress_ranked(boxes, scores, iou_threshold)
    for i in range(len(boxes)):
        used = int((scores[i] > 0).sum())
        expected = nms(boxes[i, :used], scores[i, :used], iou_threshold)
        assert kept[i].nonzero()[:, 0].tolist() == expected.tolist()
        assert 5 < len(expected) < used


@pytest.mark.slow
def test_exported_loop_takes_any_batch_size() -> None:
    class Select(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> PaddedDetections:
            return select_padded(boxes, scores, SIZE, LIMITS, Selection())

    boxes, scores = places()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(Select(), (boxes[:2], scores[:2]), dynamic_shapes=(batch, batch)).module()
    for n in (1, 3):
        counts = check_equal(program(boxes[:n], scores[:n]), boxes[:n], scores[:n], LIMITS, Selection())
        assert counts[0] > 5


def test_equal_values_are_ranked_by_position() -> None:
    values = torch.randint(-40, 40, (3, 2000)).float() / 7
    values[0, ::3] = torch.nextafter(values[0, ::3], torch.tensor(torch.inf))
    for signed in (values, values.sigmoid(), values.clamp_min(0)):
        expected = torch.sort(signed, dim=1, descending=True, stable=True)
        top, index = best(signed, 700)
        assert torch.equal(index, expected.indices[:, :700])
        assert torch.equal(top, expected.values[:, :700])
