"""Foreign configurations: beside a checkpoint, named by an option, and as comparisons."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_cv.plain_values import load_yaml, read_yaml, require_plain
from tests.marks import first_quick
from tests.security.hostile import EVIL, MARKER, QUICK, error_line, save_hostile

pytestmark = pytest.mark.slow

RUN = Path("lightning_logs/version_0")
VICTIM = {"dirpath": "victim"}
EVALUATION = ("validate", "test", "predict", "knn")


@pytest.fixture
def place(fitted: Path) -> Path:
    """A run whose configuration tests change, with hostile code and a folder that must stay empty."""
    (fitted / "evil.py").write_text(EVIL)
    (fitted / "victim").mkdir()
    return fitted


def change(**sections: Any) -> None:
    path = RUN / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    path.write_text(yaml.safe_dump(content))


def assert_nothing_happened(folder: Path) -> None:
    assert not (folder / MARKER).exists()
    assert list((folder / "victim").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", EVALUATION)
def test_run_configuration_drops_code_and_outputs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    change(
        trainer={
            "callbacks": [{"class_path": "evil.EvilCallback"}, {"class_path": "lit_cv.CutMix"}],
            "default_root_dir": "victim",
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "victim"}},
            "profiler": {
                "class_path": "lightning.pytorch.profilers.SimpleProfiler",
                "init_args": {"dirpath": "victim"},
            },
        },
        predictions={"folder": "victim"},
    )
    assert error_line([verb, "--ckpt_path", "best", *QUICK[3:6]], monkeypatch) is None
    stderr = capfd.readouterr().err
    assert f"Configuration of the checkpoint's run: {RUN / 'config.yaml'}" in stderr
    for name in ("trainer.default_root_dir", "trainer.logger", "trainer.profiler", "evil.EvilCallback"):
        assert name in stderr.partition("ignored: ")[2].partition("\n")[0]
    assert "--trust evil" in stderr
    assert_nothing_happened(place)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_usual_run_configuration_is_complete(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    change(trainer={"default_root_dir": None})  # which the fixture had set
    longer = ["--trainer.max_epochs=2"] if verb == "fit" else []
    assert error_line([verb, "--ckpt_path", "last", *longer], monkeypatch) is None
    stderr = capfd.readouterr().err
    assert f"Configuration of the checkpoint's run: {RUN / 'config.yaml'} (" in stderr
    assert "ignored" not in stderr


def test_resume_without_custom_code_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(trainer={"callbacks": [{"class_path": "evil.EvilCallback"}]})
    fit = ["fit", "--ckpt_path", "last", "--trainer.max_epochs=2"]
    error = error_line(fit, monkeypatch)
    assert error is not None
    assert "config.yaml names evil.EvilCallback" in error
    assert "(--trust evil)" in error
    assert_nothing_happened(place)
    assert error_line([*fit, "--trainer.callbacks=null"], monkeypatch) is None
    assert_nothing_happened(place)


@pytest.mark.parametrize(
    ("section", "verb"),
    [
        ({"data": {"class_path": "evil.EvilData"}}, "validate"),
        ({"data": {"class_path": "evil.EvilData"}}, "fit"),
        ({"data": {"class_path": "evil.EvilData", "init_args": {"root": "x"}}}, "predict"),
        ({"trainer": {"strategy": {"class_path": "evil.EvilCallback"}}}, "fit"),
    ],
)
def test_run_configuration_imports_no_data_or_strategy(
    place: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], verb: str
) -> None:
    change(**section)
    error = error_line([verb, "--ckpt_path", "last"], monkeypatch)
    assert error is not None
    assert "--trust evil" in error
    assert_nothing_happened(place)


@pytest.mark.slow
def test_resumed_run_writes_nothing_elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = {
        "class_path": "lightning.pytorch.callbacks.OnExceptionCheckpoint",
        "init_args": {"dirpath": "victim"},
    }
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": VICTIM}
    climber = {"class_path": saver["class_path"], "init_args": {"filename": "../../../victim/{epoch}"}}
    change(trainer={"callbacks": [saver], "default_root_dir": "victim"})
    assert error_line(["fit", "--ckpt_path", "last", "--trainer.max_epochs=2"], monkeypatch) is None
    change(trainer={"callbacks": [climber]})
    assert error_line(["fit", "--ckpt_path", "last", "--trainer.max_epochs=3"], monkeypatch) is None
    change(trainer={"callbacks": [checkpoints]})
    error_line(["fit", "--ckpt_path", "last", "--trainer.max_epochs=4"], monkeypatch)
    assert_nothing_happened(place)


SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
BYPASSES: dict[str, dict[str, Any]] = {
    "an absolute name": {"callbacks": [{"class_path": SAVER, "init_args": {"filename": "/tmp/victim/x"}}]},
    "a dotted argument": {"callbacks": [{"class_path": SAVER, "init_args.dirpath": "victim"}]},
    "a dotted option": {
        "logger.class_path": "lightning.pytorch.loggers.CSVLogger",
        "logger.init_args.save_dir": "victim",
    },
    "a dotted profiler": {"profiler.class_path": "SimpleProfiler", "profiler.init_args.dirpath": "victim"},
    "a file": {"callbacks": "callbacks.yaml"},
    "a list of files": {"callbacks": ["callbacks.yaml"]},
    "a text of JSON": {"callbacks": f'[{{"class_path": "{SAVER}", "init_args": {{"dirpath": "victim"}}}}]'},
    "a class by its short name": {"callbacks": [{"class_path": "OnExceptionCheckpoint", "init_args": VICTIM}]},
    "a callable": {
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_validation_start": "lit_cv.cli.console", "on_fit_start": "lit_cv.cli.console"},
            }
        ]
    },
    "processes": {"devices": 500, "strategy": "ddp", "accelerator": "cpu"},
    "nodes": {"num_nodes": 2},
    "another precision": {"precision": "transformer-engine/../x"},
    "a time": {"max_time": {"x": 1}},
}


@pytest.mark.parametrize("verb", ["fit", pytest.param("validate", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", first_quick(BYPASSES, 3))
def test_run_configuration_bypasses(place: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str) -> None:
    Path("callbacks.yaml").write_text(f"- class_path: {SAVER}\n  init_args: {{dirpath: victim}}\n")
    change(trainer=BYPASSES[name])
    error_line([verb, "--ckpt_path=last", *(["--trainer.max_epochs=2"] if verb == "fit" else [])], monkeypatch)
    assert_nothing_happened(place)
    assert not Path("/tmp/victim").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"trainer": "callbacks.yaml"},
        {"data": "pipe"},
        {"checkpoint": "pipe"},
        {"early_stopping": ["x"]},
        {"ema": {"class_path": "lit_cv.EMA", "init_args": {"decay": [1]}}},
        {"data": {"class_path": "DigitsDataModule", "init_args.root": "x"}},
        {"data": {"class_path": "DomainAdaptationDataModule", "init_args": {"source": "pipe", "target": "pipe"}}},
    ],
)
def test_invalid_sections_of_run_configuration(
    place: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    os.mkfifo("pipe")
    path = RUN / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **content}))
    begun = time.process_time()
    assert error_line(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"], monkeypatch) is not None
    assert time.process_time() - begun < 20
    assert_nothing_happened(place)


@pytest.mark.parametrize("section", ["trainer", "model", "data", "checkpoint"])
def test_configuration_reads_no_other_file(place: Path, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    os.mkfifo("pipe")
    Path("strange.yaml").write_text(f"{section}: {Path('pipe').absolute()}\n")
    assert error_line(["fit", "--config=supervised", "--config=strange.yaml", *QUICK], monkeypatch) is not None


def test_callbacks_are_read_from_no_other_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("callbacks.yaml").write_text("- class_path: lit_cv.CutMix\n")
    path = Path("callbacks.yaml").absolute()
    for given in ("callbacks.yaml", path, f"[{path}]", f"[{{class_path: lit_cv.CutMix, init_args: {path}}}]"):
        Path("strange.yaml").write_text(f"trainer: {{callbacks: {given}}}\n")
        assert error_line(["fit", "--config=supervised", "--config=strange.yaml", *QUICK], monkeypatch) is not None


STRANGE: dict[str, str] = {
    "module": "model: {class_path: evil.EvilModule}\ndata: {class_path: DigitsDataModule}\n",
    "module, in short": "model: evil.EvilModule\ndata: DigitsDataModule\n",
    "data": "data: {class_path: evil.EvilData}\n",
    "data within data": "data: {class_path: DomainAdaptationDataModule, init_args: {source: evil.EvilData, "
    "target: {class_path: evil.EvilData}}}\n",
    "callback": "trainer: {callbacks: [{class_path: evil.EvilCallback}]}\n",
    "callback, in short": "trainer: {callbacks: [evil.EvilCallback]}\n",
    "callback, in a text": """trainer: {callbacks: '[{"class_path": "evil.EvilCallback"}]'}\n""",
    "data, in a text": "data: {class_path: DomainAdaptationDataModule, init_args: {target: DigitsDataModule, "
    """source: '{"class_path": "evil.EvilData"}'}}\n""",
    "task": "model: {class_path: MultiTaskModule, init_args: {tasks: {x: {type: evil.EvilTask}}}}\n"
    "data: {class_path: ShapesDataModule}\n",
    "call": "model: {class_path: os.system, init_args: {command: touch code_has_run}}\n",
    "call of a library": "trainer: {callbacks: [{class_path: lit_cv.cli.main, init_args: {args: [fit]}}]}\n",
    "logger": "trainer: {logger: {class_path: evil.EvilCallback}}\n",
    "strategy": "trainer: {strategy: {class_path: subprocess.Popen, init_args: {args: [touch, code_has_run]}}}\n",
    "another file": "model: other.yaml\n",
    "any argument": "model: {init_args: {class_weight: {class_path: subprocess.Popen, init_args: {args: x}}}}\n",
}


@pytest.mark.parametrize("name", STRANGE)
def test_foreign_configuration_imports_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path("strange.yaml").write_text(STRANGE[name])
    Path("other.yaml").write_text("class_path: evil.EvilModule\n")
    error = error_line(["fit", "--config", "supervised", "--config", "strange.yaml", *QUICK], monkeypatch)
    assert error is not None
    assert_nothing_happened(place)


def test_configuration_code_requires_trust(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "shout.py").write_text(
        "import lightning as L\nclass Shout(L.Callback):\n    def on_fit_start(self, *args):\n        print('HELLO')\n"
    )
    (in_tmp / "own.yaml").write_text("trainer: {callbacks: [{class_path: shout.Shout}]}\n")
    fit = ["fit", "--config", "supervised", "--config", "own.yaml", *QUICK]
    refused = error_line(fit, monkeypatch)
    assert refused is not None
    assert "own.yaml names shout.Shout" in refused
    assert refused.endswith("(--trust shout).")
    assert error_line([*fit, "--trust", "shout"], monkeypatch) is None
    assert "HELLO" in capfd.readouterr().out


@pytest.mark.parametrize(
    "comparison",
    [
        "data: evil.EvilData\napproaches: {a: {stages: [{config: supervised}]}}\n",
        "data: DigitsDataModule\napproaches: {a: {stages: [{config: {model: {class_path: evil.EvilModule}}}]}}\n",
        "data: DigitsDataModule\napproaches: {a: {stages: [{config: strange.yaml}]}}\n",
        "data: DigitsDataModule\napproaches: {a: {stages: [{config: supervised, "
        "trainer: {callbacks: [{class_path: evil.EvilCallback}]}}]}}\n",
    ],
)
def test_foreign_comparison_imports_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, comparison: str) -> None:
    Path("strange.yaml").write_text(STRANGE["module"])
    Path("compared.yaml").write_text(f"steps: 1\nlabels: [2]\nmetric: test_acc\n{comparison}")
    error_line(["compare", "--comparison", "compared.yaml"], monkeypatch)
    assert_nothing_happened(place)


BOMBS = {
    "aliases": "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "itself": "model: &a [*a]\n",
    "itself, in a dict": "model: &a {init_args: *a}\n",
    "nested": "[" * 20_000,
    "long": "a: 1\n" * 300_000,
    "number": "seed_everything: " + "9" * 5_000,
    "date": "trainer: {max_epochs: 2001-99-99}",
    "no text": "\x00\x01",
    "a list": "- model",
    "wrong types": "model: 3\ndata: [1]\ntrainer: x\n",
    "wrong class_path": "model: {class_path: [1]}\n",
}


def test_yaml_bomb_in_option_file(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bomb.yaml").write_text(
        "class_path: SupervisedModule\ninit_args:\n  " + BOMBS["aliases"].replace("\n", "\n  ")
    )
    begun = time.process_time()
    assert error_line(["fit", "--config=supervised", "--model=bomb.yaml", *QUICK], monkeypatch) is not None
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n == "nested" else []) for n in BOMBS])
def test_yaml_bombs_give_one_line_error(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path("bomb.yaml").write_text(BOMBS[name])
    path = save_hostile(in_tmp / RUN / "checkpoints" / "best.ckpt", hyper_parameters={"backbone": "conv4"})
    (path.parent.parent / "config.yaml").write_text(BOMBS[name])
    begun = time.process_time()
    for args in (["fit", "--config", "supervised", "--config", "bomb.yaml"], ["validate", "--ckpt_path", str(path)]):
        assert error_line(args, monkeypatch) is not None
    assert time.process_time() - begun < 20


def test_plain_values() -> None:
    require_plain({"a": [1, 2.0, None, True, "x", (1,)]}, "an example")
    with pytest.raises(ValueError, match="an example holds a Tensor"):
        require_plain([torch.zeros(1)], "an example")
    shared = ["x"] * 5
    require_plain([shared] * 5, "an example")
    assert load_yaml("{a: &x [1], b: *x, c: 1e-3}", "an example") == {"a": [1], "b": [1], "c": 1e-3}
    with pytest.raises(FileNotFoundError):
        read_yaml(Path("nowhere.yaml"))
