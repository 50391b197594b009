"""Properties of all adaptation methods, and of each single one."""

import copy
import math
import pickle
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import DigitsDataModule, DomainAdaptationDataModule, InMemoryDataset
from lit_cv import (
    ClassConfusionModule,
    DomainAdversarialModule,
    MMDModule,
    SelfTrainingModule,
    SupervisedModule,
    WeakStrongAugmentation,
)
from lit_cv.losses import coral, mmd

MODULES: dict[str, Any] = {
    "dann": lambda **o: DomainAdversarialModule(**o),
    "cdan": lambda **o: DomainAdversarialModule(conditioning="entropy", **o),
    "mmd": lambda **o: MMDModule(**o),
    "joint_mmd": lambda **o: MMDModule(**{"distance": "joint_mmd", "layers": ["blocks.1", "features"]} | o),
    "coral": lambda **o: MMDModule(distance="coral", **o),
    "class_confusion": lambda **o: ClassConfusionModule(**o),
    "self_training": lambda **o: SelfTrainingModule(**{"threshold": 0.1} | o),
}


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    module = MODULES[name](**{"backbone": "conv4", "num_classes": 3, "in_channels": 1, "ramp": None} | options)
    module.configure_model()
    return module


def batch(n: int = 6, m: int | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(256, (k, 1, 16, 16), generator=generator, dtype=torch.uint8) for k in (n, m or n)]
    return {
        "source": {"image": images[0], "label": torch.arange(n) % 3, "index": torch.arange(n)},
        "target": {"image": images[1], "index": torch.arange(m or n)},
    }


class DarkDigits(DigitsDataModule):
    """The same digits, paler and on a brighter background."""

    def load(self, split: str) -> Any:
        dataset = super().load(split)
        if dataset is None:
            return None
        images = dataset.read(dataset.rows)["image"].float() * 0.4 + 90
        return InMemoryDataset(images.byte(), dataset.labels, dataset.class_names)


class WrongDarkDigits(DarkDigits):
    """The same images with wrong labels."""

    def load(self, split: str) -> Any:
        dataset = super().load(split)
        if dataset is not None:
            dataset.labels = (dataset.labels + 1) % 10
        return dataset


def digits(**kwargs: Any) -> DomainAdaptationDataModule:
    return DomainAdaptationDataModule(DigitsDataModule(), DarkDigits(val_fraction=0.3, **kwargs), batch_size=32)


def fit(
    module: Any, data: Any, folder: Any, epochs: int = 1, callbacks: Any = (), seed: int = 0, **kwargs: Any
) -> L.Trainer:
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0,
        callbacks=list(callbacks), **{"enable_checkpointing": False} | options | kwargs,
    )  # fmt: skip
    L.seed_everything(seed, verbose=False)
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("name", MODULES)
def test_adaptation_loss_is_added_and_reaches_the_backbone(name: str) -> None:
    module, plain = build(name, adaptation_weight=0.5), build(name, source_only=True)
    module.train(), plain.train()
    output = module.step(batch(), "train")
    assert float(output["adaptation_loss"]) != 0
    assert float(output["lambda"]) == 0.5
    factor = 1.0 if module.weighs_gradient else 0.5
    torch.testing.assert_close(output["loss"], output["source_loss"] + factor * output["adaptation_loss"])
    output["loss"].backward()
    source = F.cross_entropy(module(batch()["source"]["image"]), batch()["source"]["label"])
    gradient = module.backbone.body.blocks[0][0].weight.grad
    assert not torch.allclose(gradient, torch.autograd.grad(source, module.backbone.body.blocks[0][0].weight)[0])
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learning == {name for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["dann", "mmd", "self_training"])
def test_source_only_ignores_the_target(name: str) -> None:
    one, two = build(name, source_only=True).train(), build(name, source_only=True).train()
    other = batch()
    other["target"]["image"] = torch.zeros_like(other["target"]["image"])
    outputs = [one.step(batch(), "train"), two.step(other, "train")]
    assert set(outputs[0]) == {"loss", "source_loss", "acc", "counts"}
    assert torch.equal(outputs[0]["loss"], outputs[1]["loss"])
    for key, value in one.state_dict().items():  # including BatchNorm statistics
        assert torch.equal(value, two.state_dict()[key]), key
    assert not any(key.startswith(("discriminator", "teacher")) for key in one.state_dict())


