"""FineTuneModule: trained and frozen parts, and learning rates."""

import copy
import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from datamodules import DigitsDataModule
from lit_cv import EMA, Augmentation, FineTuneModule, RunCheckpoint, SupervisedModule
from lit_cv.nn import ClassificationHead, create_backbone
from lit_cv.optim import StepSchedule
from tests.marks import first_quick

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 2,
}  # fmt: skip
STRATEGIES = ["feature_extraction", "freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing"]


def digits(**kwargs: Any) -> DigitsDataModule:
    return DigitsDataModule(**{"labels_per_class": 8, "batch_size": 16} | kwargs)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, seed: int) -> str:
    """A checkpoint of a supervised run on half of the digit classes."""
    folder = tmp_path_factory.mktemp("pretrained")
    L.seed_everything(seed, verbose=False)
    module = SupervisedModule(backbone="resnet9_small", lr=3e-3)
    options = QUIET | {"enable_checkpointing": True, "callbacks": [RunCheckpoint()], "default_root_dir": folder}
    L.Trainer(max_epochs=3, **options).fit(module, DigitsDataModule(classes=[0, 1, 2, 3, 4], batch_size=32))
    return str(folder / "checkpoints" / "last.ckpt")


def fit(module: FineTuneModule, data: Any = None, **kwargs: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET | {"max_epochs": 2} | kwargs)
    trainer.fit(module, data or digits())
    return trainer


def built(**kwargs: Any) -> FineTuneModule:
    torch.manual_seed(0)
    module = FineTuneModule(**{"backbone": "resnet9_small", "num_classes": 10, "in_channels": 1} | kwargs)
    module.configure_model()
    return module


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def frozen_keys(module: FineTuneModule) -> set[str]:
    """Keys of the state dict that belong to frozen stages."""
    still = {
        id(m)
        for stage in module.fine_tuning.stages[: module.fine_tuning.frozen]
        for part in stage.modules
        for m in part.modules()
    }
    return {
        f"backbone.body.{name}.{key}"
        for name, m in module.backbone.body.named_modules()
        if id(m) in still
        for key in m.state_dict()
    }


class Modes(L.Callback):
    """Records at each training and validation step whether all frozen modules are in eval mode."""

    def __init__(self) -> None:
        self.still: list[bool] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        frozen = [
            m
            for stage in module.fine_tuning.stages[: module.fine_tuning.frozen]
            for part in stage.modules
            for m in part.modules()
        ]
        free = [
            m
            for stage in module.fine_tuning.stages[module.fine_tuning.frozen :]
            for part in stage.modules
            for m in part.modules()
        ]
        self.still.append(not any(m.training for m in frozen) and all(m.training for m in [*free, module.head]))


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize(
    ("options", "frozen"),
    first_quick(
        [
            ({"strategy": "feature_extraction"}, 6),
            ({"strategy": "freeze_backbone"}, 4),
            ({"strategy": "freeze_backbone", "frozen_stages": "stages.1"}, 3),
            ({"strategy": "discriminative_lr", "frozen_stages": 1}, 1),
            ({"strategy": "gradual_unfreezing", "unfreeze_epochs": [1, 1]}, 4),
        ],
        2,
    ),
)
def test_frozen_parameters_do_not_change(pretrained: str, options: dict[str, Any], frozen: int, ema: bool) -> None:
    modes = Modes()
    module = FineTuneModule(weights=pretrained, lr=1e-2, num_classes=10, in_channels=1, **options)
    module.configure_model()
    source = torch.load(pretrained, weights_only=True)["state_dict"]
    before = state(module)
    trainer = fit(module, callbacks=[modes, *([EMA(0.9)] if ema else [])])
    after = state(module)
    keys = frozen_keys(module)
    assert module.fine_tuning.frozen == frozen
    assert len(keys) == sum("backbone.body" in key for key in after) if frozen == 6 else keys
    for key in keys:
        assert torch.equal(after[key], before[key]), key
        assert torch.equal(after[key], source[key]), key
    moved = [key for key in after if key not in keys and key.startswith(("backbone.body", "head"))]
    assert moved
    for key in moved:
        assert not torch.equal(after[key], before[key]), key
    assert all(modes.still)
    in_optimizer = {p for group in trainer.optimizers[0].param_groups for p in group["params"]}
    held = set(trainer.optimizers[0].state)
    for position, stage in enumerate(module.fine_tuning.stages):
        for parameter in stage.parameters:
            assert parameter.requires_grad == (position >= frozen)
            assert (parameter in in_optimizer) == (parameter in held) == (position >= frozen)
            assert parameter.grad is None or position >= frozen


