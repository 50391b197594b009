"""The help text, the list of recipes, and unknown verbs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lit_cv.cli import console, main
from lit_cv.cli.overview import VERBS
from lit_cv.running.recipes import recipe_names, recipe_path


def test_help_imports_are_light() -> None:
    code = (
        "import sys; from lit_cv.cli import main; main(['--help']); main(['recipes']);"
        "print([m for m in ('torch', 'lightning', 'numpy', 'yaml', 'jsonargparse') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")


def test_curves_imports_are_light(in_tmp: Path) -> None:
    Path("metrics.csv").write_text("epoch,step,train_loss\n0,9,0.5\n1,19,0.4\n")
    code = (
        "import sys; from lit_cv.cli import main; main(['curves', 'metrics.csv']);"
        "print([m for m in ('torch', 'lightning', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")
    assert Path("curves.png").is_file()


def test_help_lists_every_verb_and_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) is None
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert all(f"  {name} " in text for name in recipe_names())


def test_recipes_start_with_description() -> None:
    for name in recipe_names():
        with open(recipe_path(name)) as file:
            assert file.readline().startswith("# "), name


def test_error_suggests_nearest_verb() -> None:
    with pytest.raises(SystemExit, match="unknown verb 'fti': did you mean 'fit'"):
        main(["fti"])


def test_recipes_verb_rejects_arguments() -> None:
    with pytest.raises(SystemExit, match="recipes takes no arguments, but 'foo' was given"):
        main(["recipes", "foo"])


def test_module_runs_as_program() -> None:
    result = subprocess.run([sys.executable, "-m", "lit_cv", "--version"], capture_output=True, text=True)
    with open(Path(__file__).parents[2] / "pyproject.toml", "rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert (result.returncode, result.stdout) == (0, f"{version}\n")


def test_long_message_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-cv", "x" * 100_000])
    with pytest.raises(SystemExit) as error:
        console()
    assert len(str(error.value)) < 4_000
    assert str(error.value).startswith("lit-cv: error: unknown verb 'xxx")
    assert str(error.value).endswith("`lit-cv --help` lists them.")
