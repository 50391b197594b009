import copy
import warnings
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv import SemiSupervisedModule, WeakStrongAugmentation
from lit_cv.losses import fairness_loss
from lit_cv.modules.propagated_labels import PropagatedLabels

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {"backbone": "conv4", "num_classes": 3, "in_channels": 1}


def built(**options: Any) -> SemiSupervisedModule:
    torch.manual_seed(0)
    module = SemiSupervisedModule(**SMALL | options)
    module.configure_model()
    for weight in module.head.parameters():  # predictions of different confidence
        weight.data.mul_(3)
    return module


def made_batch(labeled: int = 2, unlabeled: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    count = labeled + unlabeled
    images = torch.randint(256, (2 * count, 1, 16, 16), generator=generator).byte()
    label = torch.cat([torch.arange(labeled) % 3, torch.full((unlabeled,), -1)])
    order = torch.randperm(count, generator=generator)
    return {
        "image": images[:count], "label": label[order], "index": torch.arange(count),
        "strong": images[count : count + unlabeled],
    }  # fmt: skip


def split_logits(module: SemiSupervisedModule, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of labeled images, of weak and of strong views, of the pass that a step makes."""
    with torch.no_grad():
        logits = copy.deepcopy(module)(torch.cat([batch["image"], batch["strong"]]))
    unlabeled, count = batch["label"] < 0, len(batch["image"])
    return logits[:count][~unlabeled], logits[:count][unlabeled], logits[count:]


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_loss_equals_its_formula(targets: Any) -> None:
    module, batch = built(confidence=0.6, unlabeled_weight=0.7, targets=targets, temperature=0.4), made_batch()
    labeled, weak, strong = split_logits(module, batch)
    total, kept = 0.0, 0
    for weak_row, strong_row in zip(weak, strong, strict=True):
        probability = weak_row.softmax(0)
        if probability.max() >= 0.6:
            target = (weak_row / 0.4).softmax(0) if targets == "soft" else F.one_hot(weak_row.argmax(), 3).float()
            total -= float((target * strong_row.log_softmax(0)).sum())
            kept += 1
    assert 0 < kept < len(weak)
    expected = float(F.cross_entropy(labeled, batch["label"][batch["label"] >= 0]))
    output = module.step(batch, "train")
    assert float(output["unlabeled_loss"]) == pytest.approx(total / len(weak), rel=1e-4)
    assert float(output["supervised_loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(output["loss"].detach()) == pytest.approx(expected + 0.7 * total / len(weak), rel=1e-4)
    assert float(output["coverage"]) == pytest.approx(kept / len(weak))


def test_free_threshold_adds_the_fairness_loss() -> None:
    module, batch = built(threshold="free", fairness_weight=0.5, average_decay=0.5), made_batch()
    _, weak, strong = split_logits(module, batch)
    output = module.step(batch, "train")
    rule: Any = module.threshold
    mask = weak.softmax(1).max(1).values >= rule()[weak.argmax(1)]
    assert float(output["coverage"]) == pytest.approx(float(mask.float().mean()))
    expected = fairness_loss(strong, mask, rule.probabilities, rule.histogram)
    assert float(output["fairness_loss"]) == pytest.approx(float(expected), rel=1e-4)
    total = output["supervised_loss"] + output["unlabeled_loss"] + 0.5 * output["fairness_loss"]
    assert float(output["loss"].detach()) == pytest.approx(float(total), rel=1e-5)


def test_predictions_below_the_threshold_move_no_weight() -> None:
    batch = made_batch()
    below, alone = (built(confidence=1.0, running_statistics=True).train() for _ in range(2))
    below.step(batch, "train")["loss"].backward()
    labeled = batch["label"] >= 0
    F.cross_entropy(alone(batch["image"][labeled]), batch["label"][labeled]).backward()
    for (name, found), expected in zip(below.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_pseudo_labels_carry_no_gradient() -> None:
    module, batch = built(confidence=0.34, running_statistics=True, unlabeled_weight=1.0).train(), made_batch()
    module.step(batch, "train")["loss"].backward()
    other = built(running_statistics=True).train()
    unlabeled = batch["label"] < 0
    with torch.no_grad():
        labels = other(batch["image"][unlabeled]).argmax(1)
    loss = F.cross_entropy(other(batch["image"][~unlabeled]), batch["label"][~unlabeled])
    (loss + F.cross_entropy(other(batch["strong"]), labels)).backward()
    for (name, found), expected in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_batch_norm_takes_the_statistics_of_all_views() -> None:
    module, batch = built().train(), made_batch()
    expected, unlabeled = copy.deepcopy(module), batch["label"] < 0
    with torch.no_grad():
        expected(torch.cat([batch["image"][~unlabeled], batch["strong"], batch["image"][unlabeled]]))
    module.step(batch, "train")
    for (name, found), buffer in zip(module.backbone.named_buffers(), expected.backbone.buffers(), strict=True):
        assert torch.equal(found, buffer), name


@pytest.mark.parametrize(("options", "passes"), [({}, [2 + 6 + 6]), ({"running_statistics": True}, [2 + 6, 6])])
def test_weak_views_pass_on_their_own_where_batches_do_not_matter(options: dict[str, Any], passes: list[int]) -> None:
    module, batch = built(**options).train(), made_batch()
    sizes: list[int] = []
    module.backbone.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    module.step(batch, "train")
    assert sizes == passes


@pytest.mark.parametrize(("multi_label", "displayed"), [(False, "val_acc"), (True, "val_map")])
def test_newest_weights_are_kept_and_accuracy_is_displayed(multi_label: bool, displayed: str) -> None:
    module = built(multi_label=multi_label)
    assert module.monitor is None
    assert module.displayed == displayed


def test_several_labels_each_get_a_pseudo_label() -> None:
    module, batch = built(multi_label=True, confidence=0.8), made_batch()
    batch["label"] = torch.where(batch["label"][:, None] < 0, -1.0, F.one_hot(batch["label"].clamp_min(0), 3).float())
    unlabeled, count = batch["label"][:, 0] < 0, len(batch["image"])
    with torch.no_grad():
        logits = copy.deepcopy(module)(torch.cat([batch["image"], batch["strong"]]))
    total = 0.0
    for weak_row, strong_row in zip(logits[:count][unlabeled].sigmoid(), logits[count:].sigmoid(), strict=True):
        for weak, strong in zip(weak_row.tolist(), strong_row.double().tolist(), strict=True):
            target = 1.0 if weak >= 0.8 else 0.0 if weak <= 0.2 else None
            if target is not None:
                total += float(F.binary_cross_entropy(torch.tensor(strong), torch.tensor(target)))
    output = module.step(batch, "train")
    assert 0 < float(output["coverage"]) < 1
    assert float(output["unlabeled_loss"]) == pytest.approx(total / (6 * 3), rel=1e-3)


@pytest.mark.parametrize(
    "option",
    [{"threshold": "free"}, {"distribution_alignment": True}, {"targets": "soft"}, {"propagation_epochs": 1}],
)
def test_several_labels_refuse_options_of_one_label(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*several labels"):
        built(multi_label=True, **option)


@pytest.mark.parametrize(
    "option",
    [
        {"unlabeled_ratio": 0}, {"confidence": 0.0}, {"unlabeled_weight": -1.0}, {"temperature": 0.0},
        {"fairness_weight": -1.0}, {"average_decay": 1.0}, {"propagation_epochs": 0},
        {"cache_features": True, "strategy": "feature_extraction"},
    ],
)  # fmt: skip
def test_error_names_option(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        SemiSupervisedModule(**option)


def test_batch_without_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="learns from batches with `image` and `label`"):
        built().step({"image": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}, "train")


class Poisoned(DigitsDataModule):
    """Digits whose labels beyond the ones kept are replaced."""

    def __init__(self, poison: bool) -> None:
        super().__init__(batch_size=4, labels_per_class=2)
        self.poison = poison

    def finish(self, dataset: Any, split: Any) -> Any:
        if split != "train" or not self.poison:
            return dataset
        labels = dataset.labels.clone()
        hidden = torch.ones(len(labels), dtype=torch.bool)
        hidden[torch.as_tensor(self._labeled)] = False
        labels[hidden] = (labels[hidden] + 1) % 10
        return dataset.subset(range(len(labels)), labels)


@pytest.mark.parametrize("options", [{"threshold": "flex", "distribution_alignment": True}, {"propagation_epochs": 1}])
def test_hidden_labels_are_never_read(options: dict[str, Any]) -> None:
    states = []
    for poison in (False, True):
        L.seed_everything(0, verbose=False)
        module = SemiSupervisedModule(backbone="conv4", **options)
        callbacks: Any = [WeakStrongAugmentation(weak=[], strong=["horizontal_flip"])]
        limits = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 0}
        L.Trainer(**QUIET, **limits, callbacks=callbacks).fit(module, Poisoned(poison))
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_propagated_labels_count_by_certainty_and_then_by_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = built(propagation_epochs=1, running_statistics=True), made_batch()
    _, predicted, learned = split_logits(module, batch)
    index = torch.arange(len(predicted))
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    module.propagated = PropagatedLabels(8, 3)
    module.propagated.update(features, torch.tensor([0, 1, 2, -1, -1, -1, -1, -1]), epoch=0)
    classes, certainties = module.propagated.classes[index], module.propagated.certainties[index]
    loss = F.cross_entropy(learned, classes, reduction="none")
    losses, _ = module.unlabeled_losses(predicted, learned, index)
    torch.testing.assert_close(losses["unlabeled_loss"], (loss * certainties).mean())
    agree = (predicted.argmax(1) == classes).float()
    assert 0 < agree.sum() < len(agree)
    monkeypatch.setattr(SemiSupervisedModule, "current_epoch", 1)
    losses, mask = module.unlabeled_losses(predicted, learned, index)
    torch.testing.assert_close(losses["unlabeled_loss"], (loss * agree).mean())
    assert torch.equal(mask, agree)


def test_labels_are_propagated_when_due(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    update = PropagatedLabels.update

    def counted(self: PropagatedLabels, features: Tensor, labels: Tensor, epoch: int) -> None:
        epochs.append(epoch)
        assert features.shape == (1294, 64)
        assert (labels >= 0).sum() == 20
        update(self, features, labels, epoch)

    monkeypatch.setattr(PropagatedLabels, "update", counted)
    callbacks: Any = [WeakStrongAugmentation(weak=[], strong=["horizontal_flip"])]
    module = SemiSupervisedModule(backbone="conv4", propagation_epochs=2)
    limits = {"max_epochs": 5, "limit_train_batches": 1, "limit_val_batches": 0}
    L.Trainer(**QUIET, **limits, callbacks=callbacks).fit(module, DigitsDataModule(batch_size=8, labels_per_class=2))
    assert epochs == [2, 4]  # without weights the first features are not worth comparing


def test_thresholds_of_all_classes_are_logged() -> None:
    module = built(threshold="free", per_class_metrics=True, average_decay=0.5)
    output = module.step(made_batch(), "train")
    logged = torch.stack([output[f"threshold_{name}"] for name in module.classes_task.names])
    assert torch.equal(logged, module.threshold())
    assert len(set(logged.tolist())) == 3
    assert output["threshold"] == logged.mean()


def test_equal_views_are_reported_once() -> None:
    module, batch = built(), made_batch()
    del batch["strong"]
    with pytest.warns(UserWarning, match="WeakStrongAugmentation"):
        module.step(batch, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.step(batch, "train")


def test_collapse_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_cv.modules.semi_supervised._SHARE_DECAY", 0.5)

    class Collapsed(SemiSupervisedModule):
        def unlabeled_losses(self, predicted: Tensor, learned: Tensor, index: Tensor) -> Any:
            return super().unlabeled_losses(predicted + 50 * F.one_hot(torch.tensor(3), 10), learned, index)

    module = Collapsed(backbone="conv4", unlabeled_ratio=1)
    data = DigitsDataModule(batch_size=8, labels_per_class=2)
    callbacks: Any = [WeakStrongAugmentation(weak=[], strong=["horizontal_flip"])]
    with pytest.warns(UserWarning, match=r"collapsed onto about .* of 10 classes"):
        L.Trainer(**QUIET, max_epochs=1, limit_train_batches=8, limit_val_batches=0, callbacks=callbacks).fit(
            module, data
        )


def test_cost_of_keeping_the_newest_weights_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    module = SemiSupervisedModule(backbone="conv4", unlabeled_ratio=1)
    data = DigitsDataModule(batch_size=8, labels_per_class=2)
    callbacks: Any = [WeakStrongAugmentation(weak=[], strong=["horizontal_flip"])]
    trainer = L.Trainer(**QUIET, max_epochs=2, limit_train_batches=3, callbacks=callbacks)
    with caplog.at_level("INFO"):
        trainer.fit(module, data)
    assert "The newest weights are kept" in caplog.text
    assert {"val_pseudo_coverage", "val_acc"} <= trainer.callback_metrics.keys()
    assert trainer.checkpoint_callback is None
    assert module.monitor is None
