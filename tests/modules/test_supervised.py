from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lit_cv import SupervisedModule
from lit_cv.augment import soft_labels
from lit_cv.callbacks import RunCheckpoint

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip


class Blobs(L.LightningDataModule):
    """Images whose brightness determines the class, with class 0 most frequent."""

    def __init__(self, num_classes: int = 3, multi_label: bool = False, n: int = 64) -> None:
        super().__init__()
        self.num_classes, self.multi_label, self.in_channels, self.image_size = num_classes, multi_label, 1, (8, 8)
        self.class_names = [f"c{i}" for i in range(num_classes)]
        generator = torch.Generator().manual_seed(0)
        self.labels = (torch.rand(n, generator=generator) ** 2 * num_classes).long()
        noise = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
        self.images = (self.labels[:, None, None, None] * (190 // num_classes) + noise).to(torch.uint8)
        self.targets = torch.eye(num_classes)[self.labels] if multi_label else self.labels
        self.train_dataset = self.images

    def class_counts(self) -> Tensor:
        return torch.bincount(self.labels, minlength=self.num_classes)

    def train_dataloader(self) -> Any:
        items = [{"image": i, "label": t} for i, t in zip(self.images, self.targets, strict=True)]
        return DataLoader(items, batch_size=16)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def built(**kwargs: Any) -> SupervisedModule:
    torch.manual_seed(0)
    module = SupervisedModule(**{"backbone": "conv4", "num_classes": 3, "in_channels": 1} | kwargs)
    module.configure_model()
    return module


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
HARD = torch.tensor([0, 2, 1, 1])


def smoothed_cross_entropy(logits: Tensor, soft: Tensor, smoothing: float) -> Tensor:
    target = soft * (1 - smoothing) + smoothing / logits.shape[1]
    return -(target.double() * logits.double().log_softmax(1)).sum(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_of_hard_and_mixed_labels(smoothing: float) -> None:
    module = built(label_smoothing=smoothing)
    soft = torch.eye(3)[HARD]
    expected = smoothed_cross_entropy(LOGITS, soft, smoothing).mean().float()
    torch.testing.assert_close(module.loss(LOGITS, HARD, "train"), expected)
    torch.testing.assert_close(module.loss(LOGITS, soft, "train"), expected)
    mixed = 0.3 * soft + 0.7 * soft.roll(1, 0)
    expected = smoothed_cross_entropy(LOGITS, mixed, smoothing).mean().float()
    torch.testing.assert_close(module.loss(LOGITS, mixed, "train"), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_of_hard_and_mixed_labels(smoothing: float) -> None:
    module = built(label_smoothing=smoothing)
    module.class_weight = torch.tensor([5.0, 1.0, 0.3])
    expected = F.cross_entropy(LOGITS, HARD, weight=module.class_weight, label_smoothing=smoothing)
    torch.testing.assert_close(module.loss(LOGITS, HARD, "train"), expected)
    torch.testing.assert_close(module.loss(LOGITS, soft_labels(HARD, 3), "train"), expected)  # as after MixUp(p=0)
    images, label = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), HARD
    losses = [module.eval().step({"image": images, "label": each}, "train") for each in (label, soft_labels(label, 3))]
    torch.testing.assert_close(losses[0]["counts"], losses[1]["counts"])


def test_no_smoothing_and_weights_in_validation() -> None:
    module = built(label_smoothing=0.3)
    module.class_weight = torch.tensor([5.0, 1.0, 1.0])
    plain = smoothed_cross_entropy(LOGITS, torch.eye(3)[HARD], 0.0).mean().float()
    torch.testing.assert_close(module.loss(LOGITS, HARD, "val"), plain)


def test_multi_label() -> None:
    module = built(multi_label=True, label_smoothing=0.2)
    target = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    p, t = LOGITS.double().sigmoid(), target * 0.8 + 0.1
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean().float()
    torch.testing.assert_close(module.loss(LOGITS, target, "train"), expected)
    assert module.monitor == "val_map"


def fit(module: SupervisedModule, data: Blobs, **kwargs: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET | {"max_epochs": 1} | kwargs)
    trainer.fit(module, data)
    return trainer


def test_balanced_class_weights() -> None:
    data, module = Blobs(), SupervisedModule(backbone="conv4", class_weight="balanced")
    fit(module, data)
    weight = module.class_weight
    assert weight is not None
    torch.testing.assert_close(weight * data.class_counts(), (weight * data.class_counts())[:1].expand(3))
    assert weight.mean().item() == pytest.approx(1.0)


def test_balanced_class_weights_of_multi_label() -> None:
    data = Blobs(multi_label=True)
    module = SupervisedModule(backbone="conv4", class_weight="balanced")
    fit(module, data)
    counts = data.targets.sum(0)
    torch.testing.assert_close(module.class_weight, (64 - counts) / counts)


def test_error_for_class_weights_of_wrong_length() -> None:
    with pytest.raises(ValueError, match=r"class_weight=\[1.0, 2.0\]: has 2 numbers for 3 classes"):
        fit(SupervisedModule(backbone="conv4", class_weight=[1.0, 2.0]), Blobs())


@pytest.mark.parametrize("multi_label", [False, True])
def test_metrics_match_scikit_learn(multi_label: bool) -> None:
    data = Blobs(num_classes=6, multi_label=multi_label)
    module = SupervisedModule(backbone="conv4", lr=0.01, per_class_metrics=True)
    trainer = fit(module, data, max_epochs=2)
    trainer.validate(module, data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with torch.no_grad():
        logits = module.eval()(data.images)
    truth = data.targets.numpy()
    if multi_label:
        predicted, scores = (logits > 0).numpy(), logits.sigmoid().numpy()
        assert logged["val_acc"] == pytest.approx((predicted == truth).mean(), abs=1e-6)
        assert logged["val_map"] == pytest.approx(sklearn.metrics.average_precision_score(truth, scores), abs=1e-5)
    else:
        predicted, scores = logits.argmax(1).numpy(), logits.softmax(1).numpy()
        assert logged["val_acc"] == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted), abs=1e-6)
        top5 = sklearn.metrics.top_k_accuracy_score(truth, scores, k=5, labels=range(6))
        assert logged["val_top5"] == pytest.approx(top5, abs=1e-6)
        confidence, correct = scores.max(1), predicted == truth
        bins = np.minimum((confidence * 15).astype(int), 14)
        parts = [(bins == b) for b in range(15) if (bins == b).any()]
        ece = sum(part.mean() * abs(confidence[part].mean() - correct[part].mean()) for part in parts)
        assert logged["val_ece"] == pytest.approx(ece, abs=1e-5)
        recalls = sklearn.metrics.recall_score(truth, predicted, average=None, labels=range(6), zero_division=0)
        assert [logged[f"val_acc_c{i}"] for i in range(6)] == pytest.approx(recalls, abs=1e-6)
    present = sklearn.metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    assert logged["val_f1"] == pytest.approx(present, abs=1e-5)
    loss = float(module.loss(logits, data.targets, "val"))
    assert logged["val_loss"] == pytest.approx(loss, rel=1e-4)


def test_training_means_are_over_all_images() -> None:
    data = Blobs(n=40)  # two batches of 16 and one of 8
    module = SupervisedModule(backbone="conv4", lr=0.0, weight_decay=0.0, schedule="constant")
    seen: list[tuple[Tensor, int]] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((outputs["loss"].detach(), len(batch["image"])))

    trainer = fit(module, data, callbacks=[Watch()])
    mean = sum(float(loss) * size for loss, size in seen) / 40
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(mean, rel=1e-5)


def test_mixed_labels_count_by_their_weight() -> None:
    module = built()
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]])
    batch = {"image": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "label": soft}
    output = module.step(batch, "train")
    expected = soft.gather(1, output["logits"].argmax(1, keepdim=True)).mean()
    torch.testing.assert_close(output["acc"], expected)


