import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import ShapesDataModule
from lit_cv import MultiTaskModule
from lit_cv.callbacks import RunCheckpoint
from lit_cv.losses import UncertaintyWeighting
from lit_cv.optim import projection_weights

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
TWO = {"kind": {"type": "classification", "key": "label"}, "light": {"type": "regression"}}
WEIGHTINGS = ("equal", "uncertainty", "dwa", "pcgrad")


class Blobs(L.LightningDataModule):
    """Images whose brightness determines a class and a number, some of them unknown."""

    num_classes, in_channels, image_size = 3, 1, (8, 8)

    def __init__(self, n: int = 64, missing: float = 0.3, scale: float = 1.0, batch_size: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.batch_size = batch_size
        label = torch.randint(0, 3, (n,), generator=generator)
        noise = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
        image = (label[:, None, None, None] * 60 + noise).to(torch.uint8)
        light = image.float().mean((1, 2, 3)) / 50 * scale
        label = torch.where(torch.rand(n, generator=generator) < missing, -1, label)
        light = torch.where(torch.rand(n, generator=generator) < missing, torch.nan, light)
        self.batch = {"image": image, "label": label, "light": light}
        rows = zip(image, label, light, strict=True)
        self.train_dataset = [{"image": i, "label": k, "light": v} for i, k, v in rows]

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=self.batch_size)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def built(tasks: dict[str, Any] = TWO, seed: int = 0, **kwargs: Any) -> MultiTaskModule:
    L.seed_everything(seed, verbose=False)
    module = MultiTaskModule(copy.deepcopy(tasks), **{"backbone": "conv4", "in_channels": 1, "lr": 1e-2} | kwargs)
    return module


def ready(**kwargs: Any) -> MultiTaskModule:
    tasks = {"kind": {**TWO["kind"], "num_classes": 3}, "light": TWO["light"]}
    module = built(tasks, **kwargs)
    module.configure_model()
    return module


def fit(module: MultiTaskModule, data: L.LightningDataModule | None = None, **kwargs: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET | {"max_epochs": 1} | kwargs)
    trainer.fit(module, data or Blobs())
    return trainer


def gradients(module: MultiTaskModule) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_total_is_weighted_sum_of_means_over_known_targets() -> None:
    module = ready(weighting="fixed", task_weights={"kind": 2.0, "light": 0.1}).eval()
    batch = Blobs().batch
    logits, values = (module(batch["image"])[name].detach() for name in ("kind", "light"))
    kind = F.cross_entropy(logits, batch["label"], ignore_index=-1)
    known = ~batch["light"].isnan()
    light = F.mse_loss(values[known, 0], batch["light"][known])
    output = module.step(batch, "test")
    torch.testing.assert_close(output["loss"], 2 * kind + 0.1 * light)
    for part in (slice(0, 40), slice(40, 64)):  # batches lack different targets
        module.step({name: value[part] for name, value in batch.items()}, "val")
    means = module.summarize("val", {f"val_{name}": value for name, value in module.means["val"].compute().items()})
    assert float(means["val_loss"]) == pytest.approx(float(2 * kind + 0.1 * light), rel=1e-5)
    assert float(means["val_kind_loss"]) == pytest.approx(float(kind), rel=1e-5)
    assert float(means["val_light_loss"]) == pytest.approx(float(light), rel=1e-5)
    right = (logits.argmax(1) == batch["label"])[batch["label"] >= 0].float().mean()
    assert float(means["val_kind_acc"]) == pytest.approx(float(right))
    assert float(means["val_light_r2"]) < 0
    score = float(means["val_kind_acc"]) / 2
    assert float(means["val_score"]) == pytest.approx(score)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_images_without_target_do_not_change_gradients(weighting: str) -> None:
    """A batch with unknown targets gives the same gradients as one without these images for those tasks."""
    module = ready(weighting=weighting).eval()  # batch statistics would differ
    batch = Blobs().batch
    gradients_of: list[dict[str, Tensor]] = []
    blind = {**batch, "light": torch.full_like(batch["light"], torch.nan)}
    absent = {name: value for name, value in batch.items() if name != "light"}
    for each in (blind, absent):
        module.zero_grad()
        module.step(each, "train")["loss"].backward()
        gradients_of.append(gradients(module))
    assert gradients_of[0].keys() == gradients_of[1].keys() == {name for name, _ in module.named_parameters()}
    for name, value in gradients_of[0].items():
        assert torch.equal(value, gradients_of[1][name]), name
        assert value.isfinite().all()
        if not name.startswith("weighting"):  # the initial gradient of a sigma is 0
            assert (value == 0).all() == name.startswith("head.light")
    alone = F.cross_entropy(module(batch["image"], task="kind"), batch["label"], ignore_index=-1)
    module.zero_grad()
    alone.backward()
    weight = float(module.weighting.weights()[0].detach())
    torch.testing.assert_close(
        gradients_of[0]["head.kind.head.linear.weight"], weight * gradients(module)["head.kind.head.linear.weight"]
    )


