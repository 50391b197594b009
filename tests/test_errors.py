"""Messages name an argument as in Python, or as an option of the running command."""

import ast
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest

import datamodules
import lit_cv
from datamodules import DigitsDataModule, DomainAdaptationDataModule, ImageFolderDataModule
from lit_cv import SupervisedModule
from lit_cv.callbacks import EMA, CutMix, RunCheckpoint
from lit_cv.cli import main
from lit_cv.cli.option_names import OptionNames
from lit_cv.errors import (
    DATA,
    FIT,
    MODULE,
    TRAINER,
    OptionError,
    Part,
    announce_parts,
    argument,
    option,
    renamed,
    setting,
    spelled_by,
    within,
)
from lit_cv.trust import names_of_files

SOURCES = [Path(package.__file__ or "").parent for package in (lit_cv, datamodules)]


def parts() -> Iterator[Part]:
    yield Part("model", SupervisedModule, {"lr": 0.1})
    yield Part("data", DomainAdaptationDataModule, {"batch_size": 8})
    yield Part("data.source", ImageFolderDataModule, {"root": "photos", "val_fraction": 5.0})
    yield Part("data.target", ImageFolderDataModule, {"root": "drawings", "val_fraction": 0.1})
    yield Part("checkpoint", RunCheckpoint, {})
    yield Part("ema", EMA, {})
    yield Part("trainer.callbacks", CutMix, {"alpha": -1.0})


def test_argument_names_in_python() -> None:
    assert argument("root", ImageFolderDataModule) == "`root`"
    assert argument("decay") == "`decay`"
    assert argument("devices", TRAINER) == argument("devices", L.Trainer) == "`devices` of the Trainer"
    assert argument("way", DATA) == "`way` of the DataModule"
    assert setting("ckpt_path", "last", FIT) == "`ckpt_path='last'` of Trainer.fit"
    assert setting("trusted", "mine", names_of_files) == "`trusted='mine'` of names_of_files"
    with within("source"):
        assert argument("root") == "`source.root`"
    with renamed(root="support_root"):
        assert argument("root") == "`support_root`"
    assert option("root") is None


@pytest.mark.parametrize(
    ("owner", "name", "spelled"),
    [
        (SupervisedModule, "lr", "--model.lr"),
        (MODULE, "tasks", None),
        (DATA, "batch_size", "--data.batch_size"),
        (DATA, "channels", "--data.channels"),
        (ImageFolderDataModule, "root", "--data.source.root"),
        (TRAINER, "devices", "--trainer.devices"),
        (L.Trainer, "devices", "--trainer.devices"),
        (FIT, "ckpt_path", "--ckpt_path"),
        (EMA, "decay", "--ema.decay"),
        (RunCheckpoint, "monitor", "--checkpoint.monitor"),
        (CutMix, "alpha", "--trainer.callbacks.alpha"),
        (None, "alpha", "--trainer.callbacks.alpha"),
        (None, "backbone", "--model.backbone"),
        (None, "image_size", None),  # of the model and of the data
        (None, "nothing", None),
        (object, "alpha", "--trainer.callbacks.alpha"),  # an object inside a known one
        (names_of_files, "trusted", "--trust"),
    ],
)
def test_argument_names_in_command(owner: object, name: str, spelled: str | None) -> None:
    with spelled_by(OptionNames(["fit"])):
        announce_parts(parts())
        assert option(name, owner) == spelled


def test_nested_datamodules_are_distinguished() -> None:
    with spelled_by(OptionNames(["fit", "--data.target.root=drawings"])):
        announce_parts(parts())
        assert argument("root", ImageFolderDataModule) == "--data.target.root"  # as typed
        assert option("val_fraction", ImageFolderDataModule, 5.0) == "--data.source.val_fraction"  # by its value
        with within("target"):
            assert argument("classes") == "--data.target.classes"


def test_classes_not_yet_built() -> None:
    with spelled_by(OptionNames(["fit", "--trainer.callbacks.decay", "2"])):
        assert argument("decay", EMA) == "--trainer.callbacks.decay"
        assert argument("lr", SupervisedModule) == "--model.lr"
        assert argument("root", ImageFolderDataModule) == "--data.root"


