"""Names of networks, optimizers, schedules, metrics, operations and formats in foreign files import nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules import AnnotatedImagesDataModule
from lit_cv import FineTuneModule, PrototypicalModule, SupervisedModule
from lit_cv.modules.loading import load_module
from lit_cv.trust import UntrustedClassError
from tests.custom_parts import write_files
from tests.security.hostile import EVIL, MARKER, QUICK, error_line, save_hostile

NAMES = ["os.system", "subprocess.Popen", "shutil.rmtree", "builtins.exec", "lit_cv.cli.main", "evil.EvilNet"]
ARGUMENTS = ["backbone", "optimizer", "schedule", "metrics"]
VERBS = {
    "export": ["export", "x.ckpt"],
    "fit": ["fit", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "validate": ["validate", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "predict": ["predict", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "find-lr": ["find-lr", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", *QUICK],
    "with trusted modules": [
        "fit", "--ckpt_path=x.ckpt", "--data=DigitsDataModule", "--model.backbone=mynet.TinyNet",
        "--model.optimizer=mine.Slow", "--trust=sol", *QUICK,
    ],
}  # fmt: skip


@pytest.fixture
def place(in_tmp: Path) -> Path:
    """A working directory with hostile code beside the user's code."""
    write_files(in_tmp)
    (in_tmp / "evil.py").write_text(
        f"{EVIL}\nimport torch\nfrom torch import nn\nfrom lit_cv.augment import Operation\n"
        "class EvilNet(nn.Module):\n    num_features = 4\n    def forward(self, x):\n        return x\n"
        "class EvilOperation(Operation): pass\nFORMAT = 1\n"
    )
    return in_tmp


def assert_nothing_happened(place: Path) -> None:
    assert not (place / MARKER).exists()
    assert "evil" not in sys.modules


def hostile(place: Path, argument: str, name: str) -> Path:
    value: Any = [name] if argument == "metrics" else name
    options = {"backbone": "conv4", "num_classes": 10, "in_channels": 1, argument: value}
    return save_hostile(place / "x.ckpt", hyper_parameters=options)


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_names_in_hyperparameters_are_refused(place: Path, argument: str, name: str) -> None:
    path = hostile(place, argument, name)
    with pytest.raises(ValueError, match=f"`{argument}` names {name}, "):
        load_module(path)
    assert_nothing_happened(place)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_verbs_import_no_module_of_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch, verb: str, argument: str
) -> None:
    hostile(place, argument, "evil.EvilNet")
    assert error_line(VERBS[verb], monkeypatch) is not None
    assert_nothing_happened(place)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("backbone", "torch.nn.Identity"),
        ("backbone", "torchvision.models.resnet.ResNet"),
        ("optimizer", "torch.optim.RMSprop"),
        ("metrics", "torchmetrics.MeanMetric"),
    ],
)
def test_installed_packages_are_not_trusted(place: Path, argument: str, name: str) -> None:
    with pytest.raises(UntrustedClassError, match=f"`{argument}` names {name}, code outside lit_cv"):
        load_module(hostile(place, argument, name))


def test_metric_arguments_take_no_memory(place: Path) -> None:
    options = {"backbone": "conv4", "num_classes": 10, "in_channels": 1}
    for metric, message in (
        ({"name": "auroc", "thresholds": 10**10}, r"describe a network of more than .*AUROC\.thresholds"),
        ({"name": "precision", "num_classes": 10**10}, r"state would need [\d,]+ bytes: change num_classes"),
    ):
        path = save_hostile(place / "x.ckpt", hyper_parameters={**options, "metrics": [metric]})
        with pytest.raises(ValueError, match=message):
            load_module(path)