def test_batch_without_targets() -> None:
    module = ready()
    module.step(Blobs().batch, "train")["loss"].backward()
    module.zero_grad()
    loss = module.step({"image": Blobs().batch["image"]}, "train")["loss"]
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all((value == 0).all() for value in gradients(module).values())
    assert len(gradients(module)) == len(list(module.parameters()))


def test_forward_of_one_and_all_tasks() -> None:
    module = ready().eval()
    images = Blobs().batch["image"]
    with torch.no_grad():
        everything = module(images)
        assert {name: tuple(value.shape) for name, value in everything.items()} == {"kind": (64, 3), "light": (64, 1)}
        for name, value in everything.items():
            torch.testing.assert_close(module(images, task=name), value)
    with pytest.raises(ValueError, match="there is no task 'king': the tasks of this module are kind, light"):
        module(images, task="king")


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_learns_all_tasks(weighting: str, seed: int) -> None:
    data, module = Blobs(n=128), built(seed=seed, weighting=weighting)
    trainer = fit(module, data, max_epochs=8)
    logged = trainer.callback_metrics
    assert float(logged["val_kind_acc"]) > 0.85
    assert float(logged["val_light_r2"]) > 0.7
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert module.hparams["tasks"]["kind"]["num_classes"] == 3
    (predictions,) = [module.predict_step({**data.batch, "index": torch.arange(128)}, 0)]
    assert {name: tuple(value.shape) for name, value in predictions.items()} == {
        "kind_probabilities": (128, 3), "light_values": (128, 1), "index": (128,), "label": (128,),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.learns
def test_tasks_of_different_scale_need_weights(seed: int) -> None:
    """A target in thousandths has a millionfold loss, so the plain sum ignores the other task."""
    scores = {}
    for weighting in ("equal", "uncertainty"):
        data = Blobs(n=128, scale=1000.0)
        module = built(
            seed=seed, weighting=weighting, optimizer="sgd", lr=0.03
        )  # Adam's steps do not depend on the scale
        trainer = fit(module, data, max_epochs=8, gradient_clip_val=1.0)
        scores[weighting] = float(trainer.callback_metrics["val_kind_acc"])
    assert scores["uncertainty"] > 0.85
    assert scores["equal"] < scores["uncertainty"] - 0.1


def test_sigmas_have_their_own_parameter_group() -> None:
    module = built(weighting="uncertainty", weight_decay=0.5)
    trainer = fit(module, max_epochs=1)
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    weighting = groups["weighting"]
    assert (weighting["initial_lr"], weighting["weight_decay"], weighting["layer_adaptation"]) == (0.02, 0.0, False)
    assert weighting["params"][0] is module.weighting.log_sigma
    held = [p for group in groups.values() for p in group["params"]]
    assert len(held) == len(set(map(id, held))) == len(list(module.parameters()))
    assert isinstance(module.weighting, UncertaintyWeighting)
    assert module.weighting.waiting() == []


def test_gradient_surgery_in_trainer() -> None:
    """Also with accumulation, which halves each batch's contribution."""
    seen: list[tuple[dict[str, Tensor], Tensor]] = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append((gradients(module), module._surgery_weights))

    module = ready(weighting="pcgrad", lr=0.0, weight_decay=0.0)
    before = copy.deepcopy(module)
    data = Blobs(n=32, missing=0.0)
    fit(module, data, callbacks=[Watch()], accumulate_grad_batches=2)
    expected: dict[str, Tensor] = {}
    order = [[1], [0]]
    for half in range(2):
        part = {name: value[16 * half : 16 * half + 16] for name, value in data.batch.items()}
        before.train()
        outputs = before(part["image"])
        losses = [F.cross_entropy(outputs["kind"], part["label"]), F.mse_loss(outputs["light"][:, 0], part["light"])]
        shared = {n: p for n, p in before.named_parameters() if n.startswith("backbone")}
        alone = [torch.autograd.grad(loss, list(shared.values()), retain_graph=True) for loss in losses]
        flat = torch.stack([torch.cat([g.reshape(-1) for g in task_gradients]) for task_gradients in alone])
        weights = projection_weights(flat @ flat.T, order).float()
        for name, *parts in zip(shared, *alone, strict=True):
            mixed = sum(w * part for w, part in zip(weights, parts, strict=True)) / 2
            expected[name] = expected.get(name, 0) + mixed
    ((gradients_seen, _),) = seen
    for name, value in expected.items():
        torch.testing.assert_close(gradients_seen[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed", "gradient_clip_val": 1e-2}, {"accumulate_grad_batches": 3}]
)
def test_clipping_accumulation_and_mixed_precision(weighting: str, options: dict[str, Any]) -> None:
    norms: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

    module = built(weighting=weighting)
    fit(module, callbacks=[Watch()], **options)
    assert all(p.isfinite().all() for p in module.parameters())
    if "gradient_clip_val" in options:
        assert norms == pytest.approx([1e-2] * 4, rel=1e-2)


def test_error_for_gradient_surgery_with_sharding() -> None:
    module = built(weighting="pcgrad")
    trainer = L.Trainer(**QUIET)
    trainer.strategy.__class__ = type("FSDPStrategy", (L.pytorch.strategies.Strategy,), {"__abstractmethods__": ()})
    module._trainer = trainer
    with pytest.raises(ValueError, match=r"FSDPStrategy shards them: set `strategy='ddp'` of the Trainer"):
        module.on_fit_start()


def test_dynamic_weights_by_epoch() -> None:
    module = built(weighting="dwa")
    trainer = fit(module, max_epochs=2)
    ratios = module.weighting.history[1] / module.weighting.history[0]  # type: ignore[operator]
    torch.testing.assert_close(module.weighting.weights(), 2 * torch.softmax(ratios / 2, 0))
    last = trainer.callback_metrics
    assert module.weighting.history[1].tolist() == pytest.approx(  # type: ignore[index]
        [float(last["train_kind_loss"]), float(last["train_light_loss"])]
    )


def test_checkpoint_is_complete(tmp_path: Path) -> None:
    module = built(weighting="uncertainty")
    fit(module, enable_checkpointing=True, callbacks=[RunCheckpoint()], default_root_dir=tmp_path)
    loaded = MultiTaskModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    images = Blobs().batch["image"]
    with torch.no_grad():
        for name, value in module.eval()(images).items():
            torch.testing.assert_close(loaded.eval()(images, task=name), value)
    assert torch.equal(loaded.weighting.weights(), module.weighting.weights())


def test_error_for_other_number_of_classes() -> None:
    tasks = {"kind": {"type": "classification", "num_classes": 5}}
    with pytest.raises(ValueError, match=r"tasks\.kind\.num_classes=5, .* but Blobs has 3"):
        fit(built(tasks))


def test_one_backbone_pass_for_all_tasks() -> None:
    data = ShapesDataModule(image_size=32, num_images=60, shapes_per_image=2, targets="all", batch_size=16)
    dense = {"channels": 32}
    tasks = {
        "shape": {"type": "classification"},
        "objects": {"type": "detection", "num_convs": 1, **dense},
        "pixels": {"type": "segmentation", **dense},
    }
    module = built(tasks, in_channels=3)
    passes = []
    trainer = L.Trainer(**QUIET, max_epochs=1)
    module._trainer = None  # type: ignore[assignment]
    trainer.fit(module, data)
    module.backbone.body.register_forward_hook(lambda *args: passes.append(1))
    batch = next(iter(data.val_dataloader()))
    module.eval().step(batch, "val")
    assert len(passes) == 1
    logged = trainer.callback_metrics
    for name in ("val_shape_acc", "val_objects_map50", "val_objects_box_loss", "val_pixels_miou", "val_pixels_ce_loss"):
        assert name in logged
    thirds = sum(float(logged[f"val_{name}"]) for name in ("shape_acc", "objects_map50", "pixels_miou")) / 3
    assert float(logged["val_score"]) == pytest.approx(thirds, rel=1e-5)
    assert module.hparams["tasks"]["pixels"]["classes"][0] == "background"
    assert len(module.predict_step(batch, 0)["objects_boxes"]) == len(batch["image"])


def test_error_for_missing_entry() -> None:
    tasks = {"kind": TWO["kind"], "light": {"type": "regression", "key": "lihgt"}}
    message = (
        r"the task light learns from 'lihgt', which no batch of this epoch had. The batches have image, label, light"
    )
    with pytest.raises(ValueError, match=message):
        fit(built(tasks))
    data = Blobs()
    for row in data.train_dataset:
        row["light"] = torch.tensor(torch.nan)
    with pytest.warns(UserWarning, match="no image of this epoch had a target for the task light"):
        trainer = fit(built(), data)
    assert "val_light_mae" not in trainer.callback_metrics
    assert float(trainer.callback_metrics["val_score"]) == float(trainer.callback_metrics["val_kind_acc"])


OWN = """
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError

from lit_cv.tasks import Task


class CountTask(Task):
    def configure_head(self, num_features):
        return nn.Linear(num_features, 1)

    def target(self, batch):
        return torch.tensor([len(boxes) for boxes in batch["boxes"]])

    def loss(self, output, target):
        return nn.functional.poisson_nll_loss(output[:, 0], target, reduction="none")

    def configure_metrics(self):
        return {"mae": MeanAbsoluteError()}

    def update_metrics(self, metrics, output, target):
        metrics.update(output[:, 0].exp(), target)
"""


@pytest.mark.learns
def test_custom_task(in_tmp: Path, seed: int) -> None:
    (in_tmp / "counting.py").write_text(OWN)
    module = built({"count": {"type": "counting.CountTask"}}, seed, in_channels=3, weighting="equal")
    assert (module.monitor, module.mode) == ("val_loss", "min")  # the task has no score
    data = ShapesDataModule(image_size=16, num_images=100, shapes_per_image=4, targets="boxes", batch_size=30)
    trainer = L.Trainer(**QUIET, max_epochs=15)
    (before,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    assert float(trainer.callback_metrics["val_count_loss"]) < before["val_count_loss"] - 0.1
    assert float(trainer.callback_metrics["val_count_mae"]) < before["val_count_mae"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weighting": "fixed"}, "weighting='fixed': `fixed` needs a weight"),
        ({"task_weights": {"kind": 1.0, "light": 1.0}}, "the others allow no weights"),
        ({"weighting": "fixed", "task_weights": {"kind": 1.0}}, "weights for kind, but the tasks are kind, light"),
        ({"weighting_lr": 0.0}, "weighting_lr=0.0"),
        ({"weighting": "dwa", "dwa_temperature": -1.0}, "temperature=-1.0"),
        ({"tasks": {}}, "tasks is empty"),
    ],
)
def test_error_names_argument(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**kwargs)
