"""One-line explanations of invalid arguments."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest

import datamodules  # noqa: F401 - short class names are found only for imported classes
from lit_cv.cli.diagnosis import diagnose
from lit_cv.cli.misfit import misfit
from lit_cv.running.arguments import read_configuration

SUPERVISED = ["--config", "supervised"]
ADAPTATION = ["--model", "MMDModule", "--data", "DomainAdaptationDataModule", "--data.source", "DigitsDataModule"]
BOTH = [*ADAPTATION, "--data.target=DigitsDataModule"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "no model: give --config RECIPE (`lit-cv recipes` lists them) or --model CLASS."),
        (["--model", "SupervisedModule"], "no data: give --config RECIPE .*"),
        (["supervised"], "unexpected argument 'supervised': options start with --; a recipe comes after --config."),
        ([*SUPERVISED, "--lr", "1"], "unknown option --lr: did you mean '--model.lr'? `--help` lists them."),
        ([*SUPERVISED, "--ema.deca=1"], "unknown option --ema.deca: did you mean '--ema.decay'? `--help` lists them."),
        ([*SUPERVISED, "--find_lr.steps", "1"], "unknown option --find_lr.steps.*"),
        (
            [*SUPERVISED, "--model.lrr", "1"],
            "unknown option --model.lrr: did you mean '--model.lr'.*--model.help Superv.*",
        ),
        ([*SUPERVISED, "--data.rot", "x"], "unknown option --data.rot: did you mean '--data.root'.*"),
        ([*SUPERVISED, "--data.root", "x"], "DigitsDataModule has no argument `root` .* Classes that do: Annotated.*"),
        (
            [*SUPERVISED, "--model", "SupervisdModule"],
            "--model: unknown class 'SupervisdModule': did you mean 'Super.*",
        ),
        ([*SUPERVISED, "--model.help", "SimCLR"], "--model.help: unknown class 'SimCLR': did you mean 'SimCLRModule'?"),
        ([*SUPERVISED, "--model", "FewShotModule"], "--model: FewShotModule is abstract; choose one of MAMLModule, .*"),
        (
            [*SUPERVISED, "--trainer.callbacks+=CutMix", "--trainer.callbacks.alph=1"],
            ".* '--trainer.callbacks.alpha'.*",
        ),
        ([*SUPERVISED, "--trainer.max_epochs", "x"], "--trainer.max_epochs x: expected int or null"),
        ([*SUPERVISED, "--model.lr=fast"], "--model.lr fast: expected float"),
        ([*SUPERVISED, "--data.classes=[no, 1e3]"], "--data.classes [False, 1000.0]: names such as no, yes, .*"),
        (ADAPTATION, "DomainAdaptationDataModule needs --data.target: see `lit-cv fit --data.help Domain.*`."),
        ([*BOTH, "--data.target.seeed=1"], "unknown option --data.target.seeed.*"),
        ([*BOTH, "--data.source=Digits"], "--data.source: unknown class 'Digits'.*"),
        ([*BOTH, "--data.source.class_path=Digits"], "--data.source: unknown class 'Digits'.*"),
        (
            [*SUPERVISED, "--data=EpisodicDataModule", "--data.source=DigitsDataModule"],
            "EpisodicDataModule has no argument `source` (--data.source). Classes that do: DomainAdaptation.*",
        ),
        ([*SUPERVISED, "--data=EpisodicDataModule", "--data.base=Digits"], "--data.base: unknown class 'Digits'.*"),
        (
            [*SUPERVISED, "--model.metrics", "kappa"],
            "--model.metrics kappa: expected list[str | dict[str, Any]] or null",
        ),
        (
            [*SUPERVISED, "--trainer.logger=nope"],
            "--trainer.logger nope: expected Logger or Iterable[Logger] or .*",
        ),
        ([*SUPERVISED, "--model=MultiTaskModule", "--model.tasks=x"], "--model.tasks x: expected dict.*"),
        (["--model", "MultiTaskModule", "--data=DigitsDataModule"], "MultiTaskModule needs --model.tasks: see .*"),
    ],
)
def test_diagnose_options(in_tmp: Path, typed: list[str], message: str) -> None:
    configuration = read_configuration("supervised") if SUPERVISED[1] in typed[1:2] else {}
    problem = diagnose(["fit", *typed], configuration)
    assert problem is not None
    assert re.fullmatch(".*".join(map(re.escape, message.split(".*"))), problem), problem


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"trainer": {"max_epoch": 1}}, "unknown option --trainer.max_epoch: did you mean '--trainer.max_epochs'"),
        ({"data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": "many"}}}, "--data.batch_size many"),
        ({"trainer": {"callbacks": [{"class_path": "CutMix", "init_args": {"alph": 1}}]}}, None),
    ],
)
def test_diagnose_configuration(in_tmp: Path, configuration: dict[str, Any], message: str | None) -> None:
    problem = diagnose(["fit"], {**read_configuration("supervised"), **configuration})
    assert problem is None if message is None else str(problem).startswith(message)


@pytest.mark.parametrize(
    "typed", [SUPERVISED, [*SUPERVISED, "--trainer.callbacks=null", "--model.backbone", "conv4"], BOTH]
)
def test_diagnose_valid_arguments(in_tmp: Path, typed: list[str]) -> None:
    assert diagnose(["fit", *typed], read_configuration("supervised") if "--config" in typed else {}) is None


def test_diagnose_find_lr_options(in_tmp: Path) -> None:
    assert diagnose(["find-lr", *SUPERVISED, "--find_lr.steps", "40"], read_configuration("supervised")) is None


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("3", int, None),
        ("3.5", int, "--x 3.5: expected int"),
        ("null", int | None, None),
        ("anything", str | None, None),
        ("anything", Path, None),  # only the parser can tell
        (
            "adamv",
            Literal["adamw", "sgd"],
            "--x adamv: expected one of 'adamw', 'sgd': did you mean 'adamw'?",
        ),
        ("[1, 2]", list[int], None),
        ("[1, two]", list[int], "--x [1, 'two']: expected list[int]"),
    ],
)
def test_misfit(value: str, annotation: object, expected: str | None) -> None:
    assert misfit("x", value, annotation) == expected
