import pytest
import torch
from torchmetrics.classification import MultilabelAveragePrecision

from lit_cv.metrics import KnownAveragePrecision


def test_known_labels_are_scored_as_by_torchmetrics() -> None:
    torch.manual_seed(0)
    ours, theirs = KnownAveragePrecision(5), MultilabelAveragePrecision(5, ignore_index=-1)
    for n in (30, 7):
        scores, target = torch.rand(n, 5), torch.randint(-1, 2, (n, 5))
        ours.update(scores, target)
        theirs.update(scores, target)
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_labels_that_nothing_is_known_of_are_left_out() -> None:
    scores = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))
    target = torch.randint(0, 2, (12, 4), generator=torch.Generator().manual_seed(2))
    target[:, 1], target[:, 3] = -1, 0  # unknown in all images; in none
    metric, expected = KnownAveragePrecision(4), MultilabelAveragePrecision(2)
    metric.update(scores, target)
    expected.update(scores[:, [0, 2]], target[:, [0, 2]])
    assert float(metric.compute()) == pytest.approx(float(expected.compute()))
    metric.reset()
    metric.update(scores, torch.full((12, 4), -1))
    assert metric.compute().isnan()
