"""Classes of a model are matched with those of the data by name."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import AnnotatedImagesDataModule, BaseDataModule, CSVDataModule, ImageFolderDataModule, InMemoryDataset
from datamodules.base import Split
from lit_cv import (
    DetectionModule,
    FineTuneModule,
    MultiTaskModule,
    SegmentationModule,
    SelfTrainingModule,
    SimCLRModule,
    SupervisedModule,
)
from lit_cv.callbacks import OnlineProbe
from lit_cv.cli import main
from lit_cv.modules.base import BaseModule
from lit_cv.modules.loading import load_module
from lit_cv.nn import load_head

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
BRIGHTNESS = {"ant": 20, "bee": 120, "cat": 230}


class Brightness(BaseDataModule):
    """Images of one brightness per class, with class names in any order."""

    def __init__(self, names: list[str], several: bool = False, **kwargs: Any) -> None:
        super().__init__(batch_size=8, num_workers=0, **kwargs)
        self.names, self.several = names, several

    def load(self, split: Split) -> InMemoryDataset | None:
        labels = torch.arange(24) % len(self.names)
        values = torch.tensor([BRIGHTNESS.get(name, 0) for name in self.names])[labels]
        images = values[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8) + torch.arange(24)[:, None, None, None]
        targets = torch.eye(len(self.names))[labels] if self.several else labels
        return InMemoryDataset(images.to(torch.uint8), targets, self.names) if split != "predict" else None


def validation_labels(data: BaseDataModule, key: str = "label") -> list[tuple[int, Any]]:
    """Return the brightness and the label of each validation image."""
    batches = list(data.val_dataloader())
    return [
        (int(image.amax()), label.tolist()) for b in batches for image, label in zip(b["image"], b[key], strict=True)
    ]


def checkpoint(module: BaseModule, data: L.LightningDataModule, path: Path) -> Path:
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SupervisedModule, Path]:
    torch.manual_seed(0)
    module = SupervisedModule(backbone="conv4", per_class_metrics=True)
    return module, checkpoint(module, Brightness(["ant", "bee", "cat"]), tmp_path_factory.mktemp("run") / "a.ckpt")


@pytest.mark.parametrize("verb", ["validate", "test", "fit"])
def test_other_order_is_renumbered(trained: tuple[SupervisedModule, Path], verb: str) -> None:
    same, turned = Brightness(["ant", "bee", "cat"]), Brightness(["cat", "ant", "bee"])
    module = SupervisedModule(backbone="conv4", per_class_metrics=True)
    trainer = L.Trainer(**QUIET, max_steps=1)
    getattr(trainer, verb)(module, datamodule=turned, ckpt_path=trained[1])
    same.setup()
    assert turned.class_names == same.class_names == ["ant", "bee", "cat"]
    assert {b // 60: label for b, label in validation_labels(turned)} == {
        b // 60: label for b, label in validation_labels(same)
    }
    assert torch.equal(turned.class_counts(), torch.tensor([8, 8, 8]))
    assert "val_acc_ant" in trainer.callback_metrics or verb != "validate"


def test_classes_match_when_a_callback_builds_networks_early(trained: tuple[SupervisedModule, Path]) -> None:
    class Early(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            pl_module.configure_model()

    module = SupervisedModule(backbone="conv4", per_class_metrics=True)
    trainer = L.Trainer(**QUIET, callbacks=[Early()])
    data = Brightness(["cat", "ant", "bee"])
    data.checkpoint_path = trained[1]  # as set by the command line
    trainer.validate(module, data, ckpt_path=trained[1], verbose=False)
    assert module.metrics["val"]["class"].labels == ["ant", "bee", "cat"]


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
@pytest.mark.parametrize("names", [["bee", "cat", "dog"], ["ant", "bee"], ["ant", "bee", "cat", "dog"]])
def test_error_for_other_classes(trained: tuple[SupervisedModule, Path], verb: str, names: list[str]) -> None:
    module = SupervisedModule(backbone="conv4")
    with pytest.raises(ValueError, match=r"the model has 3 classes \(ant, bee, cat\).*`classes`") as error:
        getattr(L.Trainer(**QUIET), verb)(module, datamodule=Brightness(names), ckpt_path=trained[1])
    assert "dog" in str(error.value) or "cat is missing" in str(error.value)


def test_trained_and_loaded_modules_know_their_classes(trained: tuple[SupervisedModule, Path]) -> None:
    for module in (trained[0], load_module(trained[1]), SupervisedModule.load_from_checkpoint(trained[1])):
        data = Brightness(["cat", "bee", "ant"])
        L.Trainer(**QUIET).validate(module, data, verbose=False)
        assert data.class_names == ["ant", "bee", "cat"]
        with pytest.raises(ValueError, match="owl is unknown"):
            L.Trainer(**QUIET).validate(module, Brightness(["ant", "bee", "owl"]), verbose=False)


def test_checkpoint_of_earlier_version_is_matched(trained: tuple[SupervisedModule, Path], tmp_path: Path) -> None:
    content = torch.load(trained[1], weights_only=True)
    del content["lit_cv"]["classes"]  # as written by earlier versions
    torch.save(content, tmp_path / "old.ckpt")
    data = Brightness(["cat", "bee", "ant"])
    L.Trainer(**QUIET).validate(
        SupervisedModule(backbone="conv4"), data, ckpt_path=tmp_path / "old.ckpt", verbose=False
    )
    assert data.class_names == ["ant", "bee", "cat"]


def test_error_for_damaged_classes(trained: tuple[SupervisedModule, Path], tmp_path: Path) -> None:
    content = torch.load(trained[1], weights_only=True)
    content["lit_cv"]["classes"] = {"class_names": [1, 2, 3]}
    torch.save(content, tmp_path / "damaged.ckpt")
    data = Brightness(["ant", "bee", "cat"])
    with pytest.raises(ValueError, match="damaged"):
        L.Trainer(**QUIET).validate(SupervisedModule(backbone="conv4"), data, ckpt_path=tmp_path / "damaged.ckpt")


def test_multi_label_is_renumbered(tmp_path: Path) -> None:
    path = checkpoint(
        SupervisedModule(backbone="conv4"), Brightness(["ant", "bee", "cat"], several=True), tmp_path / "a"
    )
    data = Brightness(["cat", "ant", "bee"], several=True)
    L.Trainer(**QUIET).validate(SupervisedModule(backbone="conv4"), data, ckpt_path=path, verbose=False)
    for brightness, label in validation_labels(data):
        name = min(BRIGHTNESS, key=lambda key: abs(BRIGHTNESS[key] + 12 - brightness))
        assert label == [float(name == other) for other in ("ant", "bee", "cat")]


def test_hidden_labels_stay_hidden() -> None:
    data = Brightness(["cat", "ant", "bee"], labels_per_class=2)
    data.setup()
    before = data.unlabeled_dataset.labels.clone()
    data.renumber_classes("class_names", [2, 0, 1], ["ant", "bee", "cat"])
    assert torch.equal(data.unlabeled_dataset.labels < 0, before < 0)
    assert torch.equal(data.train_dataset.labels, torch.tensor([2, 0, 1])[before[before >= 0]])


def test_self_supervision_accepts_any_classes(tmp_path: Path) -> None:
    path = checkpoint(FineTuneModule(backbone="conv4"), Brightness(["ant", "bee", "cat"]), tmp_path / "a.ckpt")
    data = Brightness(["ant", "owl"])
    L.Trainer(**QUIET, max_steps=1).fit(FineTuneModule(weights=str(path)), data)
    embedding = SimCLRModule(backbone="conv4", in_channels=1)
    assert embedding.classes_in(data) == {}


def test_classifier_weights_are_matched_by_name(trained: tuple[SupervisedModule, Path]) -> None:
    original = trained[0].head.state_dict()
    head = SupervisedModule(backbone="conv4", num_classes=3, in_channels=1)
    head.configure_model()
    assert load_head(head.head, str(trained[1]), ["cat", "ant", "bee"])
    for key, value in head.head.state_dict().items():
        assert torch.equal(value, original[key][[2, 0, 1]])
    assert not load_head(head.head, str(trained[1]), ["cat", "ant", "dog"])
    assert SelfTrainingModule(backbone="conv4").classes_in(Brightness(["a"])) == {}  # before its setup


def test_probe_restarts_for_other_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for names, warned in ((["ant", "bee", "cat"], False), (["ant", "cat", "bee"], True)):
        first, second = OnlineProbe(), OnlineProbe()
        modules = [SupervisedModule(backbone="conv4", compile=False) for _ in range(2)]
        start = Brightness(["ant", "bee", "cat"])
        L.Trainer(**QUIET, max_steps=1, callbacks=[first]).fit(modules[0], start)
        second.load_state_dict(first.state_dict())
        L.Trainer(**QUIET, max_steps=1, callbacks=[second]).fit(modules[1], Brightness(names))
        assert ("OnlineProbe restarts" in caplog.text) == warned


def save_scene(folder: Path, name: str, brightness: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), brightness, np.uint8)).save(folder / name)


def yolo(root: Path, names: list[str]) -> Path:
    """Write a YOLO dataset with one object per image, of the class that corresponds to the image's brightness."""
    for split in ("train", "val"):
        for number, (name, brightness) in enumerate(BRIGHTNESS.items()):
            save_scene(root / "images" / split, f"{number}.png", brightness)
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            line = f"{names.index(name)} 0.5 0.5 0.1 0.1 0.9 0.1 0.9 0.9\n"
            (root / "labels" / split / f"{number}.txt").write_text(line)
    (root / "data.yaml").write_text(f"names: {names}\ntrain: images/train\nval: images/val\n")
    return root