def test_inferred_options_are_in_checkpoint(tmp_path: Path) -> None:
    module = SupervisedModule(backbone="conv4")
    fit(module, Blobs(), enable_checkpointing=True, callbacks=[RunCheckpoint()], default_root_dir=tmp_path)
    loaded = SupervisedModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (loaded.num_classes, loaded.hparams["in_channels"], loaded.hparams["image_size"]) == (3, 1, [8, 8])
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), module.eval()(images))


def test_error_for_other_number_of_classes() -> None:
    with pytest.raises(
        ValueError, match=r"num_classes=5, from its checkpoint or as an argument, but Blobs has num_classes=3"
    ):
        fit(SupervisedModule(backbone="conv4", num_classes=5), Blobs())


def test_error_for_unknown_number_of_classes() -> None:
    with pytest.raises(ValueError, match="number of classes is unknown"):
        SupervisedModule(backbone="conv4")(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"backbone": "resnet19"}, "resnet19.*did you mean 'resnet9' or 'resnet18'"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"dropout": 1.5}, "dropout=1.5"),
    ],
)
def test_error_names_argument(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**kwargs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradient_clipping_with_fused_optimizer(precision: str) -> None:
    norms: list[float] = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            assert all(group["fused"] for group in optimizer.param_groups)
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

    class After(Watch):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

        def on_before_optimizer_step(self, *args: Any) -> None:
            pass

    torch.manual_seed(0)
    module = SupervisedModule(backbone="conv4", lr=1e-3)
    fit(module, Blobs(), precision=precision, gradient_clip_val=1e-2, callbacks=[Watch(), After()])
    before, after = norms[::2], norms[1::2]
    assert min(before) > 1e-2
    assert after == pytest.approx([1e-2] * len(after), rel=1e-2)


@pytest.mark.learns
@pytest.mark.slow
def test_learns_better_than_majority_class(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    data = Blobs(n=256)
    module = SupervisedModule(backbone="conv4", lr=3e-3)
    trainer = fit(module, data, max_epochs=6)
    frequent = float(data.class_counts().max()) / 256
    assert float(trainer.callback_metrics["val_acc"]) > frequent + 0.25
