"""Classifiers solved on features: as the final result, and as the start of fine-tuning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from datamodules import BaseDataModule, DigitsDataModule, ImageFolderDataModule, InMemoryDataset
from lit_cv import FineTuneModule
from lit_cv.callbacks import EMA
from lit_cv.cli import main
from lit_cv.optim import fit_logistic_regression, search_strength
from tests.test_resume import assert_same

OPTIONS: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


def trainer(**kwargs: Any) -> L.Trainer:
    return L.Trainer(**OPTIONS | {"enable_checkpointing": False, "max_epochs": 1} | kwargs)


def module(**kwargs: Any) -> FineTuneModule:
    torch.manual_seed(0)
    return FineTuneModule(**{"backbone": "conv4", "strategy": "feature_extraction", "solve_head": True} | kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_solved_head_is_logistic_regression(cached: bool) -> None:
    probe, data = module(cache_features=cached), DigitsDataModule()
    run = trainer()
    run.fit(probe, data)
    with torch.no_grad():
        features = probe.backbone.eval()(data.train_dataset.__getitems__(range(len(data.train_dataset)))["image"])
    labels = data.train_dataset.labels
    search = search_strength(features, labels)
    weight, bias = (search.scale * part for part in fit_logistic_regression(features, labels, search.strength, 10))
    torch.testing.assert_close(probe.head.linear.weight, weight, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(probe.head.linear.bias, bias, atol=2e-3, rtol=1e-2)
    assert run.callback_metrics["val_acc"] > 0.75


@pytest.mark.slow
def test_fine_tuning_starts_from_solved_head() -> None:
    losses = {}
    for solved in (False, True):
        tuned = module(strategy="full_finetune", solve_head=solved, backbone="vit_micro_p2")
        run = trainer(limit_train_batches=1, limit_val_batches=0)
        run.fit(tuned, DigitsDataModule())
        losses[solved] = float(run.callback_metrics["train_loss"])
        assert all(layer.training for layer in tuned.backbone.modules())
    assert losses[True] < 0.5 * losses[False]


@pytest.mark.parametrize(
    ("options", "moves"),
    [({}, False), ({"running_statistics": False}, True), ({"solve_head": False}, True)],
)
@pytest.mark.slow
def test_solved_head_fixes_batch_norm_statistics(options: dict[str, Any], moves: bool) -> None:
    tuned = module(strategy="full_finetune", num_classes=10, in_channels=1, **options)
    tuned.configure_model()
    before = {name: value.clone() for name, value in tuned.backbone.state_dict().items()}
    trainer(limit_train_batches=2, limit_val_batches=0).fit(tuned, DigitsDataModule())
    changed = {name for name, value in tuned.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.endswith("weight") for name in changed)
    assert any(name.endswith("running_mean") for name in changed) == moves


@pytest.mark.slow
def test_moving_average_starts_from_solved_head() -> None:
    starts, trained = [], {}
    tuned = module(strategy="full_finetune", lr=1e-2, schedule="constant")
    solve = tuned.on_fit_start

    def on_fit_start() -> None:
        solve()
        starts.append(tuned.head.linear.weight.detach().clone())

    tuned.on_fit_start = on_fit_start  # type: ignore[method-assign]

    class Trained(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            trained["weight"] = pl_module.head.linear.weight.detach().clone()

    callbacks = [EMA(0.75, ramp=False), Trained()]
    trainer(limit_train_batches=1, limit_val_batches=0, callbacks=callbacks).fit(tuned, DigitsDataModule())
    expected = 0.75 * starts[0] + 0.25 * trained["weight"]
    assert not torch.equal(starts[0], trained["weight"])
    torch.testing.assert_close(tuned.head.linear.weight, expected)


def test_features_have_evaluation_size(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for label in range(2):
        (tmp_path / str(label)).mkdir()
        for number in range(8):
            pixels = torch.randint(256, (40, 40, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / str(label) / f"{number}.png")
    data = ImageFolderDataModule(root=str(tmp_path), image_size=32, train_image_size=40, val_fraction=0.25)
    sizes = []
    probe = module(in_channels=3)
    probe.configure_networks = _watched(probe, sizes)  # type: ignore[method-assign]
    trainer(limit_train_batches=1, limit_val_batches=0).fit(probe, data)
    assert sizes == [(32, 32), (40, 40)]


def _watched(module: FineTuneModule, sizes: list[tuple[int, ...]]) -> Callable[[], None]:
    build = module.configure_networks

    def configure_networks() -> None:
        build()
        module.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))

    return configure_networks


@pytest.mark.slow
def test_resume_does_not_solve_again(tmp_path: Path) -> None:
    ends = []
    for stops in ([4], [2, 4]):
        for epochs in stops:
            tuned = module(strategy="full_finetune", lr=1e-3)
            run = trainer(max_epochs=epochs, limit_train_batches=3, default_root_dir=str(tmp_path))
            last = str(tmp_path / "last.ckpt") if epochs != stops[0] else None
            tuned.hparams["schedule"] = "constant"
            run.fit(tuned, DigitsDataModule(), ckpt_path=last)
            run.save_checkpoint(tmp_path / "last.ckpt")
        ends.append(tuned.state_dict())
    assert_same(*ends)


@pytest.mark.slow
def test_class_weights() -> None:
    data = DigitsDataModule()
    data.setup()
    rare = torch.cat([(data.train_dataset.labels == k).nonzero()[: 60 if k else 4, 0] for k in range(10)])
    data.train_dataset = data.train_dataset.subset(rare.numpy())
    probe = module(cache_features=True, class_weight="balanced")
    trainer().fit(probe, data)
    with torch.no_grad():
        features = probe.backbone.eval()(data.train_dataset.__getitems__(range(len(rare)))["image"])
    labels = data.train_dataset.labels
    weight = (len(rare) / (10 * labels.bincount()))[labels]
    search = search_strength(features, labels, weight=weight)
    expected = fit_logistic_regression(features, labels, search.strength, weight=weight)
    torch.testing.assert_close(probe.head.linear.weight, search.scale * expected.weight, atol=2e-3, rtol=1e-2)


class TwoLabels(BaseDataModule):
    """Images with dark or bright halves and one label per half, some of them unknown."""

    def load(self, split: str) -> InMemoryDataset | None:
        if split not in ("train", "val"):
            return None
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.randint(2, (80, 2), generator=generator).float()
        images = torch.randint(100, (80, 1, 8, 8), generator=generator, dtype=torch.uint8)
        images[..., :4] += (100 * labels[:, 0]).byte()[:, None, None, None]
        images[..., 4:] += (100 * labels[:, 1]).byte()[:, None, None, None]
        if split == "train":
            labels[::5, 0], labels[3] = -1, -1
        return InMemoryDataset(images, labels, ["left", "right"])


def test_multi_label_with_unknown_labels() -> None:
    run = trainer()
    run.fit(module(multi_label=True), TwoLabels())
    assert run.callback_metrics["val_map"] > 0.95


@pytest.mark.slow
def test_recipe(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "supervised", "--model.backbone", "conv4", "--trainer.max_epochs", "1", *QUICK])
    weights = "lightning_logs/version_0/checkpoints/best.ckpt"
    cli = main(["fit", "--config", "linear_probe", "--model.weights", weights, *QUICK])
    assert cli is not None
    assert "Classifier solved on the features of" in capsys.readouterr().err
    assert cli.trainer.callback_metrics["val_acc"] > 0.8


QUICK = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_features": True}, "normalize_features=True: it has no effect on a solved classifier"),
    ],
)
def test_error_for_options_without_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_error_for_data_without_labels() -> None:
    data = DigitsDataModule()
    data.setup()
    data.train_dataset.labels = torch.full_like(data.train_dataset.labels, -1)
    with pytest.raises(ValueError, match="no training image has one"):
        trainer().fit(module(num_classes=10), data)
    with pytest.raises(ValueError, match="not plain loaders: set `solve_head=False`"):
        trainer().fit(module(num_classes=10, in_channels=1), data.train_dataloader())


@pytest.mark.parametrize(
    "head",
    [
        torch.nn.Linear(64, 10, bias=False),
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
    ],
)
def test_error_for_other_heads(monkeypatch: pytest.MonkeyPatch, head: torch.nn.Module) -> None:
    monkeypatch.setattr(FineTuneModule, "configure_head", lambda self, num_features: head)
    with pytest.raises(ValueError, match=r"a single linear layer with bias.* `solve_head=False`"):
        trainer().fit(module(num_classes=10), DigitsDataModule())


def test_error_for_balanced_sampling() -> None:
    with pytest.raises(ValueError, match=r"balance=1\.0: it has no effect on a solved classifier"):
        trainer().fit(module(cache_features=True), DigitsDataModule(balance=1.0))
