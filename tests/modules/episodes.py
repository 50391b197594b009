"""Easily separable episodes and batches of them, for the few-shot modules."""

from typing import Any

import lightning as L
import torch

from datamodules import BaseDataModule, EpisodicDataModule, InMemoryDataset


class Marks(BaseDataModule):
    """Twelve classes of gray images: a bright square at a class-specific position, with noise."""

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        if split != "train":
            return None
        labels = torch.arange(12).repeat_interleave(10)
        images = torch.randint(0, 165, (120, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = divmod(label, 4)
            image[:, 5 * row : 5 * row + 4, 4 * column : 4 * column + 4] += 90
        return InMemoryDataset(images, labels, [f"{label:02}" for label in range(12)])


def marks(**kwargs: Any) -> EpisodicDataModule:
    options: dict[str, Any] = {
        "way": 3, "shot": 1, "query": 4, "episodes_per_epoch": 24, "evaluate": ["2w1s", "3w2s"],
        "val_classes": 3, "test_classes": 3, "split_seed": 1, "val_episodes": 20, "test_episodes": 40,
    }  # fmt: skip
    return EpisodicDataModule(Marks(val_fraction=0.0), **options | kwargs)


def episode_batch(way: int = 3, shot: int = 2, queries: int = 4, count: int = 2, size: int = 16) -> dict[str, Any]:
    """Return a batch of random images with labels in random order."""
    generator = torch.Generator().manual_seed(5)
    batch: dict[str, Any] = {"classes": torch.arange(way).expand(count, way)}
    for name, each in (("support", shot), ("query", queries)):
        labels = torch.arange(way).repeat(each)
        labels = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(count)])
        shape = (*labels.shape, 1, size, size)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        batch[name] = {"image": images, "label": labels}
    return batch


def build(cls: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    module = cls(**{"in_channels": 1, "image_size": 16} | kwargs)
    module.configure_model()
    return module


def trainer(epochs: int = 1, **kwargs: Any) -> L.Trainer:
    options: dict[str, Any] = {
        "max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(**options | kwargs)
