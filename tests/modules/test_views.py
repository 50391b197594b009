"""Approaches that learn from views: gradients, passes, targets and errors."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

import lit_cv
from datamodules import DigitsDataModule
from lit_cv import ContrastiveAugmentation
from lit_cv.losses import NTXentLoss, cosine_loss, info_nce
from lit_cv.metrics import centroid_predictions

SMALL = {"projector_hidden": 32, "projector_dim": 16}
HEAD = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
APPROACHES: dict[str, tuple[str, dict[str, Any]]] = {
    "SimCLR": ("SimCLRModule", SMALL),
    "BYOL": ("BYOLModule", SMALL),
    "MoCo": ("MoCoModule", SMALL | {"queue_size": 10}),
    "MoCo v3": ("MoCoModule", SMALL | {"queue_size": 0}),
    "VICReg": ("VICRegModule", SMALL),
    "Barlow Twins": ("BarlowTwinsModule", SMALL),
    "LeJEPA": ("LeJEPAModule", SMALL),
    "DINO": ("DINOModule", HEAD),
}
AVERAGES = {"BYOL": "target", "MoCo": "key", "MoCo v3": "key", "DINO": "teacher"}


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    cls, arguments = APPROACHES[name]
    module = getattr(lit_cv, cls)(**{"backbone": "conv4", "in_channels": 1} | arguments | options)
    module.configure_model()
    module._trainer = SimpleNamespace(global_step=0, current_epoch=0, estimated_stepping_batches=4)
    return module.train()


def batch(n_views: int = 2, n: int = 6, local: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n_views + local, n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    views = {"image": images[0], "views": images[:n_views]}
    return views | ({"local_views": images[n_views:, ..., :8, :8]} if local else {})


@pytest.mark.parametrize("name", APPROACHES)
def test_every_trained_weight_gets_a_gradient(name: str) -> None:
    module = build(name)
    output = module.step(batch(), "train")
    output["loss"].backward()
    trained = dict(module.named_parameters())
    average = AVERAGES.get(name)
    for key, parameter in trained.items():
        if average and key.startswith(f"{average}."):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, key
    assert not output["embedding"].requires_grad
    assert output["embedding"].shape[1:] == (6, 64)


@pytest.mark.parametrize("name", AVERAGES)
def test_no_gradient_reaches_the_average(name: str) -> None:
    """The loss depends on the average, whose graph is cut even where its weights would take a gradient."""
    module = build(name)
    before = module.step(batch(), "val")["loss"]
    average = getattr(module, AVERAGES[name])
    average.requires_grad_(True)
    module.step(batch(), "val")["loss"].backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    for parameter in average.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    assert not torch.allclose(module.step(batch(), "val")["loss"], before)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("SimCLR", [12]), ("LeJEPA", [12]), ("DINO", [12]), ("BYOL", [6, 6]), ("MoCo", [6]), ("MoCo v3", [6, 6]),
        ("VICReg", [6, 6]), ("Barlow Twins", [6, 6]),
    ],
)  # fmt: skip
def test_passes_of_batch_norm_are_those_of_the_paper(name: str, shapes: list[int]) -> None:
    module = build(name)
    seen: list[int] = []
    module.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    module.step(batch(), "train")
    assert seen == shapes


@pytest.mark.parametrize("name", ["LeJEPA", "DINO"])
def test_local_views_take_one_more_pass(name: str) -> None:
    module = build(name)
    seen: list[torch.Size] = []
    module.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    loss = module.step(batch(local=3), "train")["loss"]
    assert seen == [(12, 1, 16, 16), (18, 1, 8, 8)]
    assert not torch.equal(loss, build(name).step(batch(), "train")["loss"])


@pytest.mark.parametrize("name", AVERAGES)
def test_average_moves_after_step(name: str) -> None:
    module = build(name, decay=0.75)
    network, average = module.backbone, getattr(module, AVERAGES[name]).module.backbone
    before = next(average.parameters()).clone()
    next(network.parameters()).data.add_(1)
    module.step(batch(), "train")
    module.after_step()
    torch.testing.assert_close(next(average.parameters()), before + 0.25)
    module._trainer.global_step = 4  # the last one
    before = next(average.parameters()).clone()
    module.after_step()
    share = 0.75 if name == "MoCo" else 1.0  # constant, or 1 at the end
    torch.testing.assert_close(next(average.parameters()), before.lerp(next(network.parameters()), 1 - share))


def test_byol_loss() -> None:
    module = build("BYOL").eval()
    views = batch()["views"]
    with torch.no_grad():
        predictions = [module.predictor(module(view)) for view in views]
        targets = [module.target(view) for view in views]
        expected = cosine_loss(predictions[0], targets[1]) + cosine_loss(predictions[1], targets[0])
    torch.testing.assert_close(module.step(batch(), "val")["loss"], expected)


def test_moco_queue_holds_newest_keys() -> None:
    module = build("MoCo")
    start = module.queue.keys.clone()
    for index in range(2):  # two accumulated batches
        loss = module.step(batch(), "train")["loss"]
        with torch.no_grad():
            queries, keys = module(batch()["views"][0]), module.key(batch()["views"][1])
        if index == 0:
            torch.testing.assert_close(loss, info_nce(queries, keys, 0.2, start))
    assert torch.equal(module.queue.keys, start)
    module.after_step()
    expected = nn.functional.normalize(keys, dim=1)
    torch.testing.assert_close(module.queue.keys[4:], expected)  # the last of 12 keys, in a queue of 10
    assert int(module.queue.position) == 0
    after = module.queue.keys.clone()
    module.step(batch(), "val")
    module.after_step()
    assert torch.equal(module.queue.keys, after)


def test_moco_without_queue_loss() -> None:
    module = build("MoCo v3").eval()
    views = batch()["views"]
    with torch.no_grad():
        queries, keys = ([f(view) for view in views] for f in (lambda v: module.predictor(module(v)), module.key))
        expected = 0.4 * (info_nce(queries[0], keys[1], 0.2) + info_nce(queries[1], keys[0], 0.2))
    torch.testing.assert_close(module.step(batch(), "val")["loss"], expected)


def test_dino_center_and_frozen_prototypes() -> None:
    module = build("DINO", center_decay=0.75)
    with torch.no_grad():
        mean = module.teacher(batch()["views"].flatten(0, 1)).mean(0)
    module.step(batch(), "train")["loss"].backward()
    module.on_before_optimizer_step(torch.optim.SGD(module.parameters(), lr=1.0))
    assert not module.head.prototypes.grad.any()
    assert not module.center.any()
    module.after_step()
    torch.testing.assert_close(module.center, 0.25 * mean)
    module._trainer.current_epoch = 1
    module.step(batch(), "train")["loss"].backward()
    module.on_before_optimizer_step(torch.optim.SGD(module.parameters(), lr=1.0))
    assert module.head.prototypes.grad.any()


def test_dino_teacher_temperature_changes_linearly() -> None:
    module = build("DINO", teacher_temperature=0.08, warmup_teacher_temperature=0.04, teacher_warmup_epochs=4).eval()
    views = batch()["views"]
    with torch.no_grad():
        logits = module.teacher(views.flatten(0, 1)).view(2, 6, -1)
    for epoch, temperature in ((0, 0.04), (1, 0.05), (4, 0.08), (9, 0.08)):
        module._trainer.current_epoch = epoch
        torch.testing.assert_close(module._assign(views, "train"), (logits / temperature).softmax(-1))


def test_dino_teacher_temperature_without_warm_up() -> None:
    views = batch()["views"]
    for stage, epochs in (("train", 0), ("val", 4)):  # validation does not depend on the epoch
        module = build("DINO", teacher_temperature=0.08, teacher_warmup_epochs=epochs).eval()
        with torch.no_grad():
            logits = module.teacher(views.flatten(0, 1)).view(2, 6, -1)
        torch.testing.assert_close(module._assign(views, stage), (logits / 0.08).softmax(-1))


def test_lejepa_directions_are_drawn_anew_in_training_alone() -> None:
    module = build("LeJEPA")
    z = torch.zeros(2, 16)
    first, again = (module._directions(z, "train") for _ in range(2))
    assert torch.equal(first, again)
    evaluated = module._directions(z, "val")
    module._trainer.global_step = 1
    assert not torch.equal(first, module._directions(z, "train"))
    assert torch.equal(evaluated, module._directions(z, "val"))


def test_simclr_loss() -> None:
    module = build("SimCLR").eval()
    projections = [module(view) for view in batch()["views"]]
    torch.testing.assert_close(module.step(batch(), "val")["loss"], NTXentLoss(0.5)(*projections))


@pytest.mark.parametrize("name", APPROACHES)
def test_errors_of_batches(name: str) -> None:
    module = build(name)
    with pytest.raises(ValueError, match=rf"{type(module).__name__} needs batches with `views`.*ContrastiveAugm"):
        module.step({"image": batch()["image"]}, "train")
    with pytest.raises(ValueError, match=r"raise `batch_size` of the DataModule"):
        module.step(batch(n=1), "train")


@pytest.mark.parametrize("name", APPROACHES)
def test_validation_of_one_image(name: str) -> None:
    """The last batch of a validation may hold one image."""
    assert build(name).eval().step(batch(n=1), "val")["loss"].isfinite()


@pytest.mark.parametrize("name", sorted(APPROACHES.keys() - {"LeJEPA", "DINO"}))
def test_error_for_local_views_without_use(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{APPROACHES[name][0]} has no use for local views.*local_views=0"):
        build(name).step(batch(local=1), "train")


@pytest.mark.parametrize("name", [name for name in APPROACHES if name != "SimCLR"])
def test_error_for_single_view(name: str) -> None:
    with pytest.raises(ValueError, match="compares 2 views of each image, but its batches hold 1: raise n_views"):
        build(name).step(batch(n_views=1), "train")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("SimCLR", "temperature", 0), ("BYOL", "decay", 1.5), ("MoCo", "temperature", -1), ("MoCo", "queue_size", -1),
        ("VICReg", "variance_weight", -1), ("Barlow Twins", "redundancy_weight", 0), ("LeJEPA", "sigreg_weight", 2),
        ("DINO", "teacher_temperature", 0), ("DINO", "center_decay", 0), ("SimCLR", "projector_layers", 0),
        ("BYOL", "projector_hidden", 0), ("MoCo", "projector_hidden", 0), ("VICReg", "projector_dim", 0),
    ],
)  # fmt: skip
def test_errors_name_the_option(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{option}={value}"):
        build(name, **{option: value})


# Epochs and options of a short training; BYOL needs a longer one.
TRAININGS: dict[str, tuple[int, dict[str, Any]]] = {
    "MoCo": (30, {"lr": 1e-3, "decay": 0.98, "queue_size": 1024, "temperature": 0.07}),
    "MoCo v3": (20, {"lr": 3e-3, "decay": 0.9, "queue_size": 0, "projector_hidden": 256, "projector_dim": 64}),
    "VICReg": (20, {"lr": 3e-3, "projector_hidden": 256, "projector_dim": 256}),
    "Barlow Twins": (30, {"lr": 2e-3, "projector_hidden": 256, "projector_dim": 256}),
    "LeJEPA": (20, {"lr": 2e-3, "projector_hidden": 256, "projector_dim": 64, "directions": 64}),
    "DINO": (
        40,
        {"lr": 5e-4, "decay": 0.95, "prototypes": 256, "hidden": 128, "bottleneck": 64, "assignment": "sinkhorn"},
    ),
}


def accuracy_with_two_labels(module: Any, data: DigitsDataModule) -> float:
    """Return the accuracy of the nearest class mean, averaged over draws of two images per class."""
    batch = data.train_dataset.__getitems__(list(range(len(data.train_dataset))))
    with torch.no_grad():
        features = module.eval().embed(batch["image"])
    accuracies = []
    for draw in range(10):
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(draw))
        labels = batch["label"][order]
        chosen = torch.cat([order[labels == label][:2] for label in range(10)])
        predictions = centroid_predictions(features, features[chosen], batch["label"][chosen], 10)
        accuracies.append(float((predictions == batch["label"]).float().mean()))
    return sum(accuracies) / 10


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("name", TRAININGS)
def test_learns(name: str, seed: int) -> None:
    """With two labels per class, learned features are far better than random ones."""
    L.seed_everything(seed, verbose=False)
    data = DigitsDataModule(batch_size=128, num_workers=0)
    data.setup()
    cls, (epochs, chosen) = APPROACHES[name][0], TRAININGS[name]
    options = {"backbone": "resnet9_small", "warmup_epochs": 2.0} | chosen
    module = getattr(lit_cv, cls)(**{"in_channels": 1, "image_size": 8, "weight_decay": 1e-4} | options)
    module.configure_model()
    before = accuracy_with_two_labels(module, data)
    views = ContrastiveAugmentation(
        operations=[
            {"name": "random_resized_crop", "scale": [0.5, 1.0]},
            {"name": "affine", "degrees": 15, "translate": 0.1, "shear": 10},
            {"name": "color_jitter", "brightness": 0.4, "contrast": 0.4},
        ]
    )
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[views],
    )  # fmt: skip
    trainer.fit(module.train(), data)
    after = accuracy_with_two_labels(module, data)
    assert after > before + 0.05
