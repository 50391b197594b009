"""Resolving names of built-in and custom parts, and the errors about wrong ones."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchmetrics import Metric

from datamodules import DigitsDataModule
from lit_cv import SupervisedModule
from lit_cv.annotations.formats import FORMATS, format_named
from lit_cv.augment import OPERATIONS, build_operations
from lit_cv.metrics.chosen import METRICS
from lit_cv.nn import backbone_stages, create_backbone
from lit_cv.optim import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule, scales_layers
from lit_cv.registry import Registry, resolve
from lit_cv.signatures import accepted_arguments, parameters
from lit_cv.tasks import TASKS
from lit_cv.trust import UntrustedClassError, names_of_files
from tests.custom_parts import write_files

REGISTRIES = {
    "operations": (OPERATIONS, "solarize"),
    "tasks": (TASKS, "regression"),
    "metrics": (METRICS, "kappa"),
    "optimizers": (OPTIMIZERS, "lars"),
    "schedules": (SCHEDULES, "cosine"),
    "formats": (FORMATS, "coco"),
}
CUSTOM = {
    "operations": "sol.Invert",
    "metrics": "scores.TopTwo",
    "optimizers": "mine.Slow",
    "schedules": "mine.steps",
    "formats": "lines.LINES",
}


@pytest.fixture
def custom(in_tmp: Path) -> Path:
    """A working directory with files of custom parts."""
    write_files(in_tmp)
    (in_tmp / "torn.py").write_text("class Torn(:\n    pass\n")
    (in_tmp / "needy.py").write_text("import torch\nimport not_installed_here\n")
    return in_tmp


@pytest.mark.parametrize("name", REGISTRIES)
def test_short_names_and_typos(name: str) -> None:
    registry, short = REGISTRIES[name]
    assert resolve(short, registry, "it") is registry[short]
    with pytest.raises(ValueError, match=f"it='{short}x': there is no such {registry.kind}.*did you mean .*'{short}'"):
        resolve(f"{short}x", registry, "it")


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_parts_require_trust(custom: Path, name: str) -> None:
    registry, path = REGISTRIES[name][0], CUSTOM[name]
    module = path.partition(".")[0]
    with names_of_files(), pytest.raises(UntrustedClassError, match=f"`it` names {path}, code outside lit_cv"):
        resolve(path, registry, "it")
    with names_of_files([module]):
        assert resolve(path, registry, "it") is not None
    assert resolve(path, registry, "it") is not None


@pytest.mark.parametrize("name", REGISTRIES)
@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "shutil.rmtree", "builtins.exec", "lit_cv.cli.main"])
def test_wrong_kinds_are_refused(name: str, path: str) -> None:
    for trusted in ([], ["os", "subprocess", "shutil", "builtins"]):
        with names_of_files(trusted), pytest.raises(ValueError, match=f"`it` names {path}, which is n"):
            resolve(path, REGISTRIES[name][0], "it")


@pytest.mark.parametrize(
    ("registry", "path", "message"),
    [
        (OPERATIONS, "sol.Invrt", "not a subclass of Operation: sol has no Invrt: did you mean 'Invert'"),
        (OPERATIONS, "sol.Half", "which is abstract: it must define _draw"),
        (OPERATIONS, "mynet.TinyNet", "which is not a subclass of Operation"),
        (OPERATIONS, "nowhere.Invert", "module nowhere was not found"),
        (SCHEDULES, "mine.backwards", "neither a function of `progress`"),
        (SCHEDULES, "mine.Slow", "which is not a subclass of StepSchedule"),
        (METRICS, 7, "it='7': there is no such metric"),
        (OPERATIONS, "torn.Invert", r"but torn cannot be imported: torn\.py, line 1: SyntaxError: invalid syntax\."),
        (OPERATIONS, "needy.Invert", r"needy\.py, line 2: ModuleNotFoundError: No module named 'not_installed_here'\."),
    ],
)
def test_error_names_problem(custom: Path, registry: "Registry[object]", path: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(path, registry, "it")


def test_entry_is_registered_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in the package is enough to add an entry."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(
        "from lit_cv.registry import Registry\nclass Base: pass\nTHINGS = Registry('thing', Base, 'own_package')\n"
    )
    (package / "first.py").write_text(
        "from own_package.base import THINGS, Base\n@THINGS.add('first')\nclass First(Base): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_package.base import THINGS  # type: ignore[import-not-found]

    assert list(THINGS) == ["first"]
    with pytest.raises(ValueError, match="two things are named 'first'"):
        THINGS.add("first")(int)


def test_parameters_include_those_of_bases() -> None:
    class Base:
        def __init__(self, size: int = 1, *, color: str = "red") -> None: ...

    class Open(Base):
        def __init__(self, depth: int, **kwargs: object) -> None: ...

    class Closed(Base):
        def __init__(self, depth: int) -> None: ...

    assert [list(parameters(kind)) for kind in (Open, Closed)] == [["depth", "size", "color"], ["depth"]]
    assert accepted_arguments(Open, {"size": 2, "shape": 3}) == {"size": 2}


def test_custom_operation(custom: Path) -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    invert, _ = build_operations([{"name": "sol.Invert", "p": 1.0}, "horizontal_flip"]).operations
    assert torch.equal(invert(images), 255 - images)
    with pytest.raises(ValueError, match=r"operation 'sol.Invert' has no argument 'chance'\. It accepts p\."):
        build_operations([{"name": "sol.Invert", "chance": 1.0}])


def test_custom_optimizer_gets_accepted_arguments(custom: Path) -> None:
    groups = [{"params": list(nn.Linear(2, 2).parameters()), "lr": 0.5, "weight_decay": 0.0, "name": "all"}]
    optimizer = build_optimizer("mine.Slow", groups, lr=0.5, momentum=0.7)
    assert (optimizer.defaults["momentum"], optimizer.defaults["dampening"]) == (0.7, 0.5)
    assert set(groups[0]) == {"params", "lr", "weight_decay", "name"}  # unchanged
    assert not scales_layers("mine.Slow")
    assert scales_layers("lars")


def test_custom_schedule_has_warmup_and_min_lr(custom: Path) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = build_schedule("mine.steps", optimizer, 12, warmup_steps=2, min_lr=0.2)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.2 + 0.8 * 0.1)
    assert schedule.state_dict() == {"last_epoch": 12}
    with pytest.raises(ValueError, match=r"'mine.steps' needs the length of the training"):
        build_schedule("mine.steps", optimizer, float("inf"))


def test_custom_format(custom: Path) -> None:
    assert format_named("lines.LINES").name == "lines"


@pytest.mark.parametrize(("name", "has_map"), [("TinyNet", False), ("MapNet", True), ("SizedNet", False)])
def test_custom_networks(custom: Path, name: str, has_map: bool) -> None:
    backbone = create_backbone(f"mynet.{name}", in_channels=1, image_size=16)
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    assert backbone(images).shape == (3, backbone.num_features)
    assert backbone.has_feature_map is has_map
    assert float(backbone.mean) == pytest.approx(0.25 if name == "MapNet" else 0.5)
    assert float(backbone.std) == pytest.approx(0.5 if name == "MapNet" else 0.25)


def test_inspecting_custom_network_changes_nothing(custom: Path) -> None:
    before = torch.random.get_rng_state()
    backbone = create_backbone("mynet.CountingNet", image_size=16)
    torch.random.set_rng_state(before)
    again = create_backbone("mynet.CountingNet", image_size=16)
    assert (backbone.body.calls, float(backbone.body.seen)) == (0, 0.0)
    assert backbone.training
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert int(backbone.body.stem[1].num_batches_tracked) == 0


def test_feature_maps_and_stages_of_custom_network(custom: Path) -> None:
    backbone = create_backbone("mynet.MapNet", in_channels=1, image_size=64)
    assert backbone.feature_levels((64, 64)) == {2: 8}
    assert [stage.name for stage in backbone_stages(backbone.body)] == ["stem", "deep"]
    with pytest.raises(ValueError, match="SizedNet has no convolution, so it has no feature maps"):
        create_backbone("mynet.SizedNet", image_size=16).feature_levels((16, 16))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NamelessNet", {}, "mynet.NamelessNet has no num_features: set it"),
        ("WrongNet", {"image_size": 16}, r"forward returned the shape \(2, 3\): return \(N, 8\) or a feature map"),
        ("WrongNet", {}, r"forward returned the shape \(2, 3\)"),
        ("LazyNet", {}, "mynet.LazyNet has lazy layers of unknown size"),
        ("DemandingNet", {}, "mynet.DemandingNet requires `depth`"),
        ("SizedNet", {}, "mynet.SizedNet requires `image_size`"),
        ("StillNet", {}, "which is no network: it has no forward"),
        ("HelperOnly", {}, "which is not a subclass of Module"),
        ("TinyNt", {}, "mynet has no TinyNt: did you mean 'TinyNet'"),
        ("TinyNet", {"stem": "small"}, "has no stem for small images"),
        ("TinyNet", {"weights": "DEFAULT"}, "has no published weights of this name"),
        ("TinyNet", {"drop_path": 0.1}, "does not support stochastic depth"),
        ("TinyNet", {"spatial_dropout": 0.1}, "has no feature map"),
    ],
)
def test_invalid_custom_networks(custom: Path, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(f"mynet.{name}", **options)  # type: ignore[arg-type]


def test_custom_network_weights_are_restored(custom: Path) -> None:
    first = create_backbone("mynet.TinyNet", in_channels=1)
    torch.save(first.state_dict(), custom / "first.pt")
    again = create_backbone("mynet.TinyNet", in_channels=1, weights="first.pt")
    linear = create_backbone("mynet.SizedNet", in_channels=1, image_size=8)
    torch.save(linear.state_dict(), custom / "linear.pt")
    taken = create_backbone("mynet.SizedNet", in_channels=1, image_size=8, weights="linear.pt")
    for one, other in ((first, again), (linear, taken)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_custom_parts_in_python(custom: Path) -> None:
    import lightning as L

    module = SupervisedModule(
        backbone="mynet.TinyNet", optimizer="mine.Slow", schedule="mine.steps", metrics=["kappa", "scores.TopTwo"]
    )
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, limit_train_batches=2, enable_model_summary=False, **options)
    trainer.fit(module, DigitsDataModule())
    assert isinstance(module.metrics["val"]["kappa"], Metric)
    assert {"val_kappa", "val_top_two", "val_acc"} <= set(trainer.callback_metrics)
