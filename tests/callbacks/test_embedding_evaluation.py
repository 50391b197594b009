from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import BaseDataModule, DigitsDataModule, InMemoryDataset
from lit_cv import BaseModule, EmbeddingEvaluation, OnlineProbe
from lit_cv.cli import main
from lit_cv.metrics import alignment, effective_rank, knn_predictions, uniformity


class Pixels(BaseModule):
    """Learns the brightness of images; its embedding is evaluated."""

    evaluates_embedding = True

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, 1)

    def step(self, batch: Any, stage: str) -> dict[str, Tensor]:
        features = self.backbone(batch["image"])
        target = batch["image"].float().mean((1, 2, 3)) / 255
        loss = F.mse_loss(self.head(features)[:, 0], target)
        return {"loss": loss, "embedding": torch.stack([features, 2 * features + 1]).detach()}


class Larger(BaseDataModule):
    """Training images of 16 pixels and validation images of 8, as for a cropping augmentation."""

    def load(self, split: str) -> InMemoryDataset | None:
        if split not in ("train", "val"):
            return None
        side, n = (16, 40) if split == "train" else (8, 10)
        images = torch.randint(256, (n, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
        return InMemoryDataset(images, torch.arange(n) % 2, ["a", "b"])


def trainer(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(**options | {"enable_model_summary": False, "callbacks": list(callbacks)} | kwargs)


def module(seed: int = 0, **kwargs: Any) -> Pixels:
    torch.manual_seed(seed)
    return Pixels(**{"backbone": "conv4", "in_channels": 1, "lr": 0.01} | kwargs)


def embeddings(model: Pixels, dataset: Any) -> tuple[Tensor, Tensor]:
    batch = dataset.__getitems__(range(len(dataset)))
    with torch.no_grad():
        return model.eval().embed(batch["image"]), batch["label"]


def test_metrics_match_direct_computation() -> None:
    data, model = DigitsDataModule(batch_size=37, labels_per_class=20), module()
    run = trainer(EmbeddingEvaluation())
    run.validate(model, data, verbose=False)
    queries, labels = embeddings(model, data.val_dataset)
    bank, bank_labels = embeddings(model, data.train_dataset)
    assert len(bank) == 200
    predictions = knn_predictions(queries, bank, bank_labels, 10, k=(20, 200))
    metrics = run.callback_metrics
    assert metrics["val_knn_acc"].item() == pytest.approx((predictions[0] == labels).float().mean().item(), abs=0.008)
    assert metrics["val_knn200_acc"].item() == pytest.approx(
        (predictions[1] == labels).float().mean().item(), abs=0.008
    )
    assert metrics["val_uniformity"].item() == pytest.approx(uniformity(queries).item(), abs=1e-4)
    assert metrics["val_rankme"].item() == pytest.approx(effective_rank(queries).item(), rel=1e-3)
    assert metrics["val_alignment"].item() == pytest.approx(alignment(queries, 2 * queries + 1).item(), rel=1e-3)
    assert model.monitor == "val_knn_acc"
    assert model.mode == "max"


@pytest.mark.parametrize(("per_class", "named"), [(1, False), (19, False), (20, True)])
def test_no_metric_with_too_few_neighbors(per_class: int, named: bool) -> None:
    run, data = trainer(EmbeddingEvaluation()), DigitsDataModule(labels_per_class=per_class)
    run.validate(module(), data, verbose=False)
    assert "val_knn_acc" in run.callback_metrics
    assert ("val_knn200_acc" in run.callback_metrics) is named


def test_max_images_limits_neighbors() -> None:
    data = DigitsDataModule()
    data.setup()
    few = data.labeled_dataloader(30)
    index = torch.cat([batch["label"] for batch in few])
    assert len(index) == 30
    assert len(index.unique()) > 5
    assert len(data.labeled_dataloader(10**6).dataset) == len(data.train_dataset)
    with pytest.raises(ValueError, match="max_images=0"):
        EmbeddingEvaluation(max_images=0)


def test_neighbors_are_resized_to_validation_size() -> None:
    model = module()
    seen: list[tuple[int, ...]] = []
    model.configure_model()
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    run = trainer(EmbeddingEvaluation())
    run.validate(model, Larger(), verbose=False)
    assert set(seen) == {(8, 8)}
    assert "val_knn_acc" in run.callback_metrics


@pytest.mark.slow
@pytest.mark.parametrize("returned", [True, False])
def test_training_is_unchanged(returned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not returned:  # the probe then computes the embedding, which must not change BatchNorm statistics
        step = Pixels.step
        monkeypatch.setattr(Pixels, "step", lambda *args: {"loss": step(*args)["loss"]})
    states = []
    for callbacks in ([], [EmbeddingEvaluation(), OnlineProbe()]):
        L.seed_everything(0, verbose=False)
        model = module()
        trainer(*callbacks, max_epochs=2, limit_train_batches=4).fit(model, DigitsDataModule())
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_unlabeled_data_log_other_measures() -> None:
    data = DigitsDataModule()
    data.setup()
    data.train_dataset.labels = torch.full_like(data.train_dataset.labels, -1)
    model = module()
    run = trainer(EmbeddingEvaluation())
    run.validate(model, data, verbose=False)
    assert "val_knn_acc" not in run.callback_metrics
    assert {"val_uniformity", "val_rankme", "val_alignment"} <= set(run.callback_metrics)
    assert model.monitor == "val_loss"


def test_knn_accuracy_ignores_unlabeled_validation_images() -> None:
    data = DigitsDataModule()
    data.setup()
    assert data.val_dataset is not None
    labels = data.val_dataset.labels
    data.val_dataset.labels = torch.full_like(labels, -1)
    model = module()
    run = trainer(EmbeddingEvaluation(), OnlineProbe(), max_epochs=1, limit_train_batches=1)
    run.fit(model, data)
    assert not {"val_knn_acc", "val_probe_acc"} & set(run.callback_metrics)
    assert "val_rankme" in run.callback_metrics
    assert model.monitor == "val_loss"
    data.val_dataset.labels = torch.where(torch.arange(len(labels)) % 3 == 0, labels, -1)
    run = trainer(EmbeddingEvaluation())
    run.validate(model, data, verbose=False)
    data.val_dataset.labels = labels
    queries, _ = embeddings(model, data.val_dataset)
    predictions = knn_predictions(queries, *embeddings(model, data.train_dataset), 10, k=(20,))[0]
    expected = (predictions == labels)[::3].float().mean().item()
    assert run.callback_metrics["val_knn_acc"].item() == pytest.approx(expected, abs=0.01)


def test_custom_module(in_tmp: Path) -> None:
    options = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    cli = main(
        ["knn", "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule", *options]
    )
    assert cli is not None
    assert {"val_acc", "val_knn_acc", "val_rankme"} <= set(cli.trainer.callback_metrics)
    assert cli.model.monitor == "val_acc"


@pytest.mark.slow
def test_mixed_precision() -> None:
    run = trainer(EmbeddingEvaluation(), OnlineProbe(), max_epochs=1, limit_train_batches=3, precision="bf16-mixed")
    run.fit(module(), DigitsDataModule())
    assert {"val_knn_acc", "val_probe_acc"} <= set(run.callback_metrics)


@pytest.mark.slow
@pytest.mark.learns
def test_probe_learns(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    run = trainer(OnlineProbe(lr=0.01), max_epochs=8)
    run.fit(module(seed, lr=1e-3), DigitsDataModule(batch_size=32))
    assert run.callback_metrics["val_probe_acc"] > 0.6


def test_probe_ignores_unlabeled_images() -> None:
    data = DigitsDataModule(batch_size=64)
    data.setup()
    data.train_dataset.labels = torch.full_like(data.train_dataset.labels, -1)
    probe = OnlineProbe()
    trainer(probe, max_epochs=1, limit_train_batches=3).fit(module(), data)
    state = probe.state_dict()["probe"]
    assert state["1.weight"].abs().max() == 0
    assert torch.isfinite(state["0.running_mean"]).all()


def test_error_for_probe_without_classes() -> None:
    data = DigitsDataModule()
    data.setup()
    data.num_classes = None
    with pytest.raises(ValueError, match="num_classes"):
        trainer(OnlineProbe(), max_epochs=1, num_sanity_val_steps=0).fit(module(), data)


def test_error_names_option() -> None:
    with pytest.raises(ValueError, match="lr=0"):
        OnlineProbe(lr=0)