@pytest.mark.parametrize(
    ("verb", "owner", "name", "spelled"),
    [
        ("compare", DATA, "root", "--data.root"),
        ("compare", None, "seeds", "--seeds"),
        ("compare", MODULE, "lr", "`lr` of the module"),
        ("kfold", None, "folds", "--folds"),
        ("kfold", SupervisedModule, "lr", "--model.lr"),
        ("convert", None, "root", "--root"),
        ("convert", None, "on_error", "`on_error`"),
        ("agreement", ImageFolderDataModule, "label_columns", "--label_column"),
        ("export", SupervisedModule, "lr", "`lr`"),
        ("export", TRAINER, "default_root_dir", "--output"),
        ("predict", TRAINER, "default_root_dir", "--predictions.folder"),
        ("fit", TRAINER, "default_root_dir", "--trainer.default_root_dir"),
    ],
)
def test_options_of_verbs(verb: str, owner: object, name: str, spelled: str) -> None:
    options = {"compare": ["seeds"], "kfold": ["folds"], "convert": ["root"], "agreement": ["label_column"]}
    with spelled_by(OptionNames([verb])):
        announce_parts([Part("", object, dict.fromkeys(options.get(verb, [])))])
        assert argument(name, owner) == spelled


def test_comparison_data_with_unknown_owner() -> None:
    with spelled_by(OptionNames(["compare"])):
        announce_parts([Part("", object, {"seeds": None})])
        announce_parts([Part("data", ImageFolderDataModule, {})])
        assert argument("root") == "--data.root"
        assert argument("lr") == "`lr`"


def test_option_error_text() -> None:
    assert str(OptionError(None, "decay", 2.0, "use less")) == "decay=2.0: use less."
    assert str(OptionError(None, "kind", "a", "there is no such: did you mean 'b'?")).endswith("did you mean 'b'?")
    with spelled_by(OptionNames(["fit"])):
        error = OptionError(EMA, "decay", 2.0, "use less")
        question = OptionError(EMA, "decay", 2.0, "did you mean 0.2?")
        unknown = OptionError(None, "anything", 2.0, "use less.")
    assert str(error) == "decay=2.0: use less (--ema.decay)."
    assert str(question) == "decay=2.0: did you mean 0.2? (--ema.decay)"
    assert str(unknown) == "anything=2.0: use less."
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), restored.name) == (OptionError, str(error), "decay")


def test_threads_use_speller() -> None:
    names: list[str] = []
    with spelled_by(OptionNames(["fit"])):
        thread = threading.Thread(target=lambda: names.append(argument("decay", EMA)))
        thread.start()
        thread.join()
    assert names == ["--ema.decay"]


def test_speller_ends_with_command(in_tmp: Path) -> None:
    wrong = ["--data.val_fraction", "5", "--trainer.accelerator", "cpu"]
    with pytest.raises(OptionError, match=r"^val_fraction=5\.0: must be .* \(--data\.val_fraction\)\.$"):
        main(["fit", "--config", "supervised", *wrong])
    with pytest.raises(OptionError, match=r"^val_fraction=5\.0: must be [^-]*\.$"):
        DigitsDataModule(val_fraction=5.0)


def test_only_cli_spells_options() -> None:
    # Strings that are one complete argument are for a parser, and bracketed ones for its usage line: both are allowed.
    # Options of other programs are allowed, too.
    name = r"--(?!nproc_per_node|nnodes|concatenate)[a-z]"
    spelled = re.compile(rf"(?<!^)(?<![\[\w-]){name}|^{name}\S*\s")
    violations = []
    for root in SOURCES:
        for path in sorted(root.rglob("*.py")):
            if path.is_relative_to(root / "cli"):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            violations += [
                f"{path.relative_to(root.parent)}:{node.lineno}: {node.value}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
                if spelled.search(node.value)
            ]
    assert violations == []
