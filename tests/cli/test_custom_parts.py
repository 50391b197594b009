"""Custom networks, operations, metrics, optimizers, schedules and formats, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from lit_cv.cli import main
from tests.custom_parts import write_files
from tests.marks import first_quick

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
FIT = ["fit", "--model", "SupervisedModule", "--data", "DigitsDataModule"]
NETWORK = ["--model.backbone", "mynet.TinyNet"]
RUN = Path("lightning_logs/version_0")


@pytest.fixture
def user_files(in_tmp: Path) -> Path:
    """Create a working directory with the user's files."""
    write_files(in_tmp)
    return in_tmp


def fit(*options: str, base: list[str] = FIT) -> Any:
    cli = main([*base, *QUICK, *options])
    assert cli is not None
    assert cli.trainer.global_step == 3
    return cli


@pytest.mark.slow
def test_custom_network_in_every_verb(user_files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(*NETWORK)
    assert f"lit-cv validate --ckpt_path {RUN}/checkpoints/best.ckpt --trust mynet" in capfd.readouterr().err
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["hyper_parameters"]["backbone"] == "mynet.TinyNet"
    trust = ["--trust", "mynet"]
    again = main(["fit", "--ckpt_path", "last", *trust, "--trainer.max_epochs", "2"])
    assert again is not None
    assert (again.trainer.global_step, type(again.model.backbone.body).__name__) == (6, "TinyNet")
    same = main(["validate", "--ckpt_path", "best", *NETWORK])  # names the module, too
    assert same is not None
    assert main(["predict", "--ckpt_path", "best", *trust]) is not None
    assert (RUN / "predictions.csv").is_file()
    main(["export", "best", "--formats", "torch", "safetensors", *trust])
    assert json.loads((RUN / "export" / "model.json").read_text())["backbone"] == "mynet.TinyNet"


def test_custom_network_by_short_name(user_files: Path) -> None:
    cli = fit("--model.backbone", "TinyNet", "--model.optimizer=Slow")
    assert (cli.model.hparams["backbone"], cli.model.hparams["optimizer"]) == ("mynet.TinyNet", "mine.Slow")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "groups"),
    [
        (["--model.strategy", "feature_extraction"], {"head"}),
        (["--model.strategy", "freeze_backbone", "--model.frozen_stages", "stem"], {"head", "deep"}),
        (["--model.strategy", "discriminative_lr"], {"head", "stem", "deep"}),
    ],
)
def test_custom_network_fine_tuning(user_files: Path, options: list[str], groups: set[str]) -> None:
    fit(*NETWORK)
    weights = str(RUN / "checkpoints" / "last.ckpt")
    tune = ["fit", "--model", "FineTuneModule", "--data", "DigitsDataModule", "--model.weights", weights]
    cli = fit(*options, "--trust", "mynet", base=tune)
    assert cli.model.hparams["backbone"] == "mynet.TinyNet"
    assert {group["layer"] for group in cli.model.parameter_groups()} == groups
    with pytest.raises(ValueError, match=r"there is no stage 'layer1'.*stem, deep"):
        main([*tune, *QUICK, "--model.strategy", "freeze_backbone", "--model.frozen_stages", "layer1", *NETWORK])


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.callbacks+=Augmentation", "--trainer.callbacks.operations", "[{name: sol.Invert, p: 1.0}]"],
        ["--trainer.callbacks", "[{class_path: Augmentation, init_args: {operations: [sol.Invert]}}]"],
    ],
)
def test_custom_operation(user_files: Path, options: list[str]) -> None:
    cli = fit("--model.backbone", "conv4", *options)
    chains = [callback.chain for callback in cli.trainer.callbacks if hasattr(callback, "chain")]
    assert [type(operation).__name__ for operation in chains[0].operations] == ["Invert"]


def test_custom_metrics_are_logged_and_monitored(user_files: Path) -> None:
    chosen = "[kappa, scores.TopTwo, {name: precision, average: micro}]"
    cli = fit("--model.backbone", "conv4", "--model.metrics", chosen, "--checkpoint.monitor", "val_top_two")
    assert {"val_kappa", "val_top_two", "val_precision", "val_acc"} <= set(cli.trainer.callback_metrics)
    metrics = cli.trainer.callback_metrics
    assert float(metrics["val_precision"]) == pytest.approx(
        float(metrics["val_acc"])
    )  # equal for images with one label
    assert cli.trainer.checkpoint_callback.monitor == "val_top_two"
    again = main(["test", "--ckpt_path", "best", "--trust", "scores"])
    assert again is not None
    assert {"test_kappa", "test_top_two"} <= set(again.trainer.callback_metrics)


@pytest.mark.parametrize(("metric", "mode"), [("top_two", "max"), ("confusion", "min")])
def test_monitor_mode_follows_metric(user_files: Path, metric: str, mode: str) -> None:
    chosen = ["--model.metrics", "[scores.TopTwo, scores.Confusion]", "--checkpoint.monitor", f"val_{metric}"]
    cli = fit("--model.backbone", "conv4", *chosen)
    assert cli.trainer.checkpoint_callback.mode == mode