def test_source_only_has_the_same_initial_weights() -> None:
    one, two = build("dann", source_only=True).state_dict(), build("dann").state_dict()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize("name", ["dann", "mmd"])
def test_batchnorm_uses_statistics_of_both_domains(name: str) -> None:
    module = build(name).train()
    norm = module.backbone.body.blocks[0][1]
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.step(batch(), "train")
    assert [len(x) for x in seen] == [12]
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[0].mean((0, 2, 3)))


def test_lambda_schedule() -> None:
    module = build("dann", ramp=10.0, adaptation_weight=2.0)
    module._total_steps, module._trainer = 100.0, None
    for step in (0, 25, 100):
        module.__class__ = type("At", (type(module),), {"global_step": step})
        assert module.adaptation_lambda() == pytest.approx(2 * (2 / (1 + math.exp(-10 * step / 100)) - 1))
    module._total_steps = math.inf
    with pytest.raises(ValueError, match=r"`ramp=None`"):
        module.adaptation_lambda()


@pytest.mark.parametrize("conditioning", ["none", "entropy"])
def test_features_learn_to_deceive_the_discriminator(conditioning: str) -> None:
    module = build("dann", conditioning=conditioning, adaptation_weight=0.3).eval()
    images = torch.cat([batch()[domain]["image"] for domain in ("source", "target")])
    module.step(batch(), "train")["loss"].backward()
    features = module.backbone(images)
    logits = module.head(features)
    p = logits.softmax(1).detach()
    weight = torch.ones(12)
    if conditioning == "entropy":
        weight = 1 + torch.exp((p * p.log()).sum(1))
        weight = torch.cat([weight[:6] / weight[:6].mean(), weight[6:] / weight[6:].mean()])
    domain = torch.cat([torch.zeros(6), torch.ones(6)])
    adversary = (weight * F.binary_cross_entropy_with_logits(
        module.discriminator(features, p), domain, reduction="none"
    )).mean()  # fmt: skip
    supervised = F.cross_entropy(logits[:6], batch()["source"]["label"])
    for part, sign in ((module.discriminator.layers[0].weight, 1.0), (module.backbone.body.blocks[1][0].weight, -0.3)):
        expected = sign * torch.autograd.grad(adversary, part, retain_graph=True)[0]
        if sign < 0:
            expected = expected + torch.autograd.grad(supervised, part, retain_graph=True)[0]
        torch.testing.assert_close(part.grad, expected, rtol=1e-4, atol=1e-6)


def test_discriminator_lr() -> None:
    module = build("dann", discriminator_lr=10.0)
    groups = {group["name"]: group for group in module.parameter_groups()}
    assert groups["discriminator.decay"]["lr"] == pytest.approx(10 * groups["decay"]["lr"])
    held = [p for group in groups.values() for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(module.parameters()))


def test_distances_of_selected_layers() -> None:
    layers = ["blocks.1", "features", "logits", "probabilities"]
    module = build("mmd", layers=layers).eval()
    images = [batch()[domain]["image"] for domain in ("source", "target")]
    outputs = []
    for part in images:
        inner = module.backbone.body.blocks[:2](module.backbone.normalize(part)).mean((2, 3))
        features = module.backbone(part)
        outputs.append([inner, features, module.head(features), module.head(features).softmax(1)])
    sum_of = sum(mmd(x, y) for x, y in zip(*outputs, strict=True))
    torch.testing.assert_close(module.step(batch(), "train")["adaptation_loss"], sum_of, rtol=1e-4, atol=1e-6)
    module.hparams["distance"] = "joint_mmd"
    torch.testing.assert_close(module.step(batch(), "train")["adaptation_loss"], mmd(*outputs), rtol=1e-4, atol=1e-6)
    module.hparams["distance"] = "coral"
    expected = sum(coral(x, y) for x, y in zip(*outputs, strict=True))
    torch.testing.assert_close(module.step(batch(), "train")["adaptation_loss"], expected, rtol=1e-4, atol=1e-6)


