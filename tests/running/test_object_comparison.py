"""Comparison of detected objects."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from lit_cv.running.object_comparison import ObjectComparison

Objects = dict[str, Tensor]


def objects(count: int = 60, rows: int = 80) -> Objects:
    """Return objects of two images, with unused rows."""
    random = torch.Generator().manual_seed(0)
    used = (torch.arange(rows) < count).expand(2, -1)
    scores = torch.where(used, torch.rand(2, rows, generator=random) + 0.1, 0.0)
    boxes = torch.rand(2, rows, 4, generator=random) * 50 * used[..., None]
    return {"boxes": boxes, "scores": scores, "labels": torch.where(used, torch.arange(rows) % 3, -1)}


def difference(actual: Objects, expected: Objects, candidates: Objects | None = None) -> float:
    comparison = ObjectComparison()
    comparison.add(actual, expected, None if candidates is None else lambda: candidates)
    return comparison.difference("model.onnx")


def test_rounding_and_order_are_ignored() -> None:
    actual, expected = objects(), objects()
    actual["boxes"][:, :60] += 1e-3
    actual = {name: value.roll(2, 1) for name, value in actual.items()}
    assert 1e-5 < difference(actual, expected) < 1e-4


@pytest.mark.parametrize(("name", "change"), [("boxes", 1.0), ("scores", -0.05), ("labels", 1)])
@pytest.mark.parametrize(("changed", "passes"), [(1, True), (3, False)])
def test_few_other_objects_are_borderline(name: str, change: float, changed: int, passes: bool) -> None:
    actual, expected = objects(), objects()
    actual[name][0, :changed] += change
    if passes:
        difference(actual, expected)
    else:
        with pytest.raises(ValueError, match=r"model\.onnx: 6 of 240 objects .*: nothing was written"):
            difference(actual, expected)


def test_missing_objects_and_rows_are_detected() -> None:
    with pytest.raises(ValueError, match="20 of 220 objects"):
        difference(objects(50), objects())
    with pytest.raises(ValueError, match="120 of 120 objects"):
        difference(objects(0), objects())
    with pytest.raises(ValueError, match="shapes"):
        difference(objects(rows=70), objects())


def test_warning_without_objects(caplog: pytest.LogCaptureFixture) -> None:
    assert difference(objects(0), objects(0)) == 0
    assert "model.onnx: no objects were detected in the images" in caplog.text


@pytest.mark.parametrize(("tie", "box", "passes"), [(1e-6, 0.0, True), (0.01, 0.0, False), (1e-6, 1.0, False)])
def test_other_objects_of_equal_scores_pass_if_they_are_candidates(tie: float, box: float, passes: bool) -> None:
    candidates = objects(80)
    candidates["scores"][:, 20:] = 0.5 + tie * torch.rand(2, 60)
    actual, expected = ({name: value[:, part] for name, value in candidates.items()}
                        for part in (slice(0, 50), slice(30)))  # fmt: skip
    expected = {name: torch.cat([value, candidates[name][:, 60:]], 1) for name, value in expected.items()}
    actual["boxes"] = actual["boxes"] + box * (torch.arange(50) >= 40)[:, None]
    with nullcontext() if passes else pytest.raises(ValueError, match="objects of the program and the module"):
        assert difference(actual, expected, candidates) <= 1e-4
    with pytest.raises(ValueError, match="objects of the program and the module"):
        difference(actual, expected)


@pytest.mark.parametrize(("pixels", "passes"), [(2, True), (40, False)])
def test_masks_of_equal_objects_are_compared(pixels: int, passes: bool) -> None:
    actual, expected = objects(), objects()
    expected["masks"] = torch.ones(2, 80, 20, 20, dtype=torch.uint8)
    actual["masks"] = expected["masks"].clone()
    actual["masks"][:, :10].flatten(2)[:, :, :pixels] = 0
    actual = {name: value.roll(2, 1) for name, value in actual.items()}
    with nullcontext() if passes else pytest.raises(ValueError, match="40 of 240 objects"):
        difference(actual, expected)
