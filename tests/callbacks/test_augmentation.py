"""Augmentation replaces images, masks and boxes of training batches."""

from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_cv.augment import RandomCrop
from lit_cv.callbacks.augmentation import Augmentation

NO_TRAINER = cast(L.Trainer, None)
NO_MODULE = cast(L.LightningModule, None)


def start(callback: L.Callback, batch: Any) -> Any:
    callback.on_train_batch_start(NO_TRAINER, NO_MODULE, batch, 0)
    return batch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_default_policy_is_small_images() -> None:
    crop, flip = Augmentation().chain.operations
    assert repr(crop) == "RandomCrop(padding=4, size=None, fill='zero')"
    assert repr(flip) == "HorizontalFlip(p=0.5)"
    assert Augmentation("photographs", size=96).chain.output_size((50, 60)) == (96, 96)


def test_only_images_change() -> None:
    images = (torch.rand(16, 3, 32, 32) * 255).to(torch.uint8)
    labels = torch.arange(16)
    batch = start(Augmentation(), {"image": images, "label": labels, "index": labels})
    assert batch["image"].shape == images.shape
    assert not torch.equal(batch["image"], images)
    assert batch["label"] is labels
    assert batch["index"] is labels


def test_nested_batches() -> None:
    batch = {name: {"image": torch.rand(4, 3, 16, 16), "label": torch.zeros(4)} for name in ("source", "target")}
    before = {name: part["image"] for name, part in batch.items()}
    start(Augmentation(), batch)
    for name, part in batch.items():
        assert not torch.equal(part["image"], before[name])


def test_masks_and_boxes_are_transformed() -> None:
    torch.manual_seed(3)
    masks = torch.zeros(6, 32, 32, dtype=torch.int64)
    masks[:, 2:30, 4:12] = 1
    batch: dict[str, Any] = {
        "image": masks[:, None].float(),
        "mask": masks,
        "boxes": [torch.tensor([[4.0, 2.0, 12.0, 30.0], [0.0, 0.0, 3.0, 3.0]]) for _ in range(6)],
        "box_labels": [torch.tensor([1, 2]) for _ in range(6)],
        "masks": [torch.stack([mask == 1, mask == 2]) for mask in masks],
    }
    start(Augmentation(operations=["horizontal_flip", {"name": "random_crop", "padding": 4}], mask_fill=7), batch)
    assert torch.equal(batch["mask"] == 1, batch["image"][:, 0] == 1)
    assert set(batch["mask"].unique().tolist()) == {0, 1, 7}
    assert any(len(labels) == 1 for labels in batch["box_labels"])
    names = ("mask", "boxes", "box_labels", "masks")
    for mask, boxes, labels, objects in zip(*(batch[name] for name in names), strict=True):
        assert len(boxes) == len(labels) == len(objects)
        assert torch.equal(objects[labels == 1][0], mask == 1)
        rows, columns = (mask == 1).nonzero().unbind(1)
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert boxes[labels == 1][0].tolist() == around


