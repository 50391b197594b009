"""Small synthetic DataModules, one for each kind of batch."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import (
    BaseDataModule,
    DomainAdaptationDataModule,
    EpisodicDataModule,
    InMemoryDataset,
    ShapesDataModule,
)

SIDE = 16  # pixels
BATCH = 4  # images


class Images(BaseDataModule):
    """Color images of three classes that differ in brightness; batches of `image` and `label`.

    Args:
        count: Number of training images, of which every sixth has no label; there are eight validation images.
        shift: Value added to every pixel, to create another domain.
        side: Height and width in pixels.
        **kwargs: Arguments of `BaseDataModule`.
    """

    def __init__(self, count: int = 5 * BATCH, shift: int = 0, side: int = SIDE, **kwargs: Any) -> None:
        super().__init__(**{"batch_size": BATCH} | kwargs)

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        if split not in ("train", "val"):
            return None
        count = self.hparams["count"] if split == "train" else 2 * BATCH
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.arange(count) % 3
        shape = (count, 3, self.hparams["side"], self.hparams["side"])
        noise = torch.randint(0, 100, shape, generator=generator)
        images = noise + 50 * labels[:, None, None, None] + self.hparams["shift"]
        if split == "train":
            labels[5::6] = -1
        return InMemoryDataset(images.to(torch.uint8), labels, ["dark", "gray", "light"])


class Scenes(ShapesDataModule):
    """Images with a label, a mask and up to two boxes each."""

    def __init__(self, **kwargs: Any) -> None:
        options: dict[str, Any] = {"num_images": 28, "image_size": 32, "shapes_per_image": 2, "targets": "all"}
        super().__init__(**options | {"batch_size": BATCH, "val_fraction": 0.2} | kwargs)


class DomainPairs(DomainAdaptationDataModule):
    """Two domains with a smaller target, which restarts in the middle of an epoch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Images(), Images(count=10, shift=40), **{"batch_size": BATCH} | kwargs)


class Episodes(EpisodicDataModule):
    """Episodes of two classes; prediction uses two test classes as its support set."""

    def __init__(self, side: int = SIDE, **kwargs: Any) -> None:
        options: dict[str, Any] = {
            "way": 2, "shot": 1, "query": 2, "batch_size": 2, "episodes_per_epoch": 8, "evaluate": ["2w1s"],
            "val_classes": 2, "test_classes": 2, "val_episodes": 3, "test_episodes": 3,
        }  # fmt: skip
        super().__init__(_SixClasses(side, val_fraction=0.0), **options | kwargs)

    def _predicts_folders(self) -> bool:
        return False

    def support_set(self) -> tuple[Tensor, Tensor]:
        batch = self._labeled()
        return batch["image"][::2], batch["label"][::2]

    def predict_dataloader(self) -> Any:
        batch = self._labeled()
        items = [{"image": image, "index": index} for index, image in enumerate(batch["image"])]
        return DataLoader(cast(Any, items), batch_size=BATCH)

    def _labeled(self) -> dict[str, Tensor]:
        images = self.pools["test"].images
        return {"image": images, "label": torch.arange(len(images)) * 2 // len(images)}


class _SixClasses(BaseDataModule):
    """Gray images of six classes, which differ in the position of a bright row."""

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        if split != "train":
            return None
        labels = torch.arange(6).repeat_interleave(4)
        images = torch.randint(0, 165, (24, 1, self.side, self.side), generator=torch.Generator().manual_seed(0))
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 2 * label : 2 * label + 2] += 90
        return InMemoryDataset(images.to(torch.uint8), labels, [f"row {label}" for label in range(6)])
