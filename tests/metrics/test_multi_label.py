from typing import Any

import pytest
import torch
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from lit_cv.metrics import KnownAveragePrecision, KnownF1


def test_average_precision_equals_torchmetrics_on_known_labels() -> None:
    torch.manual_seed(0)
    ours, theirs = KnownAveragePrecision(5), MultilabelAveragePrecision(5, ignore_index=-1)
    for n in (30, 7):
        scores, target = torch.rand(n, 5), torch.randint(-1, 2, (n, 5))
        ours.update(scores, target)
        theirs.update(scores, target)
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_average_precision_excludes_unknown_labels() -> None:
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


@pytest.mark.parametrize("average", ["macro", None])
def test_f1_equals_torchmetrics_on_known_labels(average: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = KnownF1(5, average is not None), MultilabelF1Score(5, average=average, ignore_index=-1)
    for n in (30, 7):
        scores = torch.rand(n, 5, generator=generator)
        target = torch.randint(-1, 2, (n, 5), generator=generator)
        scores[:, 4], target[:, 4] = 0.1, 0  # in no image, and never predicted
        ours.update(scores, target)
        theirs.update(scores, target)
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_f1_excludes_unknown_labels() -> None:
    scores = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))
    target = torch.randint(0, 2, (12, 4), generator=torch.Generator().manual_seed(2))
    target[:, 1] = -1
    metric, single, expected = KnownF1(4), KnownF1(4, average=False), MultilabelF1Score(3, average="macro")
    expected.update(scores[:, [0, 2, 3]], target[:, [0, 2, 3]])
    for each in (metric, single):
        each.update(scores, target)
    assert float(metric.compute()) == pytest.approx(float(expected.compute()))
    assert single.compute().isnan().tolist() == [False, True, False, False]
