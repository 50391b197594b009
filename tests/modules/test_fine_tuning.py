"""Fine-tuning strategies for all kinds of tasks, and checkpoints of low-rank updates."""

import copy
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv import (
    EMA,
    DetectionModule,
    FineTuneModule,
    MultiTaskModule,
    RunCheckpoint,
    SegmentationModule,
    SupervisedModule,
)
from lit_cv.modules.loading import load_module
from lit_cv.modules.task_module import TasksModule
from lit_cv.running.export import ExportedModule, export_weights
from tests.contracts.data import Scenes

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_train_batches": 2, "limit_val_batches": 1,
}  # fmt: skip
TASKS = {"shape": {"type": "classification"}, "pixels": {"type": "segmentation", "channels": 32}}
KINDS: list[tuple[type[TasksModule], dict[str, Any]]] = [
    (SupervisedModule, {}),
    (DetectionModule, {"channels": 32, "num_convs": 1}),
    (SegmentationModule, {"channels": 32}),
    (MultiTaskModule, {"tasks": TASKS}),
]


def fit(module: L.LightningModule, data: Any, folder: Path | None = None, **kwargs: Any) -> L.Trainer:
    saving: dict[str, Any] = {}
    if folder is not None:
        callbacks = [RunCheckpoint(), *kwargs.pop("callbacks", [])]
        saving = {"enable_checkpointing": True, "callbacks": callbacks, "default_root_dir": folder}
    trainer = L.Trainer(**QUIET | {"max_epochs": 1} | saving | kwargs)
    trainer.fit(module, data)
    return trainer


