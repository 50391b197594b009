"""Comparison of detected objects."""

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


def difference(actual: Objects, expected: Objects) -> float:
    comparison = ObjectComparison()
    comparison.add(actual, expected)
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