def test_frozen_modules_stay_in_eval_mode() -> None:
    module = built(strategy="feature_extraction", dropout=0.5)
    for mode in (True, False, True):
        module.train(mode)
        assert not any(m.training for m in module.backbone.modules())
        assert all(m.training == mode for m in module.head.modules())
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(module.backbone(images), module.eval().backbone(images))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_learning_rates(strategy: str) -> None:
    module = built(strategy=strategy)
    rates = {group["layer"]: group["lr"] for group in module.parameter_groups()}
    assert rates.pop("head") == 1e-3
    names = [stage.name for stage in module.fine_tuning.stages]
    expected: dict[str, float] = {
        "feature_extraction": {},
        "freeze_backbone": dict.fromkeys(names[4:], 1e-3),
        "discriminative_lr": {name: 1e-3 * 0.75 ** (6 - i) for i, name in enumerate(names)},
        "full_finetune": dict.fromkeys(names, 1e-3),
        "gradual_unfreezing": {},
    }[strategy]
    assert rates == pytest.approx(expected)


def test_learning_rates_without_batch_norm_are_lower() -> None:
    for strategy, expected in {"full_finetune": 1e-4, "freeze_backbone": 1e-4, "discriminative_lr": 0.75e-5}.items():
        module = built(strategy=strategy, backbone="vit_micro_p4", image_size=8)
        rates = [group["lr"] for group in module.parameter_groups() if group["layer"] != "head"]
        assert max(rates) == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.65, 0.75])