def annotated(root: Path) -> AnnotatedImagesDataModule:
    return AnnotatedImagesDataModule(str(root), image_size=32, batch_size=3, num_workers=0)


@pytest.mark.parametrize(
    "kind", ["boxes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pixels", "tasks"))]
)
def test_box_and_mask_classes_are_renumbered(tmp_path: Path, kind: str) -> None:
    first, second = yolo(tmp_path / "a", ["ant", "bee", "cat"]), yolo(tmp_path / "b", ["bee", "cat", "ant"])
    small: dict[str, Any] = {"backbone": "resnet9_small"}

    def module() -> BaseModule:
        if kind == "boxes":
            return DetectionModule(**small, channels=32)
        if kind == "pixels":
            return SegmentationModule(**small, channels=32)
        tasks = {"objects": {"type": "detection", "channels": 32}, "pixels": {"type": "segmentation", "channels": 32}}
        return MultiTaskModule(tasks, **small)

    path = checkpoint(module(), annotated(first), tmp_path / "a.ckpt")
    data = annotated(second)
    L.Trainer(**QUIET).validate(module(), data, ckpt_path=path, verbose=False)
    batch = next(iter(data.val_dataloader()))
    if kind != "pixels":
        assert data.box_classes == ["ant", "bee", "cat"]
        assert [labels.tolist() for labels in batch["box_labels"]] == [[0], [1], [2]]
    if kind != "boxes":
        assert data.mask_classes == ["background", "ant", "bee", "cat"]
        assert batch["mask"][:, 12, 20].tolist() == [1, 2, 3]
        assert batch["mask"][:, 0, 0].tolist() == [0, 0, 0]
    third = yolo(tmp_path / "c", ["ant", "bee", "cat", "dog"])
    with pytest.raises(ValueError, match="dog is unknown"):
        L.Trainer(**QUIET).validate(module(), annotated(third), ckpt_path=path, verbose=False)


