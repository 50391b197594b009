"""Metrics chosen by the user get known targets only."""

import copy
import math
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cv.metrics.chosen import ChosenMetric, known_rows
from lit_cv.nn.detection import Detections
from lit_cv.tasks import BaseTask, build_tasks

NAN = math.nan


class Seen(Metric):
    """Records its inputs."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fed: list[tuple[Any, Any]] = []
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, output: Any, target: Any) -> None:
        self.fed.append((output, target))
        self.count += len(target)

    def compute(self) -> Tensor:
        return self.count


SEEN = f"{__name__}.Seen"


def task(**options: Any) -> BaseTask:
    (built,) = build_tasks({"it": options}).values()
    built.build_metrics()
    return built


def seen(it: BaseTask) -> Seen:
    chosen = it.metrics["val"]["seen"]  # type: ignore[index]
    assert isinstance(chosen, ChosenMetric)
    assert isinstance(chosen.metric, Seen)
    return chosen.metric


def test_unknown_labels_are_excluded() -> None:
    metrics = ["kappa", "balanced_acc", {"name": "recall", "average": "micro"}, SEEN]
    it = task(type="classification", num_classes=3, metrics=metrics)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    target = torch.randint(-1, 3, (40,), generator=generator)
    for part in (slice(0, 25), slice(25, 40)):
        it.update("val", logits[part], target[part])
    known, predicted = target >= 0, logits.argmax(1)
    assert [float(fed[1].min()) >= 0 for fed in seen(it).fed] == [True, True]
    assert seen(it).num_classes == 3
    values = it.results("val")
    truth = (target[known], predicted[known])
    assert float(values["kappa"]) == pytest.approx(sklearn.metrics.cohen_kappa_score(*truth), abs=1e-6)
    assert float(values["balanced_acc"]) == pytest.approx(sklearn.metrics.balanced_accuracy_score(*truth), abs=1e-6)
    assert float(values["recall"]) == pytest.approx(float(values["acc"]), abs=1e-6)
    assert float(values["seen"]) == known.sum()
    assert float(seen(it).count) == 0


def test_multi_label() -> None:
    it = task(type="multi_label", num_classes=2, metrics=["auroc", SEEN])
    target = torch.tensor([[1.0, 0.0], [NAN, NAN], [0.0, 1.0], [1.0, -1.0]])
    it.update("val", torch.tensor([[0.5, 1.0], [0.0, 0.0], [-1.0, 2.0], [0.2, 0.0]]), target)
    assert seen(it).fed[0][1].tolist() == [[1, 0], [0, 1], [1, -1]]
    assert float(it.results("val")["auroc"]) == 1.0


def test_regression() -> None:
    it = task(type="regression", num_outputs=1, metrics=["pearson", SEEN])
    output, target = torch.tensor([[1.0], [2.0], [4.0], [9.0]]), torch.tensor([1.0, 3.0, 4.0, NAN])
    it.update("val", output, target)
    assert seen(it).fed[0][1].tolist() == [1.0, 3.0, 4.0]
    values = it.results("val")
    assert float(values["mae"]) == pytest.approx(1 / 3)
    expected = torch.corrcoef(torch.stack([output[:3, 0], target[:3]]))[0, 1]
    assert float(values["pearson"]) == pytest.approx(float(expected), abs=1e-5)


def test_segmentation_and_detection() -> None:
    it = task(type="segmentation", classes=["ground", "cell"], metrics=["precision", SEEN])
    target = torch.tensor([[[0, 255], [1, 1]]])
    it.update("val", torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]]), target)
    assert [each.tolist() for each in seen(it).fed[0]] == [[0, 1, 1], [0, 1, 1]]
    assert float(it.results("val")["precision"]) == 1.0
    detection = task(type="detection", classes=["cell"], metrics=[SEEN])
    boxes, labels = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0])
    targets = [{"boxes": boxes, "labels": labels}]
    detection.update_metrics(detection.metrics["val"], [Detections(boxes, torch.ones(1), labels)], targets)
    (output, targets_seen) = seen(detection).fed[0]
    assert set(output[0]) == {"boxes", "scores", "labels"}
    assert targets_seen[0]["boxes"] is boxes


def test_no_known_targets_give_nan_without_warning() -> None:
    it = task(type="classification", num_classes=2, metrics=["auroc"])
    it.update("val", torch.randn(3, 2), torch.full((3,), -1))
    assert it.results("val")["auroc"].isnan()


def test_copy_is_independent() -> None:
    it = task(type="classification", num_classes=2, metrics=[SEEN])
    other = copy.deepcopy(it)
    other.update("val", torch.randn(3, 2), torch.tensor([0, 1, 1]))
    assert (len(seen(it).fed), len(seen(other).fed)) == (0, 1)


@pytest.mark.parametrize(
    ("kind", "metrics", "message"),
    [
        ("classification", "kappa", "give a list of names"),
        ("classification", [3], "metric 3: give a name"),
        ("classification", [{"average": "macro"}], "give a name"),
        ("classification", ["kapa"], "there is no such metric: did you mean 'kappa'"),
        ("classification", ["kappa", "kappa"], "two metrics would be logged as kappa"),
        ("classification", ["mape"], "the metric MeanAbsolutePercentageError does not fit this task"),
        ("classification", [{"name": "precision", "avrage": "micro"}], "no argument 'avrage': did you mean 'average'"),
        ("classification", [{"name": "precision", "average": "none"}], "Precision returned a Tensor of shape"),
        ("classification", ["torch.nn.Linear"], "which is not a subclass of Metric"),
        ("regression", ["precision"], "metric 'precision' requires `task`"),
    ],
)
def test_error_for_invalid_metrics(kind: str, metrics: Any, message: str) -> None:
    def use() -> None:
        it = task(type=kind, metrics=metrics, **({"num_classes": 2} if kind == "classification" else {}))
        it.update("val", torch.randn(2, 2), torch.tensor([0, 1]))
        it.results("val")

    with pytest.raises((ValueError, TypeError), match=message):
        use()


def test_partially_known_rows() -> None:
    rows, target = known_rows(torch.arange(6).view(3, 2), torch.tensor([[-1, 1], [-1, -1], [0, 0]]))
    assert rows.tolist() == [[0, 1], [4, 5]]
    assert target.tolist() == [[-1, 1], [0, 0]]
