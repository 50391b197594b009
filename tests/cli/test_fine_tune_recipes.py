"""Fine-tuning recipes, run from the command line on typical weights."""

from pathlib import Path

import pytest
import torch
from torchvision import models
from torchvision.utils import save_image

from lit_cv.cli import main

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.fixture
def run(in_tmp: Path) -> str:
    """Train a supervised model on shapes, and return its checkpoint."""
    shapes = ["--data", "ShapesDataModule", "--data.image_size", "16", "--data.num_images", "400"]
    main(["fit", "--config", "supervised", *shapes, *QUICK])
    return "lightning_logs/version_0/checkpoints/best.ckpt"


@pytest.mark.slow
def test_fine_tune_and_linear_probe_recipes(run: str, in_tmp: Path) -> None:
    source = torch.load(run, weights_only=True)["state_dict"]
    cli = main(["fit", "--config", "fine_tune", "--model.weights", run, *QUICK, "--data.num_images", "300"])
    assert cli is not None
    assert cli.model.hparams["backbone"] == "resnet9_small"  # the checkpoint's
    assert {"val_acc", "train_acc"} <= set(cli.trainer.callback_metrics)
    probe = main(["fit", "--config", "linear_probe", "--model.weights", run, *QUICK])
    assert probe is not None
    state = probe.model.state_dict()
    assert torch.equal(state["backbone.body.stages.0.0.weight"], source["backbone.body.stages.0.0.weight"])
    assert (in_tmp / "lightning_logs" / "version_2" / "confusion_matrix.png").is_file()
    tested = main(["test", "--ckpt_path", "best", *QUICK[2:]])
    assert tested is not None
    assert "test_acc" in tested.trainer.callback_metrics
    with pytest.raises(ValueError, match=r"resnet18 .*weights of another network|belongs to resnet18|has the shape"):
        main(["fit", "--config", "linear_probe", "--model.weights", run, "--model.backbone", "resnet18", *QUICK])


def test_missing_weights_are_logged(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "fine_tune", *QUICK, "--data.num_images", "300"])
    assert "Pretrained weights are not set" in capsys.readouterr().err


@pytest.mark.slow
def test_imagefolder_fine_tune_on_published_weights(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        (in_tmp / "photos" / name).mkdir(parents=True)
        for index in range(12):
            save_image(torch.rand(3, 40, 50), in_tmp / "photos" / name / f"{index}.png")
    state = models.resnet50().state_dict()
    torch.save(state, "resnet50.pth")
    options = [
        "--data.root",
        "photos",
        "--data.image_size",
        "32",
        "--data.train_image_size",
        "36",
        "--data.batch_size",
        "6",
    ]
    cli = main([
        "fit", "--config", "imagefolder_fine_tune", "--model.weights", "resnet50.pth", *options, *QUICK,
        "--data.num_workers", "0",
    ])  # fmt: skip
    assert cli is not None
    assert cli.model.head.linear.weight.shape == (2, 2048)
    assert "the classifier fc of 1000 classes is not used" in capsys.readouterr().err
    assert cli.model.hparams["stem"] == "standard"
    rates = {group["layer"]: group["initial_lr"] for group in cli.trainer.optimizers[0].param_groups}
    assert rates.pop("head") == 1e-4
    assert rates == dict.fromkeys(["layer4", "layer3", "layer2", "layer1", "stem"], 1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.strategy", "freeze_backbone", "--model.frozen_stages", "layr2"], "no stage 'layr2'"),
        (["--model.weights", "torn.ckpt"], r"torn\.ckpt cannot be read as weights: it is damaged"),
        (["--model.weights", "list.pt", "--model.backbone", "conv4"], r"list\.pt holds a list, not weights"),
        (["--model.weights", "DEFAULT"], r"do not contain the name of their network: set it with --model\.backbone"),
    ],
)
def test_invalid_weights_error_is_one_line(in_tmp: Path, options: list[str], words: str) -> None:
    torch.save({"state_dict": {"a": torch.zeros(100)}}, "torn.ckpt")
    Path("torn.ckpt").write_bytes(Path("torn.ckpt").read_bytes()[:300])
    torch.save([1], "list.pt")
    with pytest.raises(ValueError, match=words) as error:
        main(["fit", "--config", "fine_tune", *options, *QUICK])
    assert "\n" not in str(error.value)
