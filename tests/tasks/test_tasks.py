"""Losses and metrics of each kind of task, with missing targets."""

import math
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import Tensor

from lit_cv.losses import dice_loss, pixel_cross_entropy
from lit_cv.metrics.r2 import KnownR2Score
from lit_cv.nn import create_backbone
from lit_cv.tasks import BaseTask, Features, MultiLabelTask, Task, TaskLoss, build_tasks

NAN = math.nan


def task(size: tuple[int, int] | None = None, **options: Any) -> Task:
    """A task on a small backbone."""
    torch.manual_seed(0)
    (built,) = build_tasks({"it": options}).values()
    built.head = built.configure(create_backbone("conv4"), size)
    built.build_metrics()
    return built


def total(it: BaseTask, loss: TaskLoss) -> float:
    return float(it.total({part: it.term(part, *sums) for part, sums in loss.parts.items()}).detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification(smoothing: float) -> None:
    it = task(type="classification", num_classes=3, label_smoothing=smoothing)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    chosen, target = it.labeled({"label": torch.tensor([2, -1, 0, -1])})
    assert chosen is not None
    assert chosen.tolist() == [0, 2]
    assert target.tolist() == [2, 0]
    log = logits.double().log_softmax(1)[chosen]
    soft = torch.eye(3).double()[target]
    for training, share in ((True, smoothing), (False, 0.0)):
        it.train(training)
        expected = -((soft * (1 - share) + share / 3) * log).sum(1)
        torch.testing.assert_close(it.loss(logits[chosen], target).double(), expected, rtol=1e-5, atol=1e-6)
        assert total(it, it.batch_loss(logits[chosen], target)) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_mixed_labels() -> None:
    it = task(type="classification", num_classes=3)
    chosen, target = it.labeled({"label": torch.tensor([[0.3, 0.7, 0.0], [-1.0, -1.0, -1.0]])})
    assert chosen is not None
    assert chosen.tolist() == [0]
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    expected = -(target * logits.log_softmax(1)).sum()
    assert float(it.loss(logits, target)) == pytest.approx(float(expected))


def test_multi_label_with_unknown_labels() -> None:
    it = task(type="multi_label", num_classes=3).eval()
    labels = torch.tensor([[1.0, 0.0, NAN], [-1.0, -1.0, -1.0], [0.0, 1.0, 1.0]])
    chosen, target = it.labeled({"label": labels})
    assert chosen is not None
    assert chosen.tolist() == [0, 2]
    logits = torch.tensor([[0.5, -1.0, 9.0], [2.0, 0.0, -1.0]])
    p = logits.double().sigmoid()
    first = -(p[0, 0].log() + (1 - p[0, 1]).log()) / 2
    second = -((1 - p[1, 0]).log() + p[1, 1].log() + p[1, 2].log()) / 3
    assert it.loss(logits, target).tolist() == pytest.approx([float(first), float(second)], rel=1e-5)
    it.update("val", logits, target)
    values = it.results("val")
    assert float(values["acc"]) == pytest.approx(2 / 5)  # correct: the first two labels of the first image
    assert values["map"].isfinite()


@pytest.mark.parametrize(("kind", "of"), [("mse", lambda e: e**2), ("l1", abs), ("huber", lambda e: abs(e) - 0.5)])
def test_regression_with_unknown_values(kind: str, of: Any) -> None:
    it = task(type="regression", num_outputs=2, loss=kind)
    values = torch.tensor([[1.0, NAN], [NAN, NAN], [5.0, -3.0]])
    chosen, target = it.labeled({"it": values})
    assert chosen is not None
    assert chosen.tolist() == [0, 2]
    output = torch.tensor([[4.0, 100.0], [1.0, 1.0]], requires_grad=True)
    loss = it.loss(output, target)
    assert loss.tolist() == pytest.approx([of(3.0), (of(4.0) + of(4.0)) / 2])
    loss.sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert float(output.grad[0, 1]) == 0.0  # its value is unknown


def test_single_value_may_be_flat() -> None:
    it = task(type="regression", key="depth")
    output = torch.tensor([[1.0], [2.0]])
    assert it.loss(output, torch.tensor([3.0, 2.0])).tolist() == [4.0, 0.0]
    with pytest.raises(ValueError, match=r"targets of shape \(2, 3\) in 'depth'.*set tasks\.it\.num_outputs"):
        it.loss(output, torch.zeros(2, 3))


def test_r2_matches_scikit_learn_on_known_values() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(40, 3, generator=generator) * torch.tensor([1.0, 50.0, 0.01]) + 7
    prediction = target + 0.3 * target.std(0) * torch.randn(40, 3, generator=generator)
    target[torch.rand(40, 3, generator=generator) < 0.3] = NAN
    metric = KnownR2Score(3)
    for part in range(0, 40, 15):
        metric.update(prediction[part : part + 15], target[part : part + 15])
    known = ~target.isnan()
    expected = [
        sklearn.metrics.r2_score(target[known[:, k], k].numpy(), prediction[known[:, k], k].numpy()) for k in range(3)
    ]
    assert float(metric.compute()) == pytest.approx(sum(expected) / 3, abs=1e-5)


def boxes() -> dict[str, Any]:
    return {
        "image": torch.zeros(3, 3, 32, 32, dtype=torch.uint8),
        "boxes": [torch.tensor([[2.0, 2.0, 20.0, 20.0]]), None, torch.zeros(0, 4)],
        "box_labels": [torch.tensor([1]), None, torch.zeros(0, dtype=torch.int64)],
    }


def features(images: int = 3) -> Features:
    backbone = create_backbone("conv4").eval()
    x = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Features(*(lambda pooled, maps: (pooled, (32, 32), maps))(*backbone.forward_both(x)))


def test_detection_loss_is_that_of_the_detector() -> None:
    it = task((32, 32), type="detection", classes=["cat", "dog"], channels=32, num_convs=1)
    chosen, target = it.labeled(boxes())
    assert chosen is not None
    assert chosen.tolist() == [0, 2]  # the second image's objects are unknown, the third has none
    selected = features().take(chosen)
    output = it(selected)
    loss = it.batch_loss(output, target)
    expected = it.head.losses(output, [entry["boxes"] for entry in target], [entry["labels"] for entry in target])
    assert total(it, loss) == pytest.approx(float(sum(expected.values()).detach()), rel=1e-6)
    assert (set(loss.parts), loss.images) == ({"class", "box", "centerness"}, 2)
    assert set(it.no_loss().parts) == set(loss.parts)
    flags = it.labeled({**boxes(), "boxes_known": torch.tensor([True, True, False])})[0]
    assert flags is not None
    assert flags.tolist() == [0]
    predictions = it.predict(output, {"image": torch.zeros(2, 3, 32, 32)})
    assert {name: len(value) for name, value in predictions.items()} == {"boxes": 2, "box_labels": 2, "scores": 2}


def test_crowds_are_excluded_from_training_but_evaluated() -> None:
    it = task((32, 32), type="detection", classes=["cat", "dog"], channels=32, num_convs=1)
    batch = {
        "boxes": [torch.tensor([[2.0, 2, 20, 20], [0.0, 0, 32, 32]])], "box_labels": [torch.tensor([1, 0])],
        "iscrowd": [torch.tensor([False, True])],
    }  # fmt: skip
    _, target = it.labeled(batch)
    output = it(features(1))
    alone = it.head.losses(output, [torch.tensor([[2.0, 2, 20, 20]])], [torch.tensor([1])])
    assert total(it, it.batch_loss(output, target)) == pytest.approx(float(sum(alone.values()).detach()), rel=1e-6)
    it.update("val", output, target)
    assert "map50" in it.results("val")


def test_segmentation_loss_is_cross_entropy_and_dice() -> None:
    it = task((32, 32), type="segmentation", classes=["ground", "cat"], channels=32, dice_weight=0.5).eval()
    mask = torch.full((3, 32, 32), 255)
    mask[0, :, :20] = 1
    mask[2, :9] = 0
    chosen, target = it.labeled({"mask": mask})
    assert chosen is not None
    assert chosen.tolist() == [0, 2]
    logits = it(features().take(chosen))
    expected = pixel_cross_entropy(logits, target) + 0.5 * dice_loss(logits, target)
    loss = it.batch_loss(logits, target)
    assert total(it, loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert loss.parts["ce"][1] == 32 * 20 + 9 * 32
    it.update("val", logits, target)
    known = target != 255
    accuracy = (logits.argmax(1) == target)[known].float().mean()
    assert float(it.results("val")["pixel_acc"]) == pytest.approx(float(accuracy))
    assert it.predict(logits, {})["masks"].shape == (2, 32, 32)


@pytest.mark.parametrize("options", [{"type": "classification", "num_classes": 3}, {"type": "regression"}])
def test_no_target_gives_zero_loss_in_the_graph(options: dict[str, Any]) -> None:
    it = task(**options)
    for batch in ({}, {it.key: torch.full((4,), -1 if "num_classes" in options else NAN)}):
        assert it.labeled(batch)[1] is None
    with torch.no_grad():
        next(it.parameters()).fill_(NAN)
    loss = it.no_loss()
    assert total(it, loss) == 0.0
    sum(total for total, _ in loss.parts.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and (p.grad == 0).all() for p in it.parameters())


def test_error_for_loss_of_wrong_shape() -> None:
    class Mean(type(task(type="regression"))):  # type: ignore[misc]
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return super().loss(output, target).mean()  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"Mean.loss returned the shape \(\) for 2 images"):
        Mean("it").batch_loss(torch.zeros(2, 1), torch.zeros(2))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "tasks is empty"),
        ({"train": {"type": "regression"}}, "'train' is not a valid task name"),
        ({"a": {}}, "tasks.a={}: the type is missing"),
        ({"a": {"type": "clasification"}}, "did you mean 'classification'"),
        ({"a": {"type": "classification", "num_class": 3}}, "no argument 'num_class': did you mean 'num_classes'"),
        ({"a": {"type": "regression", "loss": "l3"}}, "tasks.a: loss='l3': must be one of mse, l1, huber"),
        ({"a": {"type": "nowhere.Task"}}, "module nowhere was not found"),
        ({"a": {"type": "lit_cv.tasks.Nothing"}}, r"lit_cv.tasks has no Nothing\."),
        ({"a": {"type": "lit_cv.tasks.RegresionTsk"}}, r"RegresionTsk: did you mean 'RegressionTask'"),
        ({"a": {"type": "torch.nn.Linear"}}, "is not a subclass of BaseTask"),
        ({"a": {"type": "classification", "label_smoothing": 1}}, "tasks.a: label_smoothing=1"),
    ],
)
def test_error_for_invalid_tasks(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tasks(tasks)


def test_error_for_unknown_classes() -> None:
    for options in ({"type": "classification"}, {"type": "detection"}, {"type": "segmentation"}):
        with pytest.raises(ValueError, match=r"of the task it (is|are) unknown: set `tasks\.it\."):
            task(**options)


def test_error_for_single_labels_in_multi_label_task() -> None:
    task = MultiLabelTask("tags", num_classes=3)
    with pytest.raises(ValueError, match=r"the task tags is multi_label .* set tasks\.tags\.type to classification"):
        task.known(torch.tensor([0, 2]))
