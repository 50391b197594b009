"""The working directory is a folder of data: no file in it is imported because of its name."""

import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from lit_cv.running import user_files
from lit_cv.running.user_files import (
    UserFiles,
    explain_missing_class,
    importable,
    named_modules,
    qualify_class,
    split_trusted,
    user_class_names,
)
from lit_cv.trust import names_of_files
from tests.security.hostile import EVIL, MARKER, QUICK, run_program

PLANTED = ("tensorboard", "torch", "yaml", "numpy", "PIL", "matplotlib", "timm", "sitecustomize", "lit_cv", "typing")


@pytest.fixture(autouse=True)
def _folder_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserFiles, "folder", UserFiles.folder)


@pytest.fixture
def data(in_tmp: Path) -> Path:
    """A folder of photographs with hostile Python files."""
    for name in PLANTED:
        (in_tmp / f"{name}.py").write_text(EVIL)
    (in_tmp / "folder.py").mkdir()
    (in_tmp / "dangling.py").symlink_to("nowhere")
    (in_tmp / "deep.py").write_text("(" * 100_000)
    (in_tmp / "bytes.py").write_bytes(b"class Photos: pass\n\xff\xfe\0")
    (in_tmp / "photos.py").write_text(EVIL + "class Photos: pass\n")
    for name in ("Photos/cat", "Photos/dog", "cat", "dog"):
        (in_tmp / name).mkdir(parents=True)
        for index in range(8):
            save_image(torch.rand(3, 16, 16), in_tmp / name / f"{index}.png")
    return in_tmp


FIT = ["fit", "--config=supervised", "--model.backbone=conv4", "--data=ImageFolderDataModule", "--data.image_size=16"]
COMMANDS = [
    [*FIT, "--data.root=.", *QUICK],
    [*FIT, "--data.root", "Photos", *QUICK],
    ["fit", "--config=supervised", "--model.help", "SupervisedModule"],
    ["fit", "--config=supervised", "--model=NoSuchModule"],
    ["export", "best"],
    ["recipes"],
    ["curves", "."],
    ["convert", "--root=.", "--to=csv", "--out=converted"],
]
ONE_AFTER_ANOTHER = """
import json
for args in json.loads(sys.argv[1]):
    sys.argv = ["lit-cv", *args]
    try:
        console()
    except SystemExit as end:
        print("END", end.code)
"""


@pytest.mark.slow
def test_files_of_working_directory_do_not_run(data: Path) -> None:
    (data / "matplotlibrc").write_text("backend: module://photos\ntext.usetex: True\n")
    ran = run_program([json.dumps(COMMANDS)], data, ONE_AFTER_ANOTHER)
    assert ran.returncode == 0, ran.stderr
    assert not (data / MARKER).exists(), ran.stderr
    assert "Traceback" not in ran.stderr
    ends = [line for line in ran.stdout.splitlines() if line.startswith("END lit-cv: error:")]
    assert len(ends) == 2, ran.stdout + ran.stderr  # for the folder `folder.py` without images, and for NoSuchModule
    assert (data / "lightning_logs" / "version_0" / "training_curves.png").is_file()


OWN = '''
import helper
from lit_cv import SupervisedModule

class OwnModule(SupervisedModule):
    """A module that imports a file beside it."""
'''


@pytest.mark.slow
def test_named_module_and_its_helpers_are_found(data: Path) -> None:
    for name in ("torch_xla", "tensorflow", "pandas", "gcsfs", "s3fs", "wandb", "litlogger"):
        (data / f"{name}.py").write_text(EVIL)
    (data / "own.py").write_text(OWN)
    (data / "helper.py").write_text("import torch\nassert torch.__file__.endswith('__init__.py')\n")
    fit = ["fit", "--config=supervised", *QUICK]
    ran = run_program([*fit, "--model", "OwnModule"], data)
    assert ran.returncode == 0, ran.stderr
    assert "--trust own" in ran.stderr  # in the suggested command
    assert not (data / MARKER).exists()
    validate = ["validate", "--ckpt_path", "best"]
    ran = run_program([json.dumps([validate, [*validate, "--trust", "own"]])], data, ONE_AFTER_ANOTHER)
    assert ran.returncode == 0, ran.stderr
    (refused,) = (
        line for line in ran.stdout.splitlines() if line.startswith("END")
    )  # only the command without --trust
    assert "names own.OwnModule" in refused
    assert refused.endswith("(--trust own).")
    assert "val_loss" in ran.stdout
    assert not (data / MARKER).exists()