def test_pseudo_labels_come_from_the_weak_view() -> None:
    module = build("self_training", threshold=0.34, class_balance=False).eval()
    for parameter in module.teacher.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    both = batch()
    both["target"]["strong"] = 255 - both["target"]["image"]
    probabilities = module.teacher.module.head(module.teacher.module.backbone(both["target"]["image"])).softmax(1)
    confidence, labels = probabilities.max(1)
    module.hparams["threshold"] = float(confidence.sort().values[2])  # four of six reach the threshold
    kept = confidence >= confidence.sort().values[2]
    losses = F.cross_entropy(module(both["target"]["strong"]), labels, reduction="none")
    output = module.step(both, "train")
    assert float(output["pseudo_coverage"]) == pytest.approx(4 / 6)
    torch.testing.assert_close(output["adaptation_loss"], (losses * kept).sum() / 6)
    output["loss"].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.teacher.parameters())


def test_class_frequency_changes_the_thresholds() -> None:
    module = build("self_training", threshold=0.9, teacher_decay=0.8)
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]])
    module.teach = lambda images: probabilities
    module.step(batch(2), "train")
    share = 0.8 / 3 + 0.2 * torch.tensor([0.7, 0.2, 0.1])
    torch.testing.assert_close(module.class_share, share)
    threshold = 0.9 * share / share.max()
    labels, mask = module.choose(torch.tensor([[0.89, 0.11, 0.0], [0.0, threshold[1] + 1e-4, 0.0]]))
    assert (labels.tolist(), mask.tolist()) == ([0, 1], [False, True])


def test_teacher_is_a_moving_average() -> None:
    module = build("self_training", teacher_decay=0.9).train()
    before = copy.deepcopy(module.teacher.state_dict())
    with torch.no_grad():
        for value in (*module.backbone.parameters(), *module.head.parameters()):
            value.add_(1)
    module.after_step()
    weights = {key for key, _ in module.teacher.module.named_parameters()}
    for key, value in module.teacher.state_dict().items():
        torch.testing.assert_close(value, before[key] + (0.1 if key in weights else 0), msg=key)


