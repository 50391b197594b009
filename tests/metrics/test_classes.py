import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lit_cv.metrics import ClassAccuracy, MacroF1


@pytest.mark.parametrize("classes", [2, 7, 40])
def test_scores_equal_torchmetrics(classes: int) -> None:
    torch.manual_seed(classes)
    pairs = [
        (MacroF1(classes), MulticlassF1Score(classes, average="macro", ignore_index=-1)),
        (ClassAccuracy(classes), MulticlassAccuracy(classes, average=None, ignore_index=-1)),
    ]
    occurring = torch.zeros(classes, dtype=torch.bool)
    for count in (30, 17, 1):
        logits, target = (
            torch.randn(count, classes),
            torch.randint(-1, classes - 1, (count,)),
        )  # the last class never occurs
        occurring[target[target >= 0]] = True
        for metrics in pairs:
            for metric in metrics:
                metric.update(logits, target)
    for ours, theirs in pairs:
        found, expected = ours.compute(), theirs.compute()
        if isinstance(ours, ClassAccuracy):  # torchmetrics returns 0 for a class that never occurs
            assert torch.equal(found.isnan(), ~occurring)
            found, expected = found[occurring], expected[occurring]
        torch.testing.assert_close(found, expected)


def test_scores_by_hand() -> None:
    f1, accuracy = MacroF1(4), ClassAccuracy(4)
    logits, target = torch.eye(4)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, -1])
    for metric in (f1, accuracy):
        metric.update(logits, target)
    # class 0: 1 correct, 2 predicted, 1 actual: 2/3; class 1: 1 correct, 1 predicted, 2 actual: 2/3; no others
    assert f1.compute().item() == pytest.approx(2 / 3)
    assert accuracy.compute()[:2].tolist() == [1.0, 0.5]
    assert accuracy.compute()[2:].isnan().all()  # no score for a class without images


def test_scores_are_zero_without_images() -> None:
    metric = MacroF1(3)
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert metric.compute() == 0


def test_hundred_thousand_classes_need_no_matrix() -> None:
    metric = MacroF1(100_000)
    logits = torch.zeros(1, 100_000)
    logits[0, 99_999] = 1
    metric.update(logits, torch.tensor([99_999]))  # a confusion matrix would need 80 GB
    assert metric.compute() == 1