def test_checkpoint_with_custom_network_requires_trust(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile(place, "backbone", "mynet.TinyNet")
    with pytest.raises(UntrustedClassError, match=r"`backbone` names mynet.TinyNet"):
        load_module(path)
    assert "mynet" not in sys.modules
    with pytest.raises(ValueError, match=r"lacks weights of SupervisedModule: .*backbone"):  # the network is built now
        load_module(path, trusted=["mynet"])


@pytest.mark.parametrize("module", [FineTuneModule, PrototypicalModule])
def test_foreign_weights_import_no_network(place: Path, module: type) -> None:
    path = hostile(place, "backbone", "evil.EvilNet")
    with pytest.raises(UntrustedClassError, match=r"`backbone` names evil.EvilNet"):
        module(weights=str(path))
    assert_nothing_happened(place)


def test_load_from_checkpoint_imports_nothing(place: Path) -> None:
    path = hostile(place, "backbone", "evil.EvilNet")
    with pytest.raises(UntrustedClassError, match=r"`backbone` names evil.EvilNet"):
        SupervisedModule.load_from_checkpoint(path)
    assert_nothing_happened(place)


def test_load_data_from_checkpoint_imports_nothing(place: Path) -> None:
    options = {"root": ".", "format": "evil.FORMAT"}
    path = save_hostile(place / "x.ckpt", datamodule_hyper_parameters=options)
    with pytest.raises(UntrustedClassError, match=r"`format` names evil.FORMAT"):
        AnnotatedImagesDataModule.load_from_checkpoint(path)
    assert_nothing_happened(place)


STRANGE = {
    "operation": "trainer: {callbacks: [{class_path: Augmentation, init_args: {operations: [evil.EvilOperation]}}]}\n",
    "operation with arguments": "trainer: {callbacks: [{class_path: ContrastiveAugmentation, init_args: {operations: "
    "[{name: evil.EvilOperation, p: 1.0}]}}]}\n",
    "call for an operation": "trainer: {callbacks: [{class_path: Augmentation, init_args: {operations: "
    "[{name: subprocess.Popen, args: [touch, code_has_run]}]}}]}\n",
    "network": "model: {init_args: {backbone: evil.EvilNet}}\n",
    "optimizer": "model: {init_args: {optimizer: os.system}}\n",
    "schedule": "model: {init_args: {schedule: evil.EvilNet}}\n",
    "metric": "model: {init_args: {metrics: [evil.EvilNet]}}\n",
    "call for a metric": "model: {init_args: {metrics: [{name: subprocess.Popen, args: [touch, code_has_run]}]}}\n",
    "class for a metric": "model: {init_args: {metrics: [{class_path: subprocess.Popen, init_args: {args: x}}]}}\n",
    "format": "data: {class_path: AnnotatedImagesDataModule, init_args: {root: ., format: evil.FORMAT}}\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGE)
def test_foreign_configuration_imports_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path("strange.yaml").write_text(STRANGE[name])
    own = ["--model.optimizer=mine.Slow"] if "format" in name else []
    assert error_line(["fit", "--config=supervised", "--config=strange.yaml", *own, *QUICK], monkeypatch) is not None
    assert_nothing_happened(place)


def test_operation_of_configuration_requires_trust(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.yaml").write_text(STRANGE["operation"].replace("evil.EvilOperation", "sol.Invert"))
    fit = ["fit", "--config=supervised", "--config=own.yaml", *QUICK]
    refused = error_line(fit, monkeypatch)
    assert refused is not None
    assert "--trainer.callbacks.operations names sol.Invert" in refused
    assert "(--trust sol)" in refused
    assert error_line([*fit, "--trust=sol"], monkeypatch) is None


@pytest.mark.slow
def test_run_configuration_imports_no_operation(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = ["--trainer.callbacks+=Augmentation", "--trainer.callbacks.operations=[sol.Invert]"]
    assert error_line(["fit", "--config=supervised", *operations, *QUICK], monkeypatch) is None
    path = Path("lightning_logs/version_0/config.yaml")
    path.write_text(path.read_text().replace("sol.Invert", "evil.EvilOperation"))
    again = ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert error_line(again, monkeypatch) is not None
    assert error_line([*again, "--trust=sol"], monkeypatch) is not None
    error_line(["validate", "--ckpt_path=best"], monkeypatch)
    assert_nothing_happened(place)