def test_target_predictions_use_target_statistics() -> None:
    """Teacher and predictions use BatchNorm statistics of weak target views, training those of the mixture."""
    module = build("self_training").train()
    norms = [part.body.blocks[0][1] for part in (module.backbone, module.teacher.module.backbone)]
    seen: list[list[Tensor]] = [[], []]
    for norm, inputs in zip(norms, seen, strict=True):
        norm.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].detach()))
    assert {name for name, part in module.teacher.named_modules() if part.training} == {
        name for name, part in module.teacher.named_modules() if isinstance(part, torch.nn.BatchNorm2d)
    }
    both = batch(6, 4)
    both["target"]["strong"] = 255 - both["target"]["image"]
    module.step(both, "train")
    assert [[len(x) for x in inputs] for inputs in seen] == [[10, 4], [4]]
    for norm, weak in zip(norms, (seen[0][1], seen[1][0]), strict=True):
        torch.testing.assert_close(weak, seen[1][0])
        assert int(norm.num_batches_tracked) == 1
        torch.testing.assert_close(norm.running_mean, 0.1 * weak.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * weak.var((0, 2, 3)))
    held = copy.deepcopy(module.state_dict())
    module.eval()
    probabilities = module.teacher.module.head(module.teacher.module.backbone(both["target"]["image"][:1])).softmax(1)
    torch.testing.assert_close(
        module.teach(both["target"]["image"])[:1], probabilities
    )  # independent of the other images
    module.step({**both["target"], "label": torch.zeros(4).long()}, "val")
    assert all(torch.equal(value, held[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", MODULES)
def test_modules_can_be_pickled(name: str) -> None:
    module = build(name).eval()
    twin = pickle.loads(pickle.dumps(module))
    images = batch()["target"]["image"]
    assert torch.equal(twin(images), module(images))
    torch.testing.assert_close(twin.step(batch(), "train")["loss"], module.step(batch(), "train")["loss"])


@pytest.mark.parametrize("name", ["cdan", "self_training"])
def test_logged_metrics_match_direct_computation(name: str, tmp_path: Any) -> None:
    data, module = digits(), MODULES[name](backbone="conv4", per_class_metrics=True)
    trainer = fit(module, data, tmp_path, limit_train_batches=6)
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    module.eval()
    logits = {}
    with torch.no_grad():
        for domain, dataset in (("source", data.source_val_dataset), ("target", data.val_dataset)):
            images = dataset.__getitems__(range(len(dataset)))
            logits[domain] = module(images["image"])
            accuracy = (logits[domain].argmax(1) == images["label"]).float().mean()
            assert logged[f"val_{domain}_acc"] == pytest.approx(float(accuracy), abs=1e-6)
            loss = F.cross_entropy(logits[domain], images["label"])
            assert logged["val_loss" if domain == "source" else "val_target_loss"] == pytest.approx(
                float(loss), rel=1e-4
            )
    p = logits["target"].double().softmax(1)
    entropy = float(-(p * p.log()).sum(1).mean()) / math.log(10)
    diversity = float(-(p.mean(0) * p.mean(0).log()).sum()) / math.log(10)
    images = data.val_dataset.__getitems__(range(len(data.val_dataset)))
    accuracy = (logits["target"].argmax(1) == images["label"])[images["label"] == 3].float().mean()
    assert logged["val_target_acc_3"] == pytest.approx(float(accuracy))
    assert logged["val_target_entropy"] == pytest.approx(entropy, abs=1e-5)
    assert logged["val_target_diversity"] == pytest.approx(diversity, abs=1e-5)
    shares = torch.bincount(data.train_dataset.labels, minlength=10).double() / len(data.train_dataset)
    balance = 1 - float((p.mean(0) * (p.mean(0) / shares).log()).sum()) / math.log(10)
    assert logged["val_target_balance"] == pytest.approx(balance, abs=1e-5)
    assert logged["val_score"] == pytest.approx((logged["val_source_acc"] + 5 * balance - entropy) / 6, abs=1e-5)
    assert 0 < logged["train_lambda"] < 1
    assert logged["train_adaptation_loss"] != 0
    assert logged["train_loss"] > logged["train_source_loss"] > 0
    if name == "self_training":
        dataset = data.val_dataset.__getitems__(range(len(data.val_dataset)))
        labels, mask = module.choose(module.teach(dataset["image"]))
        assert logged["val_pseudo_coverage"] == pytest.approx(float(mask.float().mean()))
        assert logged["val_pseudo_precision"] == pytest.approx(float((labels == dataset["label"])[mask].float().mean()))
    else:
        assert 0 <= logged["val_discriminator_acc"] <= 1
    tested = trainer.test(module, data, verbose=False)
    assert {"test_source_acc", "test_target_acc", "test_score"} <= set(tested[0] | tested[1])


def test_validation_table_has_one_column(capsys: Any) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    for evaluate, stage in ((trainer.test, "test"), (trainer.validate, "val")):
        evaluate(build("mmd", num_classes=10), datamodule=digits())
        table = capsys.readouterr().out
        assert f"{stage}_source_acc" in table
        assert f"{stage}_target_acc" in table
        assert "DataLoader 1" not in table


@pytest.mark.slow
@pytest.mark.learns
def test_adaptation_beats_source_only(tmp_path: Any, seed: int) -> None:
    """Pale digits: 10 to 30 % accuracy without adaptation. Self-training continues a short run of MMD."""
    accuracy = {}
    for name, epochs, batches, options in (
        ("source", 2, 1.0, {"source_only": True}),
        ("dann", 5, 1.0, {"adaptation_weight": 0.1}),
        ("mmd", 1, 24, {}),
        ("coral", 2, 1.0, {"adaptation_weight": 10.0}),
        ("self_training", 2, 1.0, {"weights": str(tmp_path / "mmd.ckpt"), "threshold": 0.8, "ramp": None}),
    ):
        module = MODULES["dann" if name == "source" else name](backbone="conv4", lr=3e-3, **options)
        trainer = fit(module, digits(), tmp_path, epochs=epochs, seed=seed, limit_train_batches=batches)
        accuracy[name] = float(trainer.callback_metrics["val_target_acc"])
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
    assert accuracy["dann"] > accuracy["source"] + 0.15, accuracy
    assert min(accuracy["mmd"], accuracy["coral"]) > max(0.35, accuracy["source"] + 0.15), accuracy
    assert accuracy["self_training"] > accuracy["mmd"] + 0.05, accuracy


def test_target_labels_change_nothing(tmp_path: Any) -> None:
    states = []
    for target in (DarkDigits, WrongDarkDigits):
        data = DomainAdaptationDataModule(DigitsDataModule(), target(val_fraction=0.0), batch_size=32)
        module = SelfTrainingModule(backbone="conv4", threshold=0.1)
        fit(module, data, tmp_path, limit_train_batches=3, callbacks=[WeakStrongAugmentation("symbols", "symbols")])
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_weights_load_backbone_and_classifier(tmp_path: Any) -> None:
    trained = SupervisedModule(backbone="conv4")
    fit(trained, DigitsDataModule(), tmp_path, limit_train_batches=2).save_checkpoint(tmp_path / "one.ckpt")
    torch.manual_seed(9)
    module = SelfTrainingModule(backbone="conv4", num_classes=10, in_channels=1, weights=str(tmp_path / "one.ckpt"))
    module.configure_model()
    for part in (module, module.teacher.module):
        for name in ("backbone", "head"):
            state = getattr(part, name).state_dict()
            assert all(torch.equal(value, getattr(trained, name).state_dict()[key]) for key, value in state.items())
    fewer = SelfTrainingModule(backbone="conv4", num_classes=4, in_channels=1, weights=str(tmp_path / "one.ckpt"))
    fewer.configure_model()  # logs that the classifier is random
    assert fewer.head.linear.weight.shape[0] == 4


def test_error_for_checkpoint_of_another_structure() -> None:
    module = build("dann")
    held = {"hyper_parameters": {**module.hparams, "conditioning": "multilinear"}}
    with pytest.raises(ValueError, match=r"conditioning='multilinear', this run has 'none'.*`weights`"):
        module.on_load_checkpoint(held)


def test_errors() -> None:
    module = build("dann").train()
    with pytest.raises(ValueError, match="use DomainAdaptationDataModule"):
        module.step({"image": torch.zeros(2, 1, 16, 16), "label": torch.zeros(2).long()}, "train")
    for options in ({"adaptation_weight": 0.0}, {"ramp": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DomainAdversarialModule(**options)
    with pytest.raises(ValueError, match="threshold=0"):
        SelfTrainingModule(threshold=0.0)
    with pytest.raises(ValueError, match=r"layers='block.1': there is no such layer"):
        build("mmd", layers=["block.1"])
    with pytest.raises(ValueError, match="several"):
        build("mmd", multi_label=True)
    with pytest.raises(ValueError, match="source_epochs=-1"):
        SelfTrainingModule(source_epochs=-1)
    with pytest.raises(ValueError, match="target_statistics=True: lenet has no BatchNorm"):
        build("mmd", backbone="lenet", target_statistics=True)


@pytest.mark.parametrize("name", ["dann", "mmd", "self_training"])
def test_adaptive_batchnorm_trains_on_the_source_and_tracks_the_target(name: str) -> None:
    module = build(name, source_only=True, target_statistics=True).train()
    plain = build(name, source_only=True).train()
    norm = module.backbone.body.blocks[0][1]
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss, expected = module.step(batch(5, 4), "train")["loss"], plain.step(batch(5, 4), "train")["loss"]
    torch.testing.assert_close(loss, expected)
    assert [len(x) for x in seen] == [5, 4]
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[1].mean((0, 2, 3)))
    assert norm.track_running_stats


def test_source_epochs_train_on_the_source_alone() -> None:
    module, plain = build("self_training", source_epochs=2).train(), build("self_training", source_only=True).train()
    other = batch()
    other["target"]["image"] = torch.zeros_like(other["target"]["image"])
    output, expected = module.step(other, "train"), plain.step(batch(), "train")
    assert set(output) == set(expected)
    assert torch.equal(output["loss"], expected["loss"])
    for key, value in plain.state_dict().items():  # including BatchNorm statistics
        assert torch.equal(value, module.state_dict()[key]), key
    module.__class__ = type("Later", (type(module),), {"current_epoch": 2})
    assert "adaptation_loss" in module.step(batch(), "train")
