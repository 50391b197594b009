"""Names of built-in parts and of the user's own: what they become, and what is said about wrong ones."""

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

TABLES = {
    "operations": (OPERATIONS, "solarize"),
    "tasks": (TASKS, "regression"),
    "metrics": (METRICS, "kappa"),
    "optimizers": (OPTIMIZERS, "lars"),
    "schedules": (SCHEDULES, "cosine"),
    "formats": (FORMATS, "coco"),
}
OWN = {
    "operations": "sol.Invert",
    "metrics": "scores.TopTwo",
    "optimizers": "mine.Slow",
    "schedules": "mine.steps",
    "formats": "lines.LINES",
}


@pytest.fixture
def own(in_tmp: Path) -> Path:
    """A working directory with the user's files."""
    write_files(in_tmp)
    (in_tmp / "torn.py").write_text("class Torn(:\n    pass\n")
    (in_tmp / "needy.py").write_text("import torch\nimport not_installed_here\n")
    return in_tmp


@pytest.mark.parametrize("name", TABLES)
def test_short_names_and_slips(name: str) -> None:
    table, short = TABLES[name]
    assert resolve(short, table, "it") is table[short]
    with pytest.raises(ValueError, match=f"it='{short}x': there is no such {table.kind}.*did you mean .*'{short}'"):
        resolve(f"{short}x", table, "it")


@pytest.mark.parametrize("name", OWN)
def test_own_parts_are_imported_on_the_programs_word_alone(own: Path, name: str) -> None:
    table, path = TABLES[name][0], OWN[name]
    module = path.partition(".")[0]
    with names_of_files(), pytest.raises(UntrustedClassError, match=f"`it` names {path}, code outside lit_cv"):
        resolve(path, table, "it")
    with names_of_files([module]):
        assert resolve(path, table, "it") is not None
    assert resolve(path, table, "it") is not None


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "shutil.rmtree", "builtins.exec", "lit_cv.cli.main"])
def test_nothing_of_another_kind_is_taken(name: str, path: str) -> None:
    for trusted in ([], ["os", "subprocess", "shutil", "builtins"]):
        with names_of_files(trusted), pytest.raises(ValueError, match=f"`it` names {path}, which is n"):
            resolve(path, TABLES[name][0], "it")


