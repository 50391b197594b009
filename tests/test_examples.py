"""Every docstring example runs and gives the output it shows, and every file in `examples` learns."""

import ast
import csv
import doctest
import importlib
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from datamodules import read_image
from lit_cv import BaseModule, DetectionModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.running.export import example_images
from tests.running.test_export import detection_module, save_checkpoint

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("lit_cv", "datamodules")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
FILES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
LEARNED = {  # metric of each file, with its range; after a comment, what it is without learning
    "own_approach": ("val_acc", 0.5, 1.0),  # 0.25
    "own_data": ("val_acc", 0.8, 1.0),  # 0.5
    "own_task": ("val_mae", 0.0, 0.7),  # 1.0
    "own_callback": ("val_worst_acc", 0.3, 1.0),  # 0 or little more
}

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = sys.modules["lit_cv"] = sys.modules["datamodules"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(name: str) -> list[str]:
    """Return the arguments of the first command in the docstring of a file, which may be split into lines."""
    docstring = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8"))) or ""
    block = next(part for part in docstring.split("\n\n") if part.startswith("    "))
    return shlex.split(block.replace("\\\n", " "))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, in_tmp: Path) -> None:
    module = importlib.import_module(name)
    globs = {"torch": importlib.import_module("torch")} | vars(module)
    failed, tried = doctest.testmod(module, globs=globs, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert not failed


@pytest.mark.parametrize("name", FILES)
def test_example_files_are_short_and_name_their_command(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    program = ["python", f"examples/{name}.py"]
    assert command(name)[:2] == program if name not in LEARNED else command(name)[:2] == ["lit-cv", "fit"]


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("name", LEARNED)
def test_example_file_learns(name: str, in_tmp: Path, seed: int) -> None:
    shutil.copy(FILES[name], in_tmp)
    cli = main([*command(name)[1:], "--seed_everything", str(seed), "--trainer.accelerator", "cpu"])
    assert cli is not None
    metric, low, high = LEARNED[name]
    assert low <= float(cli.trainer.callback_metrics[metric]) <= high


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_example_of_program_predicts_like_module(kind: str, in_tmp: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module: BaseModule = SupervisedModule(backbone="conv4", num_classes=2, image_size=[24, 32]).eval()
    if kind == "detector":
        module = detection_module()
    save_checkpoint(module, in_tmp / "a.ckpt")
    main(["export", "a.ckpt", "--formats", "onnx", "--output", "out"])
    (in_tmp / "photos").mkdir()
    sizes = (50, 52) if kind == "classifier" else (40, 52)  # the program's size for the detector: equal pixels
    images = example_images((3, *sizes), 3)
    for index, image in enumerate(images):
        save_image(image / 255, in_tmp / "photos" / f"{index}.png")
    program = [sys.executable, "-c", WITHOUT_TORCH, str(FILES["predict_folder"]), "out/model.onnx", "photos"]
    text = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    rows = [[Path(row[0]).stem, row[1], *map(float, row[2:])] for row in csv.reader(text.splitlines())]
    expected: list[list[Any]] = []
    with torch.no_grad():
        if isinstance(module, DetectionModule):
            for index, objects in enumerate(module.detect(images)):
                for box, score, label in zip(*objects[:3], strict=True):
                    if score >= 0.5:
                        expected.append([str(index), "ab"[label], float(score), *box.tolist()])
        else:
            read = torch.stack([read_image(in_tmp / "photos" / f"{index}.png", (24, 32)) for index in range(3)])
            for index, (score, label) in enumerate(zip(*module(read).softmax(1).max(1), strict=True)):
                expected.append([str(index), ["photo", "scan"][label], float(score)])
    assert len(expected) > 2
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    tolerance = 0.01 if kind == "classifier" else 0.06  # Pillow rounds pixels; the example rounds boxes
    torch.testing.assert_close(
        torch.tensor([row[2:] for row in rows]), torch.tensor([row[2:] for row in expected]), rtol=0, atol=tolerance
    )


@pytest.mark.slow
@pytest.mark.learns
def test_example_of_trainer_learns_and_resumes_exactly(in_tmp: Path, seed: int) -> None:
    accuracy, same = runpy.run_path(str(FILES["plain_trainer"]))["main"](in_tmp, seed)
    assert accuracy > 0.8  # 0.1 without learning
    assert same