@pytest.mark.slow
def test_custom_metrics_in_dense_multi_task_and_adaptation(user_files: Path) -> None:
    shapes = [
        "--data",
        "ShapesDataModule",
        "--data.image_size",
        "32",
        "--data.num_images",
        "120",
        "--data.batch_size",
        "8",
    ]
    small = ["--model.backbone", "conv4", *shapes]
    base = ["fit", "--model", "SegmentationModule", *small, "--data.targets", "mask"]
    cli = fit("--model.metrics", "[kappa]", "--model.channels", "32", base=base)
    assert "val_kappa" in cli.trainer.callback_metrics
    tasks = (
        "{shape: {type: classification, metrics: [scores.TopTwo]}, "
        "ground: {type: segmentation, channels: 32, metrics: [precision]}}"
    )
    base = ["fit", "--model", "MultiTaskModule", *small, "--data.targets", "mask"]
    cli = fit("--model.tasks", tasks, base=base)
    assert {"val_shape_top_two", "val_ground_precision"} <= set(cli.trainer.callback_metrics)
    digits = [f"--data.{domain}=DigitsDataModule" for domain in ("source", "target")]
    base = ["fit", "--model", "MMDModule", "--data", "DomainAdaptationDataModule", *digits, "--model.backbone", "conv4"]
    assert "val_target_top_two" in fit("--model.metrics", "[scores.TopTwo]", base=base).trainer.callback_metrics


@pytest.mark.slow
def test_custom_optimizer_and_schedule_resume(user_files: Path) -> None:
    options = ["--model.backbone", "conv4", "--model.optimizer", "mine.Slow", "--model.schedule", "mine.steps"]
    cli = fit(*options, "--model.lr", "0.5")
    assert type(cli.trainer.optimizers[0]).__name__ == "Slow"
    again = main(["fit", "--ckpt_path", "last", "--trust", "mine", "--trainer.max_epochs", "2"])
    assert again is not None
    assert again.trainer.global_step == 6
    assert cli.model.hparams["schedule"] == again.model.hparams["schedule"] == "mine.steps"


@pytest.mark.slow
def test_custom_format(user_files: Path) -> None:
    (user_files / "cells" / "images").mkdir(parents=True)
    for index in range(12):
        save_image(torch.rand(3, 32, 32), user_files / "cells" / "images" / f"{index}.png")
    lines = [f"{index}.png 4 4 20 20 {'red' if index % 2 else 'white'}" for index in range(12)]
    (user_files / "cells" / "boxes.txt").write_text("\n".join(lines))
    data = ["--data", "AnnotatedImagesDataModule", "--data.root", "cells", "--data.image_size", "32"]
    base = ["fit", "--model", "DetectionModule", *data, "--model.backbone", "conv4", "--model.channels", "32"]
    cli = fit("--data.format", "lines.LINES", "--data.batch_size", "2", base=base)
    assert cli.datamodule.box_classes == ["white", "red"]
    main(["convert", "--root", "cells", "--source", "lines.LINES", "--to", "coco", "--out", "converted"])
    assert any((user_files / "converted").rglob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    first_quick(
        [
            (["--model.backbone", "mynet.TinyNt"], r"mynet has no TinyNt: did you mean 'TinyNet'"),
            (["--model.backbone", "mynet.NamelessNet"], r"mynet\.NamelessNet has no num_features"),
            (["--model.backbone", "mynet.WrongNet"], r"forward returned the shape \(2, 3\)"),
            (["--model.backbone", "lost.Net"], "module lost was not found"),
            (["--model.optimizer", "mine.Slw"], "mine has no Slw: did you mean 'Slow'"),
            (
                ["--model.optimizer", "adamm"],
                "optimizer='adamm': there is no such optimizer: did you mean 'adam'",
            ),
            (["--model.schedule", "mine.backwards"], "neither a function of `progress`"),
            (["--model.metrics", "[kapa]"], "there is no such metric: did you mean 'kappa'"),
            (["--model.metrics", "[acc]"], "there is no such metric"),
            (["--model.metrics", "[pearson]"], "the metric PearsonCorrCoef does not fit this task"),
            (["--trainer.callbacks+=Augmentation", "--trainer.callbacks.operations", "[sol.Half]"], "abstract"),
        ],
        4,
    ),
)
def test_custom_part_error_is_one_line(user_files: Path, options: list[str], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as error:
        main([*FIT, *QUICK, *options])
    assert "\n" not in str(error.value)


def test_help_lists_builtin_names(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "SupervisedModule"])
    output = " ".join(capfd.readouterr().out.split())
    for name in ("adamw", "lars", "one_cycle", "plateau"):
        assert name in output


@pytest.mark.slow
def test_custom_network_in_other_approaches(user_files: Path) -> None:
    shapes = ["--data", "ShapesDataModule", "--data.image_size", "64", "--data.num_images", "60"]
    boxes = [*shapes, "--data.targets", "boxes", "--data.batch_size", "4", "--model.channels", "32"]
    cli = fit("--model.backbone", "mynet.MapNet", base=["fit", "--model", "DetectionModule", *boxes])
    assert "val_map50" in cli.trainer.callback_metrics
    cli = fit(*NETWORK, base=["fit", "--model", "SimCLRModule", *shapes, "--data.batch_size", "8"])
    assert "val_knn_acc" in cli.trainer.callback_metrics
    with pytest.raises(ValueError, match="MAEModule encodes only the visible patches"):
        main(["fit", "--model", "MAEModule", *shapes, *QUICK, *NETWORK])


@pytest.mark.slow
def test_custom_network_in_kfold(user_files: Path) -> None:
    main(["kfold", *FIT[1:], *NETWORK, "--folds", "2", "--output", "study", *QUICK[:2], *QUICK[6:]])
    assert (user_files / "study" / "kfold.md").is_file()
