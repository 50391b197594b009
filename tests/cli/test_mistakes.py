"""User mistakes end in a helpful message, and no data are lost."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.utils import save_image

from lit_cv import SupervisedModule
from lit_cv.cli import console, main
from lit_cv.cli.remedies import remedy
from lit_cv.running.arguments import read_configuration
from lit_cv.running.runs import remove_unused_run
from tests.marks import first_quick
from tests.processes import run_program

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
RUN = Path("lightning_logs/version_0")


@pytest.fixture
def fitted(in_tmp: Path) -> Path:
    main(["fit", "--config", "supervised", *QUICK])
    return in_tmp


def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((RUN / "config.yaml").read_text())
    return content


@pytest.mark.parametrize("again", [["--data", "DigitsDataModule"], ["--model", "SupervisedModule"]])
@pytest.mark.slow
def test_resume_keeps_configuration(fitted: Path, again: list[str]) -> None:
    before = config()
    main(["fit", "--ckpt_path", "last", *again, "--trainer.max_epochs", "2"])
    after = config()
    assert after["trainer"]["callbacks"] == before["trainer"]["callbacks"] != []
    assert after["checkpoint"] == before["checkpoint"]
    assert after["data"]["init_args"]["batch_size"] == before["data"]["init_args"]["batch_size"] == 32


def test_resume_rejects_other_data(fitted: Path) -> None:
    best = (RUN / "checkpoints" / "best.ckpt").read_bytes()
    with pytest.raises(ValueError, match="belongs to a run on DigitsDataModule, but ShapesDataModule was requested"):
        main(["fit", "--ckpt_path", "last", "--data", "ShapesDataModule", "--trainer.max_epochs", "2"])
    assert (RUN / "checkpoints" / "best.ckpt").read_bytes() == best


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model.backbone", "conv4"], "trained with backbone='resnet9_small', this run has 'conv4'"),
        (["--model.optimizer", "sgd"], "trained with optimizer='adamw', this run has 'sgd'"),
    ],
)
def test_resume_rejects_other_backbone_or_optimizer(fitted: Path, option: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(["fit", "--ckpt_path", "last", *option, "--trainer.max_epochs", "2"])


@pytest.mark.parametrize(
    "wrong",
    [["--model.weights", "nowhere.ckpt"], ["--data", "ImageFolderDataModule", "--data.root", "nowhere"]],
)
def test_failed_start_leaves_no_folder(in_tmp: Path, wrong: list[str]) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        main(["fit", "--config", "supervised", *QUICK, *wrong])
    assert not RUN.exists()


def test_remove_unused_run_keeps_results(tmp_path: Path) -> None:
    run = tmp_path / "version_0"
    run.mkdir()
    for name in ("config.yaml", "hparams.yaml", f"events.out.tfevents.17.host.{os.getpid()}.0"):
        (run / name).touch()
    for name, text in (
        ("metrics.csv", "epoch,step,train_loss\n0,1,0.5\n"),
        ("notes.txt", ""),
        (f"events.out.tfevents.17.host.{os.getpid()}1.0", ""),
    ):
        (run / name).write_text(text)
        remove_unused_run(run)
        assert (run / "config.yaml").is_file()
        (run / name).unlink()
    (run / "metrics.csv").write_text("epoch,step\n")
    remove_unused_run(run)
    assert not run.exists()


def test_failed_resume_keeps_configuration(fitted: Path) -> None:
    before = {path: path.read_bytes() for path in RUN.rglob("*.yaml")}
    assert len(before) == 2
    with pytest.raises(ValueError, match="nowhere"):
        main(["fit", "--ckpt_path", "last", "--model.weights", "nowhere", "--model.lr", "0.5"])
    assert {path: path.read_bytes() for path in RUN.rglob("*.yaml")} == before


def test_resume_stores_new_hyperparameters(fitted: Path) -> None:
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2", "--model.lr", "0.0123"])
    assert yaml.safe_load((RUN / "hparams.yaml").read_text())["lr"] == 0.0123
    assert config()["model"]["init_args"]["lr"] == 0.0123


def test_warning_if_nothing_was_trained(fitted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--ckpt_path", "last", *QUICK])
    assert "Nothing was trained: epoch 1 has reached max_epochs=1" in capfd.readouterr().err


@pytest.mark.parametrize("callback", ["Cutout", "Augmentation", "ContrastiveAugmentation"])
def test_error_on_callback_after_views(in_tmp: Path, callback: str) -> None:
    with pytest.raises(ValueError, match=f"{callback} runs after ContrastiveAugmentation"):
        main(["fit", "--config", "simclr", f"--trainer.callbacks+={callback}", *QUICK])


def test_early_stopping_uses_checkpoint_monitor(in_tmp: Path) -> None:
    cli = main(["fit", "--config", "supervised", "--early_stopping.patience", "3", *QUICK])
    assert cli is not None
    stopping = cli.trainer.early_stopping_callback
    assert (stopping.monitor, stopping.mode) == ("val_loss", "min")


def test_single_class_is_rejected(in_tmp: Path) -> None:
    for index in range(12):
        (in_tmp / "photos" / "cat").mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 16, 16), in_tmp / "photos" / "cat" / f"{index}.png")
    with pytest.raises(ValueError, match=r"there is only one class \(cat\)"):
        main(["fit", "--config", "imagefolder_supervised", "--data.root", "photos", "--data.image_size", "32", *QUICK])


def test_truncated_weights_are_rejected(fitted: Path) -> None:
    Path("half.ckpt").write_bytes((RUN / "checkpoints" / "best.ckpt").read_bytes()[:50_000])
    with pytest.raises(ValueError, match=r"half\.ckpt cannot be read as weights"):
        main(["fit", "--config", "fine_tune", "--model.weights", "half.ckpt", *QUICK])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--model.help", "SupervisedModul"],
            "--model.help: unknown class 'SupervisedModul': did you mean 'SupervisedMod",
        ),
        (
            ["--config", "supervised", "--data.root", "photos"],
            "has no argument `root` .* Classes that do: .*CSVDataModule",
        ),
        (["supervised"], "a recipe comes after --config"),
    ],
)
def test_error_suggests_nearest_name(in_tmp: Path, args: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["fit", *args])


USER_FILES = {
    "torn.py": "class TornModule(:\n    pass\n",
    "needy.py": "import torch\nimport not_installed_here\n\n\nclass NeedyModule:\n    pass\n",
    "unnamed.py": "class UnnamedModule(nothing_known):\n    pass\n",
    "shouting.py": "import lightning as L\n\n\nclass Shout(L.Callback):\n    pass\n",
    "stepless.py": "from lit_cv import BaseModule\n\n\nclass SteplessModule(BaseModule):\n    pass\n",
}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model", "torn.TornModule"], r"--model: torn\.py, line 1: SyntaxError: invalid syntax\."),
        (["--model", "TornModule"], r"--model: torn\.py, line 1: SyntaxError"),
        (["--model.help", "TornModule"], r"--model\.help: torn\.py, line 1: SyntaxError"),
        (["--trainer.callbacks+=torn.TornModule"], r"--trainer\.callbacks: torn\.py, line 1: SyntaxError"),
        (["--model", "NeedyModule"], r"needy\.py, line 2: ModuleNotFoundError: No module named 'not_installed_here'"),
        (["--data", "UnnamedModule"], r"--data: unnamed\.py, line 1: NameError: name 'nothing_known' is not defined"),
        (["--trainer.callbacks+=Shot"], "unknown class 'Shot': did you mean 'Shout'"),
        (
            ["--model", "SteplessModule"],
            "stepless.SteplessModule cannot be built: it must define configure_head and step",
        ),
        (["--model", "DomainAdaptationModule"], "is abstract; choose one of .*MMDModule, .*SelfTrainingModule"),
        (["--model", "lost.LostModule"], r"run from the folder that contains lost\.py, or set PYTHONPATH"),
        (["--model", "lit_cv.modules.lost.SupervisedModule"], "did you mean 'SupervisedModule'"),
        (["--model", "lit_cv.SupervisdModule"], "did you mean 'SupervisedModule'"),
    ],
)
def test_error_explains_user_class(in_tmp: Path, option: list[str], message: str) -> None:
    for name, text in USER_FILES.items():
        Path(name).write_text(text)
    with pytest.raises(SystemExit, match=message) as error:
        main(["fit", "--config", "supervised", *option])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    first_quick(
        [
            (["--ema.decay", "2"], "decay=2.0: .* (--ema.decay)."),
            (["--early_stopping.patience", "-1"], "patience=-1: .* (--early_stopping.patience)."),
            (
                ["--trainer.callbacks+=CutMix", "--trainer.callbacks.alpha", "-1"],
                "alpha=.* (--trainer.callbacks.alpha).",
            ),
            (["--trainer.callbacks+=EMA", "--trainer.callbacks.decay=2"], "decay=2.0: .* (--trainer.callbacks.decay)."),
            (
                [
                    *("--data=DomainAdaptationDataModule", "--data.source=DigitsDataModule"),
                    *("--data.target=DigitsDataModule", "--data.source.val_fraction=5"),
                ],
                "val_fraction=5.0: .* (--data.source.val_fraction).",
            ),
            (["--data.image_size", "photos.v2"], "--data.image_size photos.v2: expected int.*"),
            (["--model", "wrong.yaml"], ".*unknown class.*'wrong.yaml'.*"),
            (["--model.weights", "nothere.pt"], "weights='nothere.pt': there is no such file (--model.weights)."),
            (
                ["--model.backbone", "resnet19"],
                "backbone='resnet19': there is no such backbone: .*? (--model.backbone)",
            ),
            (["--model.warmup_epochs", "-1"], "warmup_epochs=-1.0: must be at least 0 (--model.warmup_epochs)."),
            (["--model.optimizer=sgd", "--model.momentum=9"], "momentum=9.0: .* in [0, 1) (--model.momentum)."),
            (
                ["--model.image_size", "0"],
                "resnet9_small does not support images of 0x0 pixels (--model.image_size): .*",
            ),
            (
                ["--model=FineTuneModule", "--model.strategy=freeze_backbone", "--model.frozen_stages=layer9"],
                "frozen_stages='layer9': there is no stage .* (--model.frozen_stages).",
            ),
            (
                [
                    "--model=FineTuneModule",
                    "--model.strategy=gradual_unfreezing",
                    "--model.unfreeze_epochs=[1,1,1,1,1,1,1]",
                ],
                ".*: it has 7 entries, .* 6 stages (--model.unfreeze_epochs).",
            ),
            (["--trainer.devices", "0"], ".* Give a number of at least 1, or auto (--trainer.devices)."),
            (["--trainer.devices", "x"], ".* should be an int > 0 (--trainer.devices)."),
            (["--trainer.accelerator", "foo"], ".* (--trainer.accelerator)."),
            (["--trainer.max_epochs", "-5"], ".* (--trainer.max_epochs)."),
            (
                ["--data.classes", "[no, 1e3]"],
                "--data.classes [False, 1000.0]: names such as no, .* in quotes: .*",
            ),
        ],
        8,
    ),
)
def test_error_names_option(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-cv", "fit", "--config", "supervised", *QUICK, *options])
    with pytest.raises(SystemExit) as error:
        console()
    pattern = ".*".join(map(re.escape, message.split(".*")))
    assert re.fullmatch(f"lit-cv: error: {pattern}", str(error.value))


@pytest.mark.parametrize("name", ["last", "nowhere.ckpt"])
def test_export_error_omits_missing_option(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-cv", "export", name])
    with pytest.raises(SystemExit, match=r"a file(, `last` or `best`)?\.$"):
        console()


@pytest.mark.parametrize("option", [["--ckpt_path", "best"], ["--checkpoint=best"]])
def test_export_takes_checkpoint_without_option(monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-cv", "export", *option])
    with pytest.raises(SystemExit, match="the checkpoint is given without an option, as in `lit-cv export best`"):
        console()


def test_torchrun_with_single_device_is_rejected(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, value in (("RANK", 0), ("GROUP_RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match=r"torchrun started 2 processes, .* --trainer\.devices .* --nproc_per_node"):
        main(["fit", "--config", "supervised", *QUICK, "--trainer.devices", "1"])
    with pytest.raises(ValueError, match="in Lightning") as error:
        main(["fit", "--config", "supervised", *QUICK, "--trainer.devices", "1", "--trainer.strategy", "ddp"])
    assert "--nproc_per_node" in str(remedy(error.value))
    assert not Path("lightning_logs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(()), "it returned a Tensor"),
        (None, "it returned a NoneType"),
        ({"los": torch.zeros(())}, "it returned los"),
        ({"loss": 0.5}, "its loss is a float"),
        ({"loss": torch.zeros(3)}, r"its loss is a Tensor of shape \(3,\)"),
    ],
)
def test_step_return_value_is_checked(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, returned: object, message: str
) -> None:
    monkeypatch.setattr(SupervisedModule, "step", lambda self, batch, stage: returned)
    with pytest.raises(TypeError, match=f"SupervisedModule.step must return a dict with `loss`.*{message}"):
        main(["fit", "--config", "supervised", *QUICK, "--trainer.num_sanity_val_steps", "0"])


def test_image_as_checkpoint_is_rejected(in_tmp: Path) -> None:
    save_image(torch.rand(3, 8, 8), "photo.png")
    torch.save({"state_dict": {}, "hyper_parameters": {"path": Path("x")}}, "path.ckpt")
    with pytest.raises(ValueError, match=r"^photo\.png is not a valid checkpoint of lit_cv: [^:]* another kind"):
        main(["predict", "--ckpt_path", "photo.png"])
    with pytest.raises(ValueError, match=r"path\.ckpt is not a valid .* Python objects \(pathlib"):
        main(["predict", "--ckpt_path", "path.ckpt"])


def test_system_error_is_one_line(in_tmp: Path) -> None:
    (in_tmp / "file.txt").write_text("no folder")
    args = ["fit", "--config", "supervised", *QUICK, "--trainer.default_root_dir", "file.txt"]
    (wrong,) = run_program(args, in_tmp)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert wrong.stderr.splitlines()[-1].startswith("lit-cv: error: ")
    assert "file.txt" in wrong.stderr
    assert wrong.stderr.count("file.txt") == 1
    assert wrong.stderr.endswith(" Choose a writable folder with --trainer.default_root_dir.\n")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["--model", "MultiTaskModule", "--data", "ShapesDataModule"], "MultiTaskModule needs --model.tasks"),
        (
            ["--model", "MMDModule", "--data", "DomainAdaptationDataModule", "--data.source", "DigitsDataModule"],
            "DomainAdaptationDataModule needs --data.target",
        ),
    ],
)
def test_error_names_required_option(in_tmp: Path, chosen: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["fit", *chosen])


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch broken_into']",
        "model: !!python/name:os.system",
        "trainer: !!python/object/new:os.system [touch broken_into]",
    ],
)
def test_configuration_runs_no_code(in_tmp: Path, text: str) -> None:
    Path("evil.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"evil\.yaml is not valid YAML: could not determine a constructor"):
        main(["fit", "--config", "evil.yaml"])
    with pytest.raises(SystemExit):
        main(["fit", "--config", "supervised", "--model", text.partition(" ")[2]])
    with pytest.raises(SystemExit, match=r"unknown class 'os\.system'"):
        main(["fit", "--config", "supervised", "--model", "os.system"])
    assert not Path("broken_into").exists()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("broken_into"),))


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_pickled_checkpoint_runs_no_code(in_tmp: Path, verb: str) -> None:
    torch.save({"state_dict": {}, "evil": Evil()}, "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt is not a valid checkpoint .* Python objects \("):
        main([verb, "--config", "supervised", "--ckpt_path", "evil.ckpt"])
    with pytest.raises(ValueError, match=r"evil\.ckpt holds Python objects besides the weights"):
        main(["fit", "--config", "supervised", "--model.weights", "evil.ckpt", *QUICK])
    assert not Path("broken_into").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model:\n  class_path: SupervisedModule\n  lr: 0.1\n",
            "model.lr must be one level deeper: model.init_args.lr.",
        ),
        ("data:\n  batch_size: 8\n", "data.batch_size must be one level deeper: data.init_args.batch_size."),
        (
            "trainer:\n  callbacks:\n  - class_path: CutMix\n    alpha: 2.0\n",
            "trainer.callbacks.alpha must be one level deeper: trainer.callbacks.init_args.alpha.",
        ),
    ],
)
def test_misplaced_arguments_are_rejected(in_tmp: Path, text: str, message: str) -> None:
    Path("my.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_configuration("my.yaml")
