"""Every docstring example runs and gives the output it shows, and every file in `examples` learns."""

import ast
import doctest
import importlib
import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from lit_cv.cli import main

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
    assert command(name) == program if name not in LEARNED else command(name)[:2] == ["lit-cv", "fit"]


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
@pytest.mark.learns
def test_example_of_trainer_learns_and_resumes_exactly(in_tmp: Path, seed: int) -> None:
    accuracy, same = runpy.run_path(str(FILES["plain_trainer"]))["main"](in_tmp, seed)
    assert accuracy > 0.8  # 0.1 without learning
    assert same