def save_folders(root: Path, names: dict[str, int]) -> Path:
    for name, brightness in names.items():
        for number in range(6):
            save_scene(root / name, f"{number}.png", brightness + number)
    return root


@pytest.mark.slow
def test_cli_error_names_renamed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = save_folders(tmp_path / "pets", {"cat": 20, "dog": 200})
    options = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
    data = [f"--data.{option}" for option in (f"root={root}", "image_size=16", "batch_size=4")]
    model = ["--model=SupervisedModule", "--model.backbone=conv4"]
    main(["fit", *model, "--data=ImageFolderDataModule", *data, "--trainer.max_epochs=1", *options])
    (root / "cat").rename(root / "kitten")
    for verb in ("validate", "predict", "knn", "fit"):
        with pytest.raises(ValueError, match=r"cat is missing and kitten is unknown.*--data\.classes"):
            main([verb, "--ckpt_path=last", *options])
    (root / "kitten").rename(root / "cat")
    cli = main(["validate", "--ckpt_path=last", '--data.classes=["dog", "cat"]', *options])
    assert cli.datamodule.class_names == ["cat", "dog"]


def test_table_classes_match_folder_classes(tmp_path: Path) -> None:
    save_folders(tmp_path, {"bee": 120, "ant": 20})
    rows = [f"{name}/{number}.png,{name}" for name in ("bee", "ant") for number in range(6)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    common: dict[str, Any] = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_fraction": 0.5, "channels": 1}
    folder = ImageFolderDataModule(str(tmp_path), classes=["bee", "ant"], **common)
    path = checkpoint(SupervisedModule(backbone="conv4"), folder, tmp_path / "a.ckpt")
    table = CSVDataModule(str(tmp_path / "images.csv"), **common)
    L.Trainer(**QUIET).validate(SupervisedModule(backbone="conv4"), table, ckpt_path=path, verbose=False)
    labels: list[tuple[int, Tensor]] = validation_labels(table)
    assert table.class_names == ["bee", "ant"]
    assert len(labels) == 6
    assert all(label == int(brightness < 60) for brightness, label in labels)