def test_working_directory_is_importable_during_command(in_tmp: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(in_tmp))])
    UserFiles.folder = in_tmp
    (in_tmp / "named_here.py").write_text("import beside_it\nfrom package_here.part import X\n")
    (in_tmp / "beside_it.py").write_text("import named_here\n")
    (in_tmp / "planted_here.py").write_text(EVIL)
    (in_tmp / "package_here").mkdir()
    (in_tmp / "package_here" / "__init__.py").touch()
    (in_tmp / "package_here" / "part.py").write_text("from .other import X\n")
    (in_tmp / "package_here" / "other.py").write_text("X = 1\n")
    names = ("named_here", "beside_it", "package_here", "planted_here")
    with importable(["named_here.Class"]):
        assert [importlib.util.find_spec(name) is not None for name in names] == [True, True, True, False]
        import_module("named_here")
    importlib.invalidate_caches()
    for name in names:
        sys.modules.pop(name, None)
        assert importlib.util.find_spec(name) is None
    assert not (in_tmp / MARKER).exists()


def test_only_class_options_are_looked_up(data: Path) -> None:
    UserFiles.folder = data
    assert qualify_class("model", "Photos") == "photos.Photos"
    (data / "kinds.py").write_text("class TwoWords: pass\nclass MyDataModule: pass\n")
    for option in ("model", "data", "trainer.callbacks", "data.class_path", "model.class_path"):
        assert qualify_class(option, "TwoWords") == "kinds.TwoWords"
    for option in ("data.root", "model.weights", "trainer.default_root_dir", "data.classes", "data.source"):
        assert qualify_class(option, "Photos") == "Photos"
        assert qualify_class(option, "TwoWords") == "TwoWords"
    assert qualify_class("data.source", "MyDataModule") == "kinds.MyDataModule"
    assert set(user_class_names()) >= {"TwoWords", "MyDataModule", "Photos"}


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["fit", "--model", "own.OwnModule"], {"own"}),
        (["fit", "--model=package.part.OwnModule"], {"package"}),
        (["fit", "--trainer.callbacks+=killer.Kill"], {"killer"}),
        (["fit", "--trainer.callbacks", "[{class_path: a.B}, {class_path: c.D}]"], {"a", "c"}),
        (["fit", "--model.tasks", "{x: {type: counting.CountTask}}"], {"counting"}),
        (["fit", "--data.source", "stripes.StripesDataModule"], {"stripes"}),
        (["fit", "--model.backbone", "mynet.TinyNet", "--model.schedule=mine.steps"], {"mynet", "mine"}),
        (["fit", "--model.backbone", "timm/resnet18.a1_in1k"], set()),
        (["fit", "--model", "{class_path: SupervisedModule, init_args: {backbone: mynet.TinyNet}}"], {"mynet"}),
        (["fit", "--model.metrics", "[kappa, {name: scores.TopTwo}]"], {"scores"}),
        (["fit", "--trainer.callbacks.operations+=sol.Invert", "--data.format=lines.LINES"], {"sol", "lines"}),
        (["fit", "--trainer.callbacks", "[{class_path: A, init_args: {operations: [{name: sol.X}]}}]"], {"sol"}),
        (["convert", "--source", "lines.LINES", "--root", "photos.v2"], {"lines"}),
        (["fit", "--model.weights", "photos.v2", "--data.root", "{name: [1, 2"], set()),
        (["fit", "--config", "evil.yaml", "--ckpt_path", "best.ckpt", "--data.root", "photos.v2"], set()),
        (["fit", "--model", "evil.yaml"], set()),
        (["fit", "--data.classes", "[a.b]"], set()),
        (["fit", "--config", "--model=evil.Model"], set()),
        (["fit", "--config=--model=evil.Model"], set()),
        (["kfold", "--dry_run", "--model", "own.OwnModule"], {"own"}),
    ],
)
def test_named_modules(in_tmp: Path, args: list[str], named: set[str]) -> None:
    UserFiles.folder = in_tmp
    assert named_modules(args) == named


def test_trust_option() -> None:
    assert split_trusted(["fit", "--trust", "a", "--x=1", "--trust=b,c.d"]) == (["fit", "--x=1"], {"a", "b", "c.d"})


def test_error_about_unknown_class_imports_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    UserFiles.folder = data
    monkeypatch.syspath_prepend(str(data))
    with names_of_files():
        assert "trusted='photos'" in str(explain_missing_class("photos.Photos"))
        assert explain_missing_class("Missing") is None
    assert not (data / MARKER).exists()


def test_project_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"part{number}" for number in range(30)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("".join(f"import {other}\n" for other in (*names, "torch")))
    read: list[Path] = []
    monkeypatch.setattr(user_files, "_imports_of", lambda path, changed: read.append(path) or [*names, "torch"])
    monkeypatch.setattr(UserFiles, "folder", tmp_path)
    with importable(["part0.Class"]):
        assert import_module("part3")
    assert sorted(path.stem for path in read) == sorted(names)
    for name in names:
        sys.modules.pop(name, None)