def test_layer_decay_matches_timm(decay: float) -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    module = FineTuneModule(
        strategy="discriminative_lr", backbone="timm/vit_tiny_patch16_224", image_size=32, num_classes=10, lr=1e-3,
        backbone_lr=1e-3, layer_decay=decay, weight_decay=0.05,
    )  # fmt: skip
    module.configure_model()
    ours = {p: (g["lr"], g["weight_decay"]) for g in module.parameter_groups() for p in g["params"]}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32)
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=decay)
    theirs = {p: (1e-3 * g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    body = dict(module.backbone.body.named_parameters())
    body |= {f"head.{name}": p for name, p in module.head.linear.named_parameters()}
    assert body.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert ours[body[name]] == pytest.approx(theirs[parameter]), name
    assert ours[body["pos_embed"]] == pytest.approx((1e-3 * decay**13, 0.0))  # 12 blocks, with the embedding as layer 0
    assert ours[body["blocks.0.attn.qkv.weight"]] == pytest.approx((1e-3 * decay**12, 0.05))


class Groups(L.Callback):
    """Records names and learning rates of the optimizer's groups in each epoch."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.rates: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        groups = trainer.optimizers[0].param_groups
        if len(self.seen) == trainer.current_epoch:
            self.seen.append(list(dict.fromkeys(group["layer"] for group in groups)))
        self.rates.append({group["layer"]: group["lr"] for group in groups})


@pytest.mark.parametrize(
    ("epochs", "counts"),
    [(None, [1, 2, 3, 4, 5, 6, 7, 7]), (2, [1, 1, 2, 2, 3]), ([0, 0, 3], [3, 3, 3, 4, 4]), ([2], [1, 1, 2, 2])],
)
def test_stages_are_unfrozen_from_last_to_first(epochs: Any, counts: list[int]) -> None:
    groups = Groups()
    module = built(strategy="gradual_unfreezing", unfreeze_epochs=epochs, schedule="cosine", backbone_lr=1e-4)
    data = digits(batch_size=40)
    trainer = fit(module, data, max_epochs=len(counts), callbacks=[groups], limit_val_batches=0)
    order = ["head", *(stage.name for stage in reversed(module.fine_tuning.stages))]
    assert groups.seen == [order[:count] for count in counts]
    for rates in groups.rates:  # all groups follow the same schedule
        assert all(rate == pytest.approx(rates["head"] / 10) for name, rate in rates.items() if name != "head")
    assert isinstance(trainer.lr_scheduler_configs[0].scheduler, StepSchedule)
    assert len(trainer.lr_scheduler_configs[0].scheduler.base_lrs) == len(trainer.optimizers[0].param_groups)


@pytest.mark.slow
def test_cached_features_give_the_same_result(pretrained: str) -> None:
    results = []
    for cache in (False, True):
        L.seed_everything(1, verbose=False)
        module = FineTuneModule(
            strategy="feature_extraction", weights=pretrained, cache_features=cache, lr=1e-2, dropout=0.2,
            num_classes=10, in_channels=1,
        )  # fmt: skip
        calls = []
        module.configure_model()
        module.backbone.register_forward_hook(lambda *args, calls=calls: calls.append(len(args[2])))
        data = digits(labels_per_class=20)
        trainer = fit(module, data, max_epochs=4)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        results.append((metrics, state(module), sum(calls), data))
        assert module._features == {}
    (slow, slow_state, _, _), (fast, fast_state, images, data) = results
    assert images == len(data.train_dataset) + len(data.val_dataset or [])  # each image once
    for name, value in slow.items():
        assert fast[name] == pytest.approx(value, abs=1e-4), name
    for name, value in slow_state.items():
        torch.testing.assert_close(fast_state[name], value, atol=1e-4, rtol=1e-4)


def test_evaluation_with_cached_features_reads_images(pretrained: str) -> None:
    module = FineTuneModule(strategy="feature_extraction", weights=pretrained, cache_features=True)
    data = digits()
    trainer = fit(module, data)
    value = float(trainer.callback_metrics["val_acc"])
    assert trainer.validate(module, data, verbose=False)[0]["val_acc"] == pytest.approx(value)
    assert "test_acc" in trainer.test(module, data, verbose=False)[0]


def test_error_for_caching_with_augmentation(pretrained: str) -> None:
    options: dict[str, Any] = {"strategy": "feature_extraction", "weights": pretrained, "cache_features": True}
    with pytest.raises(ValueError, match="Augmentation changes the images at every step: leave it out"):
        fit(FineTuneModule(**options), callbacks=[Augmentation()])

    class Foreign(L.LightningDataModule):
        num_classes, in_channels, image_size = 2, 1, (8, 8)

        def train_dataloader(self) -> Any:
            return [{"image": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "label": torch.tensor([0, 1])}]

    with pytest.raises(ValueError, match=r"subclass of datamodules\.BaseDataModule, not Foreign"):
        fit(FineTuneModule(**options), Foreign())


@pytest.mark.parametrize(("strategy", "option"), [("feature_extraction", None), ("full_finetune", True)])
def test_normalize_features(strategy: str, option: bool | None) -> None:
    module = built(strategy=strategy, normalize_features=option).train()
    features = torch.randn(64, 128) * torch.logspace(-3, 3, 128) + 5
    seen: list[Tensor] = []
    module.head.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.head(features)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(128), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[0].var(0, unbiased=False)[64:], torch.ones(64), atol=1e-3, rtol=0)
    assert not list(module.head.norm.parameters())
    assert isinstance(built(strategy="full_finetune").head, ClassificationHead)
    assert isinstance(built(strategy="feature_extraction", normalize_features=False).head, ClassificationHead)


def test_l2_sp_replaces_weight_decay(pretrained: str) -> None:
    module = FineTuneModule(weights=pretrained, l2_sp=0.3, weight_decay=0.1, num_classes=10, in_channels=1)
    decays = {g["name"]: g["weight_decay"] for g in built(l2_sp=0.3, weight_decay=0.1).parameter_groups()}
    assert decays.pop("head.decay") == 0.1
    assert set(decays.values()) == {0.0}
    trainer = fit(module, max_epochs=1, callbacks=[])
    source = torch.load(pretrained, weights_only=True)["state_dict"]
    batch = {"image": torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "label": torch.zeros(4, dtype=torch.int64)}
    with torch.no_grad():
        train, val = (module.eval()._run_step(batch, stage) for stage in ("train", "val"))
    distance = sum(
        float((p.detach().double() - source[f"backbone.body.{name}"].double()).square().sum())
        for name, p in module.backbone.body.named_parameters()
    )
    assert distance > 0
    assert float(train["l2_sp"]) == pytest.approx(0.15 * distance, rel=1e-4)
    assert float(train["loss"] - val["loss"]) == pytest.approx(0.15 * distance, abs=1e-5)
    assert "l2_sp" not in val
    assert "train_l2_sp" in trainer.callback_metrics


@pytest.mark.learns
@pytest.mark.slow
def test_l2_sp_keeps_weights_near_pretrained(pretrained: str, seed: int) -> None:
    source = torch.load(pretrained, weights_only=True)["state_dict"]
    distances = []
    for pull in (0.0, 10.0):
        L.seed_everything(seed, verbose=False)
        module = FineTuneModule(weights=pretrained, l2_sp=pull, backbone_lr=1e-3, weight_decay=0.0)
        fit(module, max_epochs=4)
        parameters = module.backbone.body.named_parameters()
        distances.append(sum(float((p.detach() - source[f"backbone.body.{n}"]).square().sum()) for n, p in parameters))
    assert distances[1] < 0.3 * distances[0]


@pytest.mark.slow
def test_backbone_and_stem_come_from_checkpoint(tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    first = SupervisedModule(backbone="mobilenet_v3_small")
    options = QUIET | {"enable_checkpointing": True, "callbacks": [RunCheckpoint()], "default_root_dir": tmp_path}
    data = digits(image_size=16, labels_per_class=2)
    L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, **options).fit(first, data)
    module = FineTuneModule(weights=str(tmp_path / "checkpoints" / "last.ckpt"), strategy="feature_extraction")
    fit(module, data, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    assert (module.hparams["backbone"], module.hparams["stem"]) == ("mobilenet_v3_small", "small")
    convolutions = [m.backbone.body.features[0][0] for m in (module, first)]
    assert convolutions[0].stride == (1, 1)
    assert torch.equal(convolutions[0].weight, convolutions[1].weight)


def test_no_stochastic_depth_in_frozen_stages() -> None:
    module = built(
        backbone="convnext_tiny", in_channels=3, strategy="freeze_backbone", frozen_stages="features.5",
        drop_path=0.5,
    )  # fmt: skip
    module.train()
    training = {
        stage.name: any(m.training for part in stage.modules for m in part.modules())
        for stage in module.fine_tuning.stages
    }
    assert [name for name, on in training.items() if on] == ["features.7"]
    assert module.backbone.body.features[7][2].stochastic_depth.p == 0.5


def test_fixed_parameters_stay_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(*args: Any, **kwargs: Any) -> Any:
        backbone = create_backbone(*args, **kwargs)
        backbone.body.blocks[2][1].weight.requires_grad_(False)
        return backbone

    monkeypatch.setattr("lit_cv.modules.base.create_backbone", fixed)
    module = built(backbone="conv4", strategy="gradual_unfreezing")
    for count in (4, 0, 2):
        module.fine_tuning.freeze(module, count)
        assert not module.backbone.body.blocks[2][1].weight.requires_grad
        assert module.backbone.body.blocks[2][1].bias.requires_grad == (count < 3)


def test_group_table_is_printed_once(pretrained: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = FineTuneModule(weights=pretrained, strategy="gradual_unfreezing", unfreeze_epochs=[1])
    fit(module, max_epochs=1, enable_model_summary=True)
    out = capsys.readouterr().out
    assert out.count("gradual_unfreezing of resnet9_small") == 1
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines() if line.startswith("│")]
    table = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert table["head"] == ["1,290", "yes", "0.001"]
    assert table["stages.4"] == ["295,424", "from epoch 2", "0.001"]
    assert table["stem"] == ["176", "no", "0"]
    fit(FineTuneModule(weights=pretrained), max_epochs=1)
    assert "full_finetune of" not in capsys.readouterr().out


def test_warning_without_weights(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_cv"):
        fit(FineTuneModule(backbone="conv4"), max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert "Pretrained weights are not set (`weights`): training the backbone from random weights." in caplog.text


@pytest.mark.parametrize("strategy", ["feature_extraction", "lora"])
def test_warning_about_random_frozen_backbone(caplog: pytest.LogCaptureFixture, strategy: Any) -> None:
    with caplog.at_level(logging.WARNING, "lit_cv"):
        fit(FineTuneModule(backbone="conv4", strategy=strategy), max_epochs=1, limit_train_batches=1)
    assert "(`weights`): the frozen backbone keeps random weights." in caplog.text


def test_table_calls_only_solved_heads_solved(pretrained: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit(FineTuneModule(weights=pretrained, lr=0.0), max_epochs=1, limit_train_batches=1, enable_model_summary=True)
    assert "solved" not in capsys.readouterr().out


def test_error_for_resume_with_another_strategy(pretrained: str, tmp_path: Path) -> None:
    options = {"enable_checkpointing": True, "callbacks": [RunCheckpoint()], "default_root_dir": tmp_path}
    fit(FineTuneModule(weights=pretrained, strategy="freeze_backbone"), max_epochs=1, **options)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    for other, words in (
        ({"strategy": "full_finetune"}, "strategy='freeze_backbone' and 4 frozen stages, this run has strategy='full_"),
        ({"strategy": "freeze_backbone", "frozen_stages": 2}, "4 frozen stages, this run has .* and 2"),
    ):
        module = FineTuneModule(weights=pretrained, **other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=words):
            L.Trainer(**QUIET, max_epochs=2).fit(module, digits(), ckpt_path=path)
    loaded = FineTuneModule.load_from_checkpoint(path, weights_only=True)
    assert loaded.fine_tuning.frozen == 4
    assert loaded.hparams["weights"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "freeze"}, "strategy='freeze': must be one of feature_extraction"),
        (
            {"strategy": "freeze_backbone", "frozen_stages": "stages.9"},
            "frozen_stages='stages.9': there is no stage 'stages.9': did you mean 'stages",
        ),
        ({"strategy": "freeze_backbone", "frozen_stages": 7}, r"frozen_stages=7: resnet9_small has 6 stages \(stem"),
        ({"frozen_stages": 2}, "frozen_stages=2: it needs strategy freeze_backbone or discriminative_lr, not full"),
        ({"cache_features": True}, "cache_features=True: it needs strategy feature_extraction, not full_finetune"),
        ({"unfreeze_epochs": 2}, "unfreeze_epochs=2: it needs strategy gradual_unfreezing"),
        ({"strategy": "gradual_unfreezing", "unfreeze_epochs": [3, 1]}, r"unfreeze_epochs=\[3, 1\]: must be a number"),
        ({"strategy": "gradual_unfreezing", "unfreeze_epochs": 0}, "unfreeze_epochs=0: must be a number"),
        (
            {"strategy": "gradual_unfreezing", "unfreeze_epochs": [1] * 7},
            "1]: it has 7 entries, resnet9_small has 6 stages",
        ),
        ({"strategy": "feature_extraction", "backbone_lr": 1e-4}, "backbone_lr=0.0001: it has no effect"),
        ({"strategy": "feature_extraction", "spatial_dropout": 0.1}, "spatial_dropout=0.1: it has no effect"),
        ({"layer_decay": 1.5}, "layer_decay=1.5: must be from 0 to 1"),
        ({"l2_sp": -1.0}, "l2_sp=-1.0: must be at least 0"),
        ({"drop_path": 0.1}, "ResNet9 does not support stochastic depth"),
        ({"backbone": None, "weights": "DEFAULT"}, "do not contain the name of their network"),
        ({"backbone": None, "weights": "absent.ckpt"}, "there is no such file"),
    ],
)
def test_error_names_option(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        built(**options)


def test_error_for_weights_of_another_network(pretrained: str) -> None:
    with pytest.raises(ValueError, match="resnet9 needs"):
        built(backbone="resnet9", weights=pretrained)


@pytest.mark.slow
@pytest.mark.learns
def test_fine_tuning_beats_training_from_scratch(pretrained: str, seed: int) -> None:
    accuracy = {}
    for weights in (None, pretrained):
        L.seed_everything(seed, verbose=False)
        module = FineTuneModule(backbone="resnet9_small", weights=weights, backbone_lr=1e-3)
        data = DigitsDataModule(classes=[5, 6, 7, 8, 9], labels_per_class=2, batch_size=10)
        fit(module, data, max_epochs=12, limit_val_batches=0)
        trainer = L.Trainer(**QUIET)
        accuracy[weights] = trainer.test(copy.deepcopy(module), data, verbose=False)[0]["test_acc"]
    assert accuracy[pretrained] > accuracy[None] + 0.03