def test_color_operations_keep_masks() -> None:
    mask = torch.ones(2, 8, 8, dtype=torch.int64)
    batch = start(Augmentation(operations=["gaussian_noise"]), {"image": torch.rand(2, 3, 8, 8), "mask": mask})
    assert batch["mask"] is mask


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([torch.rand(2, 3, 8, 8), torch.zeros(2)], "got a list: .*'image'"),
        ({"label": torch.zeros(2)}, r"got a dict of \['label'\]: .*'image'"),
        ({"image": [torch.rand(3, 8, 8)]}, "got a dict"),
    ],
)
def test_error_for_other_batches(batch: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        start(Augmentation(), batch)


def test_error_for_policy_and_operations() -> None:
    with pytest.raises(ValueError, match="set only one of them"):
        Augmentation("photographs", ["horizontal_flip"])


class Images(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.full((1, 8, 8), 10 * index + 5, dtype=torch.uint8), "label": torch.tensor(index % 2)}


class Recorder(L.LightningModule):
    """Records the batches that it gets."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2)
        self.train_batches: list[Any] = []
        self.val_batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.train_batches.append(batch)
        return self.layer(batch["image"].flatten(1).float()).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_batches.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(*callbacks: L.Callback, epochs: int = 1) -> Recorder:
    module = Recorder()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(Images(), batch_size=4), DataLoader(Images(), batch_size=4))
    return module


def test_augments_in_training_only() -> None:
    module = fit(Augmentation(operations=[{"name": "cutout", "size": 4, "value": 1.0}]))
    assert all((batch["image"] == 255).flatten(1).any(1).all() for batch in module.train_batches)
    assert not any((batch["image"] == 255).any() for batch in module.val_batches)
    assert [len(batch["image"]) for batch in module.train_batches] == [4, 2]


def test_cli_builds_from_yaml() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_subclass_arguments(Augmentation, "callback")
    config = {
        "class_path": "lit_cv.callbacks.augmentation.Augmentation",
        "init_args": {"operations": ["horizontal_flip", {"name": "random_crop", "padding": 2}]},
    }
    built = parser.instantiate_classes(parser.parse_object({"callback": config})).callback
    crop = built.chain.operations[1]
    assert isinstance(crop, RandomCrop)
    assert crop.padding == 2


def test_sizes_of_padded_images_are_removed() -> None:
    def padded() -> dict[str, Any]:
        return {"image": torch.zeros(2, 3, 16, 16), "size": torch.tensor([[8, 16]] * 2), "scale": torch.ones(2, 2)}

    assert start(Augmentation(operations=["horizontal_flip"]), padded()).keys() == {"image"}
    colors = start(Augmentation(operations=[{"name": "color_jitter", "brightness": 0.2}]), padded())
    assert colors.keys() == {"image", "size", "scale"}


class Data:
    image_size = (32, 32)


class WithData:
    datamodule = Data()
    is_global_zero = True


@pytest.mark.parametrize(("size", "warned"), [(24, 1), (32, 0)])
def test_warning_for_other_size_than_validation(size: int, warned: int, caplog: pytest.LogCaptureFixture) -> None:
    callback = Augmentation(operations=[{"name": "random_crop", "size": size}])
    for _ in range(2):
        callback.on_train_batch_start(cast(Any, WithData()), NO_MODULE, {"image": torch.rand(2, 3, 40, 40)}, 0)
    assert len({id(record) for record in caplog.records}) == warned  # pytest may record one twice
    assert ("images have 24 x 24 pixels after Augmentation, validation images 32 x 32" in caplog.text) == bool(warned)


def drawn_with(callback: Any, images: Tensor) -> Tensor:
    callback.setup(cast(Any, WithData()), NO_MODULE, "fit")
    return start(callback, {"image": images})["image"]


@pytest.mark.parametrize("policy", ["photographs", "photographs_strong", "small_images", "simclr"])
@pytest.mark.parametrize("side", [32, 40])
def test_policy_crops_to_image_size_of_data(policy: str, side: int) -> None:
    assert drawn_with(Augmentation(policy), torch.rand(2, 3, side, side)).shape == (2, 3, 32, 32)
    assert drawn_with(Augmentation(policy, size=24), torch.rand(2, 3, side, side)).shape == (2, 3, 24, 24)


def test_last_crop_uses_image_size_of_data() -> None:
    first: dict[str, Any] = {"name": "random_crop", "padding": 2}
    follows = Augmentation(operations=[first, {"name": "random_resized_crop", "scale": [0.2, 1.0]}, "horizontal_flip"])
    assert drawn_with(follows, torch.rand(2, 3, 40, 40)).shape[2:] == (32, 32)
    assert repr(follows.chain.operations[0]) == "RandomCrop(padding=2, size=None, fill='zero')"
    with_size = Augmentation(operations=["random_resized_crop", {"name": "random_crop", "size": 20}])
    assert drawn_with(with_size, torch.rand(2, 3, 40, 40)).shape[2:] == (20, 20)
    assert drawn_with(Augmentation(operations=["horizontal_flip"]), torch.rand(2, 3, 40, 40)).shape[2:] == (40, 40)


def test_smaller_images_keep_their_size() -> None:
    assert drawn_with(Augmentation(), torch.rand(2, 3, 20, 40)).shape[2:] == (20, 32)


def test_varying_image_sizes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = Augmentation("photographs")
    drawn_with(callback, torch.rand(2, 3, 40, 40))
    monkeypatch.setattr(Data, "image_size", None)
    assert drawn_with(callback, torch.rand(2, 3, 40, 48)).shape[2:] == (40, 48)


def test_masks_and_boxes_are_cropped_to_image_size() -> None:
    callback = Augmentation(operations=[{"name": "random_resized_crop", "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}])
    callback.setup(cast(Any, WithData()), NO_MODULE, "fit")
    mask = torch.zeros(1, 64, 64, dtype=torch.int64)
    mask[:, 16:32, 8:40] = 1
    batch = start(callback, {
        "image": mask[:, None].float(), "mask": mask,
        "boxes": [torch.tensor([[8.0, 16.0, 40.0, 32.0]])], "box_labels": [torch.tensor([0])],
    })  # fmt: skip
    assert batch["mask"].shape == (1, 32, 32)
    assert batch["boxes"][0].tolist() == [[4.0, 8.0, 20.0, 16.0]]
    assert batch["mask"][0, 8:16, 4:20].eq(1).all()
