"""Domain adaptation recipes, run from the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from lit_cv.running.arguments import prepare

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
BARE = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
SMALL = ["--data.source.num_images", "300", "--data.target.num_images", "250", "--data.batch_size", "8"]


@pytest.mark.slow
def test_self_training_continues_from_adversarial_checkpoint(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = main(["fit", "--config", "adversarial", *SMALL, *QUICK])
    assert cli is not None
    first = in_tmp / "lightning_logs" / "version_0"
    assert {"domain_embedding.png", "confusion_matrix.png", "train_batch.png"} <= {p.name for p in first.iterdir()}
    best = torch.load(first / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["datamodule_hyper_parameters"]["target"]["init_args"]["domain"] == "outlined"
    assert cli.datamodule.target.hparams["num_images"] == 250
    weights = str(first / "checkpoints" / "best.ckpt")
    capsys.readouterr()
    cli = main(["fit", "--config", "self_training", "--model.weights", weights, "--model.lr", "0", *SMALL, *QUICK])
    assert cli is not None
    assert f"{weights}: the classifier was loaded, too." in capsys.readouterr().err
    for key in ("head.linear.weight", "backbone.body.blocks.0.0.weight"):
        assert torch.equal(cli.model.state_dict()[key], best["state_dict"][key])
    tested = main(["test", "--ckpt_path", "best", *QUICK[2:]])
    assert tested is not None
    assert {"test_source_acc", "test_target_acc", "test_score"} <= set(tested.trainer.callback_metrics)
    main(["predict", "--ckpt_path", "best", "--data.target.num_images", "250", *QUICK[6:]])
    rows = (in_tmp / "lightning_logs" / "version_1" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 25  # the target's test images
    assert main(["knn", "--ckpt_path", "best", *QUICK[2:]]) is not None


@pytest.mark.slow
def test_weights_set_the_backbone_instead_of_the_recipe(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = main(["fit", "--config", "adversarial", "--model.source_only", "true", *SMALL, *QUICK, *BARE])
    assert cli is not None
    cli.trainer.save_checkpoint("source.ckpt")
    capsys.readouterr()
    tuned = ["fit", "--config", "self_training", "--model.weights", "source.ckpt", *SMALL, *QUICK, *BARE]
    cli = main(tuned)
    assert cli is not None
    assert cli.model.hparams["backbone"] == "conv4"
    assert "--model.backbone conv4, that of the weights instead of the recipe's" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"source.ckpt.*resnet9_small"):
        main([*tuned, "--model.backbone", "resnet9_small"])


@pytest.mark.slow
def test_mmd_recipe(in_tmp: Path) -> None:
    cli = main(["fit", "--config", "mmd", "--model.distance", "coral", *SMALL, *QUICK, *BARE])
    assert cli is not None
    assert {"val_score", "val_source_acc", "val_target_acc", "train_adaptation_loss"} <= set(
        cli.trainer.callback_metrics
    )


def test_supervised_module_on_adaptation_data(in_tmp: Path) -> None:
    supervised = ["--model", "SupervisedModule", "--model.backbone", "conv4"]
    cli = main(["fit", "--config", "mmd", *supervised, *SMALL, *QUICK, *BARE])
    assert cli is not None
    assert "val_acc" in cli.trainer.callback_metrics


@pytest.mark.slow
@pytest.mark.usefixtures("parsed_once")
@pytest.mark.parametrize("name", ["usps_to_mnist_adversarial", "mnist_to_usps_self_training"])
def test_digit_recipes_train(in_tmp: Path, data_root: Path, name: str) -> None:
    roots = ["--data.source.root", str(data_root), "--data.target.root", str(data_root), "--data.batch_size", "8"]
    cli = main(["fit", "--config", name, *roots, "--data.source.val_fraction", "0.01", *QUICK, *BARE])
    assert cli is not None
    assert (cli.datamodule.in_channels, cli.datamodule.image_size) == (1, (28, 28))


@pytest.mark.parametrize("kind", ["adversarial", "self_training"])
def test_svhn_recipes_parse(in_tmp: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args, _ = prepare(["fit", "--config", f"svhn_to_mnist_{kind}"])
    seen: list[Any] = []
    monkeypatch.setattr(
        "lit_cv.running.training.LitCLI._run_subcommand", lambda self, name: seen.append(self.datamodule)
    )
    from lit_cv.running.training import LitCLI

    LitCLI(args, None)
    assert type(seen[0].source).__name__ == "SVHNDataModule"
    assert type(seen[0].target).__name__ == "MNISTDataModule"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ["--data.target", "MINSTDataModule"],
            "--data.target: unknown class 'MINSTDataModule': did you mean 'MNISTDataM",
        ),
        (["--data.source.num_images", "five"], "--data.source.num_images five: expected int"),
        (
            ["--data.source.num_imges", "5"],
            "unknown option --data.source.num_imges: did you mean '--data.source.num_images'",
        ),
    ],
)
def test_error_names_domain_option(in_tmp: Path, option: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", "mmd", *option])
    assert message in str(error.value)