@pytest.mark.parametrize(
    ("table", "path", "message"),
    [
        (OPERATIONS, "sol.Invrt", "not a subclass of Operation: sol has no Invrt: did you mean 'Invert'"),
        (OPERATIONS, "sol.Half", "which is abstract: it must define _draw"),
        (OPERATIONS, "mynet.TinyNet", "which is not a subclass of Operation"),
        (OPERATIONS, "nowhere.Invert", "there is no nowhere here"),
        (SCHEDULES, "mine.backwards", "neither a function of `progress`"),
        (SCHEDULES, "mine.Slow", "which is not a subclass of StepSchedule"),
        (METRICS, 7, "it='7': there is no such metric"),
        (OPERATIONS, "torn.Invert", r"but torn cannot be imported: torn\.py, line 1: SyntaxError: invalid syntax\."),
        (OPERATIONS, "needy.Invert", r"needy\.py, line 2: ModuleNotFoundError: No module named 'not_installed_here'\."),
    ],
)
def test_what_does_not_fit_is_said(own: Path, table: "Registry[object]", path: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(path, table, "it")


def test_an_entry_is_added_by_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the package that adds an operation is all that a new one takes."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(
        "from lit_cv.registry import Registry\nclass Base: pass\nTABLE = Registry('thing', Base, 'own_package')\n"
    )
    (package / "first.py").write_text(
        "from own_package.base import TABLE, Base\n@TABLE.add('first')\nclass First(Base): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_package.base import TABLE  # type: ignore[import-not-found]

    assert list(TABLE) == ["first"]
    with pytest.raises(ValueError, match="there are two things named 'first'"):
        TABLE.add("first")(int)


def test_parameters_follow_kwargs_through_the_bases() -> None:
    class Base:
        def __init__(self, size: int = 1, *, color: str = "red") -> None: ...

    class Open(Base):
        def __init__(self, depth: int, **kwargs: object) -> None: ...

    class Closed(Base):
        def __init__(self, depth: int) -> None: ...

    assert [list(parameters(kind)) for kind in (Open, Closed)] == [["depth", "size", "color"], ["depth"]]
    assert accepted_arguments(Open, {"size": 2, "shape": 3}) == {"size": 2}


def test_an_own_operation_is_applied_and_its_arguments_are_checked(own: Path) -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    invert, _ = build_operations([{"name": "sol.Invert", "p": 1.0}, "horizontal_flip"]).operations
    assert torch.equal(invert(images), 255 - images)
    with pytest.raises(ValueError, match=r"operation 'sol.Invert' has no argument 'chance'\. It accepts p\."):
        build_operations([{"name": "sol.Invert", "chance": 1.0}])


def test_an_own_optimizer_gets_what_it_accepts(own: Path) -> None:
    groups = [{"params": list(nn.Linear(2, 2).parameters()), "lr": 0.5, "weight_decay": 0.0, "name": "all"}]
    optimizer = build_optimizer("mine.Slow", groups, lr=0.5, momentum=0.7)
    assert (optimizer.defaults["momentum"], optimizer.defaults["dampening"]) == (0.7, 0.5)
    assert set(groups[0]) == {"params", "lr", "weight_decay", "name"}  # unchanged
    assert not scales_layers("mine.Slow")
    assert scales_layers("lars")


def test_an_own_schedule_is_warmed_up_and_ends_at_the_minimum(own: Path) -> None:
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
    with pytest.raises(ValueError, match=r"'mine.steps' needs to know where the training ends"):
        build_schedule("mine.steps", optimizer, float("inf"))


def test_an_own_format_is_read(own: Path) -> None:
    assert format_named("lines.LINES").name == "lines"


@pytest.mark.parametrize(("name", "has_map"), [("TinyNet", False), ("MapNet", True), ("SizedNet", False)])
def test_own_networks(own: Path, name: str, has_map: bool) -> None:
    backbone = create_backbone(f"mynet.{name}", in_channels=1, image_size=16)
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    assert backbone(images).shape == (3, backbone.num_features)
    assert backbone.has_feature_map is has_map
    assert float(backbone.mean) == pytest.approx(0.25 if name == "MapNet" else 0.5)
    assert float(backbone.std) == pytest.approx(0.5 if name == "MapNet" else 0.25)


def test_looking_at_an_own_network_changes_nothing(own: Path) -> None:
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


def test_maps_and_stages_of_an_own_network(own: Path) -> None:
    backbone = create_backbone("mynet.MapNet", in_channels=1, image_size=64)
    assert backbone.feature_levels((64, 64)) == {2: 8}
    assert [stage.name for stage in backbone_stages(backbone.body)] == ["stem", "deep"]
    with pytest.raises(ValueError, match="SizedNet has no convolution, and hence no feature maps"):
        create_backbone("mynet.SizedNet", image_size=16).feature_levels((16, 16))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NamelessNet", {}, "mynet.NamelessNet has no num_features: set it"),
        ("WrongNet", {"image_size": 16}, r"forward returned the shape \(2, 3\): give \(N, 8\) or a feature map"),
        ("WrongNet", {}, r"forward returned the shape \(2, 3\)"),
        ("LazyNet", {}, "mynet.LazyNet has layers whose sizes are unknown"),
        ("DemandingNet", {}, "mynet.DemandingNet needs `depth`"),
        ("SizedNet", {}, "mynet.SizedNet needs `image_size`"),
        ("StillNet", {}, "which is no network: it has no forward"),
        ("HelperOnly", {}, "which is not a subclass of Module"),
        ("TinyNt", {}, "mynet has no TinyNt: did you mean 'TinyNet'"),
        ("TinyNet", {"stem": "small"}, "has no stem for small images"),
        ("TinyNet", {"weights": "DEFAULT"}, "has no published weights of this name"),
        ("TinyNet", {"drop_path": 0.1}, "has no residual branches"),
        ("TinyNet", {"spatial_dropout": 0.1}, "has no feature map"),
    ],
)
def test_own_networks_that_do_not_fit(own: Path, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(f"mynet.{name}", **options)  # type: ignore[arg-type]


def test_own_weights_come_back_from_a_checkpoint(own: Path) -> None:
    first = create_backbone("mynet.TinyNet", in_channels=1)
    torch.save(first.state_dict(), own / "first.pt")
    again = create_backbone("mynet.TinyNet", in_channels=1, weights="first.pt")
    linear = create_backbone("mynet.SizedNet", in_channels=1, image_size=8)
    torch.save(linear.state_dict(), own / "linear.pt")
    taken = create_backbone("mynet.SizedNet", in_channels=1, image_size=8, weights="linear.pt")
    for one, other in ((first, again), (linear, taken)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_own_parts_in_python(own: Path) -> None:
    import lightning as L

    module = SupervisedModule(
        backbone="mynet.TinyNet", optimizer="mine.Slow", schedule="mine.steps", metrics=["kappa", "scores.TopTwo"]
    )
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, limit_train_batches=2, enable_model_summary=False, **options)
    trainer.fit(module, DigitsDataModule())
    assert isinstance(module.metrics["val"]["kappa"], Metric)
    assert {"val_kappa", "val_top_two", "val_acc"} <= set(trainer.callback_metrics)
