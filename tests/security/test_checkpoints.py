"""A foreign checkpoint is data: it runs no code and takes no memory beyond its size, and errors are one line."""

import contextlib
import os
import random
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_cv import SupervisedModule
from lit_cv.checkpoint_file import read_checkpoint
from lit_cv.checkpoint_io import AtomicCheckpointIO
from lit_cv.modules.loading import load_module
from lit_cv.trust import UntrustedClassError
from tests.marks import first_quick
from tests.processes import run_code
from tests.security.hostile import EVIL, MARKER, QUICK, SUPERVISED, error_line, save_hostile

CALLS = {
    "os.system": {"command": f"touch {MARKER}"},
    "posix.system": {"command": f"touch {MARKER}"},
    "subprocess.Popen": {"args": ["touch", MARKER]},
    "shutil.rmtree": {"path": "victim"},
    "builtins.exec": {"source": f"open({MARKER!r}, 'w')"},
    "pathlib.Path.touch": {"self": MARKER},
    "lit_cv.cli.main": {"args": ["fit", "--config", "supervised"]},
    "lit_cv.running.export.os.system": {"command": f"touch {MARKER}"},
    "evil.EvilModule": {},
    "antigravity.fly": {},
    "lit_cv.__main__.Anything": {},
}
VERBS = {
    "export": ["export", "x.ckpt"],
    "fit": ["fit", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "validate": ["validate", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "test": ["test", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "predict": ["predict", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "predict --images": ["predict", "--ckpt_path=x.ckpt", "--images=photos"],
    "knn": ["knn", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "find-lr": ["find-lr", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "fit --model.weights": ["fit", "--config=supervised", "--model.weights=x.ckpt", *QUICK],
    "kfold": ["kfold", "--config=supervised", "--model.weights=x.ckpt", "--folds=2", *QUICK[:2]],
    "compare": ["compare", "--approaches", "transfer", "--weights=x.ckpt", "--labels=2", "--seeds=0", "--steps=1"],
}


@pytest.fixture
def place(in_tmp: Path) -> Path:
    """A working directory with hostile code, and a folder that must not be changed."""
    (in_tmp / "evil.py").write_text(EVIL)
    (in_tmp / "victim").mkdir()
    (in_tmp / "victim" / "thesis.txt").write_text("years of work")
    (in_tmp / "photos").mkdir()
    return in_tmp


def assert_nothing_happened(place: Path) -> None:
    assert not (place / MARKER).exists()
    assert (place / "victim" / "thesis.txt").read_text() == "years of work"
    assert "evil" not in sys.modules


@pytest.mark.parametrize("class_path", CALLS)
def test_load_module_calls_nothing(place: Path, class_path: str) -> None:
    path = save_hostile(place / "x.ckpt", class_path, CALLS[class_path])
    with pytest.raises(ValueError, match=r"x\.ckpt names"):
        load_module(path)
    assert_nothing_happened(place)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("class_path", first_quick(["os.system", "evil.EvilModule"], 1))
def test_verbs_call_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, verb: str, class_path: str) -> None:
    save_hostile(place / "x.ckpt", class_path, CALLS[class_path])
    error = error_line(VERBS[verb], monkeypatch)
    assert error is None or "x.ckpt" in error or verb in ("kfold", "compare")
    assert_nothing_happened(place)


@pytest.mark.parametrize(
    "tasks",
    [
        {"x": {"type": "evil.EvilTask"}},
        {"x": {"type": "os.system"}},
        {"x": {"type": "classification", "metrics": {"class_path": "os.system", "init_args": {"command": "x"}}}},
    ],
)
def test_tasks_of_a_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch, tasks: Any) -> None:
    path = save_hostile(place / "x.ckpt", "lit_cv.modules.multi_task.MultiTaskModule", {"tasks": tasks})
    with pytest.raises(ValueError, match=r"tasks\.x"):
        load_module(path)
    error = error_line(["validate", "--ckpt_path=x.ckpt", "--data=ShapesDataModule", *QUICK], monkeypatch)
    assert error is not None
    assert "tasks.x" in error or "names os.system, which is not a subclass" in error
    assert_nothing_happened(place)


def test_trusted_module_is_loaded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "own_task.py").write_text(
        "from lit_cv.tasks import ClassificationTask\n\n\nclass OwnTask(ClassificationTask):\n    pass\n"
    )
    path = save_hostile(
        place / "x.ckpt", "lit_cv.modules.multi_task.MultiTaskModule", {"tasks": {"x": {"type": "own_task.OwnTask"}}}
    )
    with pytest.raises(UntrustedClassError, match="trusted='own_task'"):
        load_module(path)
    with pytest.raises(ValueError, match="num_classes"):  # the module is built now
        load_module(path, trusted=["own_task"])
    for option in (["--trust", "own_task"], ["--trust=own_task,lit_cv"]):
        error = error_line(["export", "x.ckpt", *option], monkeypatch)
        assert error is not None
        assert "num_classes" in error
    for wrong in (["--trust"], ["--trust", "own task"], ["--trust", "not_there"]):
        error = error_line(["export", "x.ckpt", *wrong], monkeypatch)
        assert error is not None
        assert error.startswith("lit-cv: error: --trust")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lit_cv": [1]}, "its field `lit_cv` is a list, not a dict"),
        ({"lit_cv": {"class_path": 3}}, "its field `class_path` is a int, not a str"),
        ({"lit_cv": {"class_path": SUPERVISED, "class_names": "abc"}}, "`class_names` is a str, not a list"),
        ({"lit_cv": {"class_path": "no name"}}, "names 'no name' as a class"),
        ({"lit_cv": {"class_path": "lit_cv.NoModule"}}, "which is not a subclass of BaseModule"),
        ({"lit_cv": {"class_path": "lit_cv.nowhere.NoModule"}}, "module lit_cv.nowhere was not found"),
        ({"lit_cv": {"class_path": "lit_cv.CutMix"}}, "which is not a subclass of BaseModule"),
        ({"lit_cv": {}}, "does not name the module that it holds"),
        ({"hyper_parameters": [1]}, "its field `hyper_parameters` is a list"),
        ({"hyper_parameters": {"backbone": "conv4", "no_argument": 1}}, "hyperparameters do not fit"),
        ({"hyper_parameters": {"backbone": 7}}, "."),
        ({"global_step": "five"}, "its field `global_step` is a str"),
        ({"state_dict": [1]}, "it has no `state_dict`"),
        ({"state_dict": {"head.weight": "x"}}, "head.weight of its `state_dict` is not a named tensor"),
    ],
)
def test_malformed_fields_give_one_line_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    save_hostile(place / "x.ckpt", **{"hyper_parameters": {"backbone": "conv4", "num_classes": 10}, **fields})
    error = error_line(["export", "x.ckpt"], monkeypatch)
    assert error is not None
    assert message in error


def nested(levels: int) -> list[Any]:
    values: list[Any] = ["lol"] * 10
    for _ in range(levels):
        values = [values] * 10
    return values


def recursive() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


ABSURD: dict[str, dict[str, Any]] = {
    "classes": {"backbone": "conv4", "num_classes": 10**10},
    "classes that fit in memory": {"backbone": "conv4", "num_classes": 10**8},
    "image": {"backbone": "vit_tiny", "num_classes": 10, "image_size": 30_000},
    "channels": {"backbone": "conv4", "num_classes": 10, "in_channels": 10**9},
    "nested": {"backbone": "conv4", "num_classes": 10, "class_weight": nested(9)},
    "recursive": {"backbone": "conv4", "num_classes": 10, "class_weight": recursive()},
}
MEASURED = """
import resource, sys
from lit_cv.cli import console
sys.argv = ["lit-cv", *sys.argv[1:]]
import lit_cv.running.training, lit_cv.cli.export, lit_cv.running.export, lit_cv.modules.loading
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    console()
except SystemExit as end:
    print("END", end.code)
print("GREW", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ABSURD)
def test_huge_hyperparameters_take_no_memory(place: Path, name: str) -> None:
    path = save_hostile(place / "x.ckpt", hyper_parameters=ABSURD[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"x\.ckpt"):
        load_module(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400  # MiB


def test_huge_hyperparameters_take_no_memory_in_program(place: Path) -> None:
    save_hostile(place / "x.ckpt", hyper_parameters=ABSURD["classes that fit in memory"])
    ran = run_code(MEASURED, *VERBS["validate"], folder=place)
    assert "they do not fit its weights" in ran.stdout, ran.stderr
    assert int(ran.stdout.rpartition("GREW")[2]) < 600  # MiB


@pytest.mark.slow
def test_compressed_checkpoint_is_refused(place: Path) -> None:
    plain = save_hostile(place / "plain.ckpt", state_dict={"head.weight": torch.zeros(50_000_000)})
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(place / "x.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    plain.unlink()
    assert (place / "x.ckpt").stat().st_size < 1_000_000
    with pytest.raises(ValueError, match="its records are compressed"):
        read_checkpoint(place / "x.ckpt")


def test_weights_and_instantiator_of_checkpoint_are_dropped(place: Path) -> None:
    path = save_hostile(place / "x.ckpt", hyper_parameters={"weights": "/etc/passwd", "_instantiator": "os.system"})
    assert read_checkpoint(path).hyper_parameters == {"weights": None}


def test_load_from_checkpoint_calls_nothing(place: Path) -> None:
    path = save_hostile(place / "x.ckpt", hyper_parameters={"_instantiator": "os.system", "backbone": "conv4"})
    with pytest.raises(Exception, match="allowlist"):
        SupervisedModule.load_from_checkpoint(path)
    assert_nothing_happened(place)


@pytest.mark.parametrize("scheme", ["", *(pytest.param(s, marks=pytest.mark.slow) for s in ("local://", "file://"))])
@pytest.mark.slow
def test_callback_state_removes_nothing(
    trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    target = f"{scheme}{place / 'victim'}"
    state = {
        **dict.fromkeys(("best_model_path", "last_model_path", "kth_best_model_path"), target),
        **dict.fromkeys(("best_model_score", "kth_value"), torch.tensor(9.0)),
        "dirpath": str(place),
        "best_k_models": {target: torch.tensor(9.0)},
    }
    savers = (ModelCheckpoint(), ModelCheckpoint(monitor="val_loss", save_last=True))
    content["callbacks"] |= {saver.state_key: state for saver in savers}
    torch.save(content, place / "x.ckpt")
    fit = ["fit", "--config=supervised", "--ckpt_path=x.ckpt", "--trainer.max_epochs=3", *QUICK[1:]]
    for option in ([], ["--trainer.callbacks.monitor=val_loss", "--trainer.callbacks.save_last=true"]):
        assert error_line([*fit, "--trainer.callbacks+=ModelCheckpoint", *option], monkeypatch) is None
        assert_nothing_happened(place)


def test_only_checkpoints_are_removed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        AtomicCheckpointIO().remove_checkpoint(tmp_path / "victim")
    (tmp_path / "link").symlink_to("victim")
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "link")
    assert (tmp_path / "victim" / "thesis.txt").is_file()
    (tmp_path / "pieces.ckpt").mkdir()
    (tmp_path / "pieces.ckpt" / ".metadata").touch()
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "pieces.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"victim"}


VALUES: tuple[Any, ...] = (
    None, -1, 10**30, float("nan"), "x", "\x1b[2J", [], [1], {}, {"a": 1}, True, torch.zeros(2), "os.system", nested(7),
)  # fmt: skip


def mutated(content: Any, random_: random.Random) -> Any:
    """Replace or drop one value somewhere in a checkpoint."""
    if isinstance(content, dict) and content and random_.random() < 0.85:
        key = random_.choice(list(content))
        if random_.random() < 0.15:
            return {name: value for name, value in content.items() if name != key}
        return {**content, key: mutated(content[key], random_)}
    if isinstance(content, list) and content and random_.random() < 0.7:
        place = random_.randrange(len(content))
        return [*content[:place], mutated(content[place], random_), *content[place + 1 :]]
    return random_.choice(VALUES)


@pytest.mark.slow
def test_fuzzed_module_fields(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    expected = load_module(trained / "checkpoints" / "last.ckpt")(images)
    draw = random.Random(0)
    for _ in range(80):
        torch.save(mutated(content, draw), tmp_path / "x.ckpt")
        try:
            module = load_module(tmp_path / "x.ckpt")
        except (ValueError, TypeError):
            continue
        assert isinstance(module, SupervisedModule)
        assert module(images).shape[0] == expected.shape[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7))
def test_fuzzed_fields_of_resumed_runs(trained: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    draw = random.Random(100 + seed)
    fields = ["loops", "callbacks", "optimizer_states", "lr_schedulers", "lit_cv", "hyper_parameters", "epoch"]
    field = fields[seed % len(fields)]
    torch.save({**content, field: mutated(content[field], draw)}, in_tmp / "x.ckpt")
    fit = ["fit", "--config=supervised", "--ckpt_path=x.ckpt", *QUICK[1:], "--trainer.max_epochs=2"]
    error = error_line(fit, monkeypatch)
    assert error is None or error.startswith("lit-cv: error: ")


@pytest.mark.slow
def test_truncated_and_flipped_checkpoints(trained: Path, in_tmp: Path) -> None:
    original = (trained / "checkpoints" / "last.ckpt").read_bytes()
    draw, read = random.Random(0), 0
    for case in range(40):
        content = bytearray(original)
        if case % 2:
            del content[draw.randrange(len(content)) :]
        for _ in range(8):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
        (in_tmp / "x.ckpt").write_bytes(content)
        with contextlib.suppress(ValueError):
            load_module(in_tmp / "x.ckpt")
            read += 1
    assert read <= 20  # the truncated half is refused


def test_pipe_is_not_a_checkpoint(in_tmp: Path) -> None:
    os.mkfifo("x.ckpt")
    with pytest.raises(FileNotFoundError, match="checkpoint not found"):
        load_module("x.ckpt")