def body(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.backbone.body.state_dict().items()}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pretrained")
    L.seed_everything(0, verbose=False)
    fit(SupervisedModule(backbone="resnet9_small"), DigitsDataModule(batch_size=32), folder)
    return str(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("cls", "options"),
    KINDS,
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("strategy", ["feature_extraction", "freeze_backbone", "discriminative_lr", "lora"])
@pytest.mark.slow
def test_strategies_of_every_task(cls: type[TasksModule], options: dict[str, Any], strategy: str) -> None:
    L.seed_everything(0, verbose=False)
    module = cls(backbone="resnet18", strategy=strategy, lr=0.01, backbone_lr=None, **options)
    data = Scenes()
    before: dict[str, Tensor] = {}

    class Start(L.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            before.update(body(pl_module))

    trainer = fit(module, data, callbacks=[Start()])
    after, tuning = body(module), module.fine_tuning
    assert tuning is not None
    still = {id(m) for stage in tuning.stages[: tuning.frozen] for part in stage.modules for m in part.modules()}
    frozen = {
        f"{path}.{key}"
        for path, m in module.backbone.body.named_modules()
        if id(m) in still
        for key in m.state_dict(keep_vars=True)
        if "." not in key and "lora_" not in key
    }
    assert frozen if strategy != "discriminative_lr" else not frozen
    for key in frozen:
        assert torch.equal(after[key], before[key]), key
    learning = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    rates: dict[str, float] = {group.get("layer", group["name"]): group["lr"] for group in module.parameter_groups()}
    assert rates.pop("head") == 0.01
    rates.pop("weighting", None)
    for name, parameter in module.backbone.body.named_parameters():
        assert (id(parameter) in learning) == parameter.requires_grad
        if parameter.requires_grad and name.startswith("layer3"):
            assert not torch.equal(after[name], before[name]), name
    expected: dict[str, dict[str, float]] = {
        "feature_extraction": {},
        "freeze_backbone": {"layer4": 1e-3},
        "discriminative_lr": {
            name: 1e-3 * 0.75 ** (5 - i) for i, name in enumerate(("stem", "layer1", "layer2", "layer3", "layer4"))
        },
        "lora": {"lora": 1e-3},
    }
    assert rates == pytest.approx({n: r for n, r in expected[strategy].items() if n in rates})
    assert len(rates) >= len(expected[strategy]) - 1  # the last stage may be beyond the used feature maps


def test_unused_stages_are_not_counted() -> None:
    options: dict[str, Any] = {"backbone": "resnet18", "box_classes": ["cell"], "channels": 32, "stem": "standard"}
    module = DetectionModule(strategy="freeze_backbone", strides=[4, 8], **options)
    module.configure_model()
    assert module.fine_tuning is not None
    assert [stage.name for stage in module.fine_tuning.stages] == ["stem", "layer1", "layer2"]
    assert {group["layer"] for group in module.parameter_groups()} == {"head", "layer2"}
    with pytest.raises(ValueError, match=r"frozen_stages='layer3': there is no stage 'layer3'"):
        DetectionModule(strategy="freeze_backbone", frozen_stages="layer3", strides=[4, 8], **options).configure_model()


def test_penalties_are_added_to_every_loss() -> None:
    L.seed_everything(0, verbose=False)
    data = Scenes()
    for cls, options in KINDS[1:]:
        module = cls(backbone="conv4", strategy="full_finetune", l2_sp=0.5, **options)
        trainer = fit(module, data)
        assert float(trainer.callback_metrics["train_l2_sp"]) >= 0
        with torch.no_grad():
            for parameter in module.backbone.body.parameters():
                parameter += 0.01
        assert float(module.penalties()["l2_sp"].detach()) > 0
    with pytest.raises(ValueError, match=r"l2_sp=0\.5: must be 0 .* its gradient belongs to no task"):
        fit(MultiTaskModule(TASKS, backbone="conv4", weighting="pcgrad", strategy="full_finetune", l2_sp=0.5), data)


def test_error_for_options_without_strategy() -> None:
    for option in ({"backbone_lr": 1e-4}, {"layer_decay": 0.7}, {"frozen_stages": 1}, {"lora_targets": ["0"]}):
        with pytest.raises(ValueError, match="it needs a `strategy`, such as full_finetune"):
            SegmentationModule(backbone="conv4", mask_classes=["a", "b"], **option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lora_targets=\['0'\]: it needs strategy lora, not full_finetune"):
        DetectionModule(backbone="conv4", box_classes=["a"], strategy="full_finetune", lora_targets=["0"])
    with pytest.raises(ValueError, match=r"layer_decay=0\.5: it has no effect when the backbone is frozen \(lora\)"):
        SupervisedModule(backbone="conv4", strategy="lora", layer_decay=0.5)


def test_error_for_resume_with_another_strategy(tmp_path: Path) -> None:
    data = Scenes()
    options: dict[str, Any] = {"backbone": "conv4", "channels": 32}
    fit(SegmentationModule(**options, strategy="full_finetune"), data, tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"strategy='full_finetune' and 0 frozen stages, this run has strategy=None"):
        L.Trainer(**QUIET, max_epochs=2).fit(SegmentationModule(**options), data, ckpt_path=path, weights_only=True)


LORA: dict[str, Any] = {"strategy": "lora", "lora_rank": 2, "lr": 0.01}


@pytest.fixture(scope="module")
def run(pretrained: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuneModule, Path]:
    folder = tmp_path_factory.mktemp("lora")
    L.seed_everything(0, verbose=False)
    module = FineTuneModule(weights=pretrained, num_classes=10, in_channels=1, image_size=8, **LORA)
    fit(module, DigitsDataModule(batch_size=32), folder, callbacks=[EMA(0.9)], max_epochs=2)
    return module.eval(), folder / "checkpoints" / "last.ckpt"


IMAGES = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_lora_checkpoint_names_its_weights(run: tuple[FineTuneModule, Path], pretrained: str) -> None:
    module, path = run
    content = torch.load(path, weights_only=True)
    for state in (content["state_dict"], content["ema"]["weights"]):
        assert {key for key in state if key.startswith("backbone.body.")} == {
            f"backbone.body.{key}" for key in module.backbone.body.state_dict() if "lora_" in key
        }
    assert content["hyper_parameters"]["weights"] == pretrained
    assert path.stat().st_size < 0.2 * Path(pretrained).stat().st_size


def test_all_ways_of_loading_predict_the_same(run: tuple[FineTuneModule, Path], pretrained: str) -> None:
    module, path = run
    with torch.no_grad():
        expected = module(IMAGES)
        loaded = load_module(path)
        assert torch.equal(loaded(IMAGES), expected)
        again = FineTuneModule.load_from_checkpoint(path, weights_only=True).eval()
        assert torch.equal(again(IMAGES), expected)
    assert loaded.hparams["weights"] == pretrained


def test_evaluation_and_resume_need_no_weights(run: tuple[FineTuneModule, Path], tmp_path: Path) -> None:
    module, path = run
    data = DigitsDataModule(batch_size=32)
    expected = L.Trainer(**QUIET).validate(copy.deepcopy(module), data, verbose=False)
    fresh = FineTuneModule(backbone="resnet9_small", num_classes=10, in_channels=1, image_size=8, **LORA)
    metrics = L.Trainer(**QUIET).validate(fresh, data, path, verbose=False, weights_only=True)
    assert metrics == expected


def test_error_for_other_weights(run: tuple[FineTuneModule, Path], pretrained: str, tmp_path: Path) -> None:
    _, path = run
    other = tmp_path / "other.ckpt"
    L.seed_everything(1, verbose=False)
    fit(SupervisedModule(backbone="resnet9_small"), DigitsDataModule(batch_size=32), tmp_path / "run")
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.ckpt", other)
    module = FineTuneModule(weights=str(other), num_classes=10, in_channels=1, image_size=8, **LORA)
    with pytest.raises(ValueError, match=r"updates of other weights than weights='.*other\.ckpt'"):
        L.Trainer(**QUIET).validate(module, DigitsDataModule(), path, verbose=False, weights_only=True)


def test_error_names_lost_weights(run: tuple[FineTuneModule, Path], tmp_path: Path) -> None:
    _, path = run
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["weights"] = str(tmp_path / "moved.ckpt")
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"moved\.ckpt.*there is no such file"):
        load_module(tmp_path / "a.ckpt")
    fresh = FineTuneModule(backbone="resnet9_small", num_classes=10, in_channels=1, image_size=8, **LORA)
    with pytest.raises(ValueError, match=r"moved\.ckpt', which cannot be read.*If they have moved, set `w"):
        L.Trainer(**QUIET).validate(fresh, DigitsDataModule(), tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize("weights", ["//host/share/a.ckpt", "\\\\host\\share", "http://host/a.ckpt", 3, None])
def test_error_for_remote_weights(run: tuple[FineTuneModule, Path], tmp_path: Path, weights: object) -> None:
    content = torch.load(run[1], weights_only=True)
    content["hyper_parameters"]["weights"] = weights
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="is damaged: it holds an update of weights that it does not name"):
        load_module(tmp_path / "a.ckpt")


def test_export_contains_merged_weights(run: tuple[FineTuneModule, Path], tmp_path: Path) -> None:
    module, path = run
    exported = ExportedModule(module)
    assert not any("lora_" in key for key in exported.state_dict())
    with torch.no_grad():
        expected = module(IMAGES)
        torch.testing.assert_close(exported(IMAGES)["logits"], expected, atol=1e-5, rtol=1e-5)
    export_weights(module, tmp_path / "a.safetensors")
    options: dict[str, Any] = {"backbone": "resnet9_small", "num_classes": 10, "in_channels": 1}
    plain = SupervisedModule(weights=str(tmp_path / "a.safetensors"), **options)
    plain.configure_model()
    with torch.no_grad():
        torch.testing.assert_close(plain.eval().embed(IMAGES), module.embed(IMAGES), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="holds only low-rank updates of other weights: export it, and use the"):
        FineTuneModule(weights=str(path), num_classes=10, in_channels=1).configure_model()
