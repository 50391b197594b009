"""Every command and every program in the README runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from lit_cv.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python|yaml)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if line.strip()]
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
CONFIGURATIONS = [text for language, text in BLOCKS if language == "yaml"]
FIT = [line for line in COMMANDS if line.startswith("lit-cv fit") and "--ckpt_path" not in line]
SHORT = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--data.batch_size", "8",
]  # fmt: skip


def test_the_two_commands_are_those_of_ci() -> None:
    first, second = (line for line in COMMANDS if line.startswith("pip install"))
    assert first == "pip install . && lit-cv fit --config supervised"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert first in script
    assert second in script


@pytest.fixture
def photos(in_tmp: Path) -> Path:
    """The reader's own folder of images, a file with the new task, and the README's working directory."""
    for name in ("cat", "dog"):
        (in_tmp / "photos" / name).mkdir(parents=True)
        for index in range(20):
            save_image(torch.rand(3, 40, 50), in_tmp / "photos" / name / f"{index}.png")
    (in_tmp / "rotation.py").write_text(next(text for text in PROGRAMS if "class RotationModule" in text))
    return in_tmp


def local(command: str, data_root: Path | None) -> list[str]:
    args = shlex.split(command)[1:]
    return [arg.replace("$LIT_CV_DATA", str(data_root)) for arg in args]


@pytest.mark.parametrize("command", [line for line in FIT if "$LIT_CV_DATA" not in line])
def test_a_fit(command: str, photos: Path) -> None:
    cli = main([*local(command, None), *SHORT])
    assert cli is not None
    assert cli.trainer.global_step > 0


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_configuration(configuration: str, photos: Path) -> None:
    (photos / "mine.yaml").write_text(configuration)
    main(["fit", "--config", "imagefolder_supervised", "--config", "mine.yaml", "--data.root", "photos", *SHORT])


@pytest.mark.parametrize("command", [line for line in FIT if "$LIT_CV_DATA" in line])
def test_a_fit_on_real_images(command: str, photos: Path, data_root: Path) -> None:
    cli = main([*local(command, data_root), *SHORT])
    assert cli is not None
    assert cli.trainer.global_step > 0


def test_the_commands_after_a_fit(photos: Path) -> None:
    fit = next(line for line in FIT if "photos" in line)
    main([*local(fit, None), *SHORT])
    after = [line for line in COMMANDS if "--ckpt_path" in line]
    assert after
    for command in after:
        cli = main(local(command, None) + (["--trainer.max_epochs", "2"] if " fit " in command else []))
        assert cli is not None
        if " fit " in command:
            assert cli.trainer.current_epoch == 2
    predictions = (photos / "lightning_logs" / "version_0" / "predictions.csv").read_text().splitlines()
    assert len(predictions) > 1


@pytest.mark.parametrize("program", [text for text in PROGRAMS if "class " not in text])
def test_a_program(program: str, in_tmp: Path) -> None:
    exec(compile(program.replace("max_epochs=3", "fast_dev_run=True"), "README.md", "exec"), {"__name__": "readme"})


def test_every_recipe_is_mentioned_by_a_command_or_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    for line in COMMANDS:
        for recipe in re.findall(r"--config (\w+)", line):
            assert recipe in names, line
