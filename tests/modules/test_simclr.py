from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv import ContrastiveAugmentation, SimCLRModule
from lit_cv.cli import main
from lit_cv.losses import NTXentLoss
from lit_cv.metrics_table import read_metrics
from lit_cv.nn import Projector
from lit_cv.running.runs import newest_run

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]
MODEL = ["--model", "SimCLRModule", "--model.backbone", "conv4", "--model.temperature", "0.2"]
DATA = ["--data", "DigitsDataModule", "--data.batch_size", "128", "--data.val_fraction", "0.2"]
SHAPES_OF_DIGITS = [
    "--trainer.callbacks+=ContrastiveAugmentation",
    "--trainer.callbacks.operations",
    "[{name: random_resized_crop, scale: [0.5, 1.0]}, {name: affine, degrees: 15, translate: 0.1, shear: 10}, "
    "{name: color_jitter, brightness: 0.4, contrast: 0.4}]",
]


def build(**kwargs: Any) -> SimCLRModule:
    torch.manual_seed(0)
    module = SimCLRModule(**{"backbone": "conv4", "in_channels": 1} | kwargs)
    module.configure_model()
    return module


def views(n_views: int = 2, n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n_views, n, 1, 16, 16), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("n_views", [2, 3])
def test_all_views_are_encoded_in_one_pass(n_views: int) -> None:
    module = build().train()
    seen: list[Tensor] = []
    module.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = module.step({"image": views()[0], "views": views(n_views)}, "train")
    assert [part.shape for part in seen] == [(6 * n_views, 1, 16, 16)]
    assert output["embedding"].shape == (n_views, 6, 64)
    assert not output["embedding"].requires_grad


def test_loss_of_projections() -> None:
    module = build(temperature=0.3).eval()
    batch = {"image": views()[0], "views": views(), "label": torch.tensor([0, 1, 0, 1, -1, 2])}
    z = [module(view) for view in views()]
    torch.testing.assert_close(module.step(batch, "val")["loss"], NTXentLoss(0.3)(*z))
    module.hparams["supervised"] = True
    torch.testing.assert_close(module.step(batch, "val")["loss"], NTXentLoss(0.3)(*z, labels=batch["label"]))


def test_gradients_of_all_weights() -> None:
    module = build().train()
    module.step({"image": views()[0], "views": views()}, "train")["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_embedding_is_backbone_output() -> None:
    module = build().eval()
    torch.testing.assert_close(module.embed(views()[0]), module.backbone(views()[0]))
    torch.testing.assert_close(module(views()[0]), module.head(module.embed(views()[0])))


def test_projector() -> None:
    names = [type(layer).__name__ for layer in build(projector_layers=3, projector_hidden=32, projector_dim=16).head]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    default = build().head
    assert [tuple(layer.weight.shape) for layer in default if isinstance(layer, torch.nn.Linear)] == [
        (64, 64),
        (128, 64),
    ]
    plain = build(projector_norm=False).head
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    assert plain[0].bias is not None
    with pytest.raises(ValueError, match="layers=0"):
        Projector(8, layers=0)


def test_error_without_views_names_callback() -> None:
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="ContrastiveAugmentation"):
        trainer.fit(SimCLRModule(backbone="conv4"), DigitsDataModule())


def test_error_for_batch_of_one_image() -> None:
    with pytest.raises(ValueError, match=r"raise `batch_size` of the DataModule"):
        build().step({"image": views(n=1)[0], "views": views(n=1)}, "train")


def test_error_names_temperature() -> None:
    with pytest.raises(ValueError, match="temperature=0"):
        SimCLRModule(temperature=0)


@pytest.mark.slow
@pytest.mark.learns
def test_learns(in_tmp: Path, seed: int) -> None:
    """With two labels per class for the neighbors, learned features are far better than random ones."""
    few = ["--data.labels_per_class", "2", "--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    options = [*MODEL, "--model.lr", "5e-3", "--model.warmup_epochs", "1", *DATA, *few, *SHAPES_OF_DIGITS, *QUIET]
    options += ["--seed_everything", str(seed)]
    before = main(["knn", *options])
    after = main(["fit", *options, "--trainer.max_epochs", "12"])
    assert before is not None
    assert after is not None
    assert after.trainer.callback_metrics["val_knn_acc"] > before.trainer.callback_metrics["val_knn_acc"] + 0.1
    assert after.trainer.callback_metrics["val_uniformity"] < -1
    assert after.trainer.callback_metrics["val_loss"] < before.trainer.callback_metrics["val_loss"] - 0.5


@pytest.mark.slow
def test_cli_adds_callbacks(in_tmp: Path) -> None:
    limits = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"]
    cli = main(["fit", *MODEL, *DATA, *QUIET, *limits])
    assert cli is not None
    kinds = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert "ContrastiveAugmentation" in kinds
    assert "EmbeddingEvaluation" in kinds
    assert cli.model.monitor == "val_knn_acc"
    rows = read_metrics(in_tmp / "lightning_logs" / "version_0" / "metrics.csv")
    best = max(row["val_knn_acc"] for row in rows if "val_knn_acc" in row)
    assert float(cli.trainer.checkpoint_callback.best_model_score) == pytest.approx(best)
    again = main(["validate", "--ckpt_path", "best", *QUIET])
    assert again is not None
    measured = again.trainer.callback_metrics
    assert float(measured["val_knn_acc"]) == pytest.approx(best, abs=1e-6)
    assert {"val_loss", "val_knn200_acc", "val_alignment", "val_uniformity", "val_rankme"} <= set(measured)
    tested = main(["test", "--ckpt_path", "best", *QUIET])
    assert tested is not None
    assert "test_knn_acc" in tested.trainer.callback_metrics
    main(["predict", "--ckpt_path", "best", *QUIET])
    with np.load(newest_run() / "embeddings.npz") as arrays:
        assert arrays["embedding"].shape == (len(arrays["label"]), tested.model.backbone.num_features)


def test_validation_loss_is_deterministic(in_tmp: Path) -> None:
    losses = []
    for seed in ("1", "1", "2"):
        torch.manual_seed(int(seed) + 10)
        cli = main(["validate", *MODEL, *DATA, *QUIET, "--seed_everything", seed])
        assert cli is not None
        state = torch.get_rng_state()
        losses.append(float(cli.trainer.callback_metrics["val_loss"]))
        assert torch.equal(state, torch.get_rng_state())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_lr_scaling(in_tmp: Path) -> None:
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    constant = ["--model.schedule", "constant", "--model.lr", "0.01", "--trainer.accumulate_grad_batches", "2"]
    for rule, factor in (("none", 1.0), ("sqrt", 0.5**0.5), ("linear", 0.5)):
        scaling = ["--model.lr_scaling", rule, "--data.batch_size", "64", "--trainer.logger", "false"]
        cli = main(["fit", *MODEL, "--data", "DigitsDataModule", *QUIET, *limits, *constant, *scaling])
        assert cli is not None
        assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_loss_matches_functional_loss() -> None:
    callback = ContrastiveAugmentation(operations=["horizontal_flip"])
    made = callback.views(views()[0])
    module = build().eval()
    z = F.normalize(module(made.flatten(0, 1)), dim=1)
    expected = NTXentLoss(0.5)(z[:6], z[6:])
    torch.testing.assert_close(module.step({"image": views()[0], "views": made}, "val")["loss"], expected)
