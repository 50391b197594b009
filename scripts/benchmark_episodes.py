"""Measure episodes per second of EpisodicDataModule, compared with easyfsl's TaskSampler and a DataLoader.

All draw from the same images in memory (Omniglot's size: 964 classes of 20 drawings at 28 pixels), in the main process.
easyfsl fetches single images and collates them: rows of a uint8 tensor, as in this project, or PIL images that become
normalized tensors, as in its data sets. CPU time, measured in turn, medians over rounds.

    python scripts/benchmark_episodes.py
"""

import argparse
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torchvision import transforms

from datamodules import BaseDataModule, EpisodicDataModule, InMemoryDataset

CLASSES, EACH, SIDE = 964, 20, 28


class Drawings(BaseDataModule):
    """Random images of Omniglot's size."""

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        """Return all images for training."""
        if split != "train":
            return None
        images = torch.randint(256, (CLASSES * EACH, 1, SIDE, SIDE), dtype=torch.uint8)
        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        return InMemoryDataset(images, labels, [f"{label:03}" for label in range(CLASSES)])


def easyfsl_loader(
    images: Tensor, labels: Tensor, way: int, shot: int, query: int, episodes: int, pil: bool
) -> Iterable[Any]:
    from easyfsl.datasets import FewShotDataset
    from easyfsl.samplers import TaskSampler

    class InMemory(FewShotDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, item: int) -> tuple[Tensor, int]:
            return transform(pil_images[item]) if pil else images[item], targets[item]

        def get_labels(self) -> list[int]:
            return targets

    Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign] # torch no longer accepts the argument
    targets = labels.tolist()
    pil_images = [Image.fromarray(image[0].numpy()) for image in images] if pil else []
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.9], [0.2])])
    sampler = TaskSampler(InMemory(), way, shot, query, episodes)
    return DataLoader(InMemory(), batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)


def seconds(loader: Iterable[Any]) -> float:
    start = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = Drawings(val_fraction=0.0)
    print(f"one thread, median CPU time of {args.rounds} rounds of {args.episodes} episodes, in turn")
    for way, shot, query, batch, rotations in (
        (5, 1, 15, 1, False), (5, 1, 15, 8, False), (20, 5, 15, 1, False), (60, 1, 5, 1, False), (20, 5, 15, 1, True),
    ):  # fmt: skip
        data = EpisodicDataModule(
            base, way=way, shot=shot, query=query, rotations=rotations, val_classes=0, test_classes=0,
            episodes_per_epoch=args.episodes, evaluate=["5w1s"], batch_size=batch,
        )  # fmt: skip
        data.setup()
        pool = data.pools["train"]
        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        loaders = {
            "lit_cv": data.train_dataloader(),
            "easyfsl, rows": easyfsl_loader(pool.images, labels, way, shot, query, args.episodes, pil=False),
            "easyfsl, PIL": easyfsl_loader(pool.images, labels, way, shot, query, args.episodes, pil=True),
        }
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(args.rounds):
            for name, loader in loaders.items():
                times[name].append(seconds(loader))
        rates = {name: args.episodes / statistics.median(values) for name, values in times.items()}
        notes = [f"{batch} per batch"] if batch > 1 else []
        notes += ["rotations"] if rotations else []
        line = f"{way}w{shot}s, {query} queries{', lit_cv: ' if notes else ''}{', '.join(notes)}"
        shown = [f"{name} {rate:6.0f}/s ({rates['lit_cv'] / rate:.1f}x)" for name, rate in rates.items()]
        print(f"{line:<46}{'   '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
