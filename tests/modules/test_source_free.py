"""Source-free adaptation: what it learns from, what stays frozen, and what it never sees."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torchvision.utils import save_image

from datamodules import DigitsDataModule, DomainAdaptationDataModule, ImageFolderDataModule
from lit_cv import Augmentation, SourceFreeModule, SupervisedModule, WeakStrongAugmentation
from lit_cv.losses import centroid_labels, information_loss
from tests.modules.test_domain_adaptation import DarkDigits, WrongDarkDigits, fit


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a classifier of plain digits."""
    folder = tmp_path_factory.mktemp("source")
    module = SupervisedModule(backbone="conv4", lr=2e-3)
    fit(module, DigitsDataModule(), folder, epochs=4).save_checkpoint(folder / "source.ckpt")
    return folder / "source.ckpt"


def source_free(source: Path, **options: Any) -> SourceFreeModule:
    return SourceFreeModule(**{"backbone": "conv4", "weights": str(source), "lr": 1e-3} | options)


@pytest.mark.slow
def test_adaptation_beats_the_source_alone(source: Path, tmp_path: Path) -> None:
    scores = []
    for lr in (0.0, 1e-3):
        module = source_free(source, lr=lr)
        module.eval() if not lr else None
        data = DarkDigits(val_fraction=0.3, batch_size=64)
        if not lr:
            trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
            trainer.validate(module, data, verbose=False)
        else:
            trainer = fit(module, data, tmp_path, epochs=3)
        scores.append(float(trainer.callback_metrics["val_target_acc"]))
    assert scores[1] > scores[0] + 0.1, scores


def test_classifier_stays_frozen(source: Path, tmp_path: Path) -> None:
    module = source_free(source, dropout=0.5)
    fit(module, DarkDigits(), tmp_path, limit_train_batches=3)
    stored = torch.load(source, weights_only=True)["state_dict"]
    for key, value in module.head.state_dict().items():
        assert torch.equal(value, stored[f"head.{key}"]), key
    assert not module.train().head.training
    assert not torch.equal(module.backbone.body.blocks[0][0].weight, stored["backbone.body.blocks.0.0.weight"])


def test_loss_is_that_of_its_parts(source: Path, tmp_path: Path) -> None:
    module = source_free(source, pseudo_label_weight=0.3)
    batches: list[dict[str, Any]] = []

    class Look(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batches.append(batch)

    views = WeakStrongAugmentation("symbols", "symbols")
    fit(module, DarkDigits(), tmp_path, limit_train_batches=1, callbacks=[views, Look()])
    batch = batches[0]
    assert batch["label"].unique().tolist() == [-1]
    assert batch["strong"].shape == batch["image"].shape
    module.train()
    output = module.step(batch, "train")
    logits = module.head(module.backbone(torch.cat([batch["image"], batch["strong"]])))
    n = len(batch["image"])
    pseudo = F.cross_entropy(logits[n:], module.pseudo_labels[batch["index"]])
    torch.testing.assert_close(output["loss"], information_loss(logits[:n]) + 0.3 * pseudo, rtol=1e-4, atol=1e-5)
    without = source_free(source, pseudo_label_weight=0.0, num_classes=10, in_channels=1)
    without.configure_model()
    assert "pseudo_label_loss" not in without.step(batch, "train")


def test_pseudo_labels_are_those_of_nearest_centroids(source: Path, tmp_path: Path) -> None:
    module = source_free(source, lr=1e-9)
    data = DarkDigits()
    fit(module, data, tmp_path, limit_train_batches=1)
    images = data.train_dataset.__getitems__(range(len(data.train_dataset)))["image"]
    fresh = source_free(source, num_classes=10, in_channels=1, mean=module.hparams["mean"], std=module.hparams["std"])
    fresh.configure_model()
    fresh.eval()
    with torch.no_grad():
        features = torch.cat([fresh.backbone(part) for part in images.split(500)])
        expected = centroid_labels(features, fresh.head(features).softmax(1))
    assert (module.pseudo_labels == expected).float().mean() > 0.99  # up to rounding


def test_labels_change_nothing(source: Path, tmp_path: Path) -> None:
    states = []
    for data in (DarkDigits(val_fraction=0.0), WrongDarkDigits(val_fraction=0.0)):  # the split is stratified by label
        module = source_free(source)
        fit(module, data, tmp_path, callbacks=[Augmentation("symbols")], limit_train_batches=3, limit_val_batches=0)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_target_of_two_domains_is_used(source: Path, tmp_path: Path) -> None:
    states = []
    for data in (
        DarkDigits(batch_size=32),
        DomainAdaptationDataModule(DigitsDataModule(), DarkDigits(), batch_size=32),
    ):
        module = source_free(source, mean=[0.5], std=[0.5])
        fit(module, data, tmp_path, limit_train_batches=2)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_folder_of_images_without_classes(source: Path, tmp_path: Path) -> None:
    digits = DigitsDataModule()
    digits.setup()
    for number, image in enumerate(digits.train_dataset.__getitems__(range(20))["image"]):
        save_image(image / 255, tmp_path / f"{number}.png")
    data = ImageFolderDataModule(
        str(tmp_path), unlabeled_root=".", image_size=8, channels=1, batch_size=10, num_workers=0
    )
    module = source_free(source)
    trainer = fit(module, data, tmp_path, limit_train_batches=2)
    assert trainer.global_step == 2
    assert module.hparams["num_classes"] == 10
    assert module.trained_classes["class_names"] == [str(digit) for digit in range(10)]
    assert len(module.pseudo_labels) == 20


def test_error_without_a_trained_classifier(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights=None: must be a checkpoint of a classifier"):
        fit(SourceFreeModule(backbone="conv4"), DarkDigits(), tmp_path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of a classifier with the same classes"):
        fit(source_free(source), DarkDigits(classes=[0, 1, 2]), tmp_path)


def test_errors(source: Path) -> None:
    with pytest.raises(ValueError, match="pseudo_label_weight=-1"):
        SourceFreeModule(pseudo_label_weight=-1.0)
    with pytest.raises(ValueError, match="diversity_weight=nan"):
        SourceFreeModule(diversity_weight=float("nan"))
    module = source_free(source, num_classes=10, in_channels=1)
    module.configure_model()
    with pytest.raises(ValueError, match="needs an `index`"):
        module.step({"image": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}, "train")
