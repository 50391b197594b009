"""Episodes per second: EpisodicDataModule against easyfsl's TaskSampler and a DataLoader.

Both draw from the same uint8 images in memory (Omniglot's size: 964 classes of 20 drawings at 28 pixels), in the main
process, and hand over uint8 images and labels of support and query. easyfsl fetches image by image and collates.
CPU time, in turn, medians over rounds.

    python scripts/benchmark_episodes.py
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from datamodules import BaseDataModule, EpisodicDataModule, InMemoryDataset

CLASSES, EACH, SIDE = 964, 20, 28


class Drawings(BaseDataModule):
    """Random images of Omniglot's size."""

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        """Return all of them for training."""
        if split != "train":
            return None
        images = torch.randint(256, (CLASSES * EACH, 1, SIDE, SIDE), dtype=torch.uint8)
        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        return InMemoryDataset(images, labels, [f"{label:03}" for label in range(CLASSES)])


def easyfsl_loader(images: Tensor, labels: Tensor, way: int, shot: int, query: int, episodes: int) -> Iterable[Any]:
    from easyfsl.datasets import FewShotDataset
    from easyfsl.samplers import TaskSampler

    class InMemory(FewShotDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, item: int) -> tuple[Tensor, int]:
            return images[item], answers[item]

        def get_labels(self) -> list[int]:
            return answers

    Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign] # torch no longer takes it
    answers = labels.tolist()
    sampler = TaskSampler(InMemory(), way, shot, query, episodes)
    return DataLoader(InMemory(), batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)


def seconds(iterate: Callable[[], Iterable[Any]]) -> float:
    start = time.process_time()
    for _ in iterate():
        pass
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = Drawings(val_fraction=0.0)
    print(f"one thread, median CPU time of {args.rounds} rounds of {args.episodes} episodes, in turn")
    for way, shot, query, rotations in ((5, 1, 15, False), (20, 5, 15, False), (60, 1, 5, False), (20, 5, 15, True)):
        data = EpisodicDataModule(
            base, way=way, shot=shot, query=query, rotations=rotations, val_classes=0, test_classes=0,
            episodes_per_epoch=args.episodes, evaluate=["5w1s"],
        )  # fmt: skip
        data.setup()
        pool = data.pools["train"]
        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        peer = easyfsl_loader(pool.images, labels, way, shot, query, args.episodes)
        ours = data.train_dataloader()
        times: dict[str, list[float]] = {"easyfsl": [], "lit_cv": []}
        for _ in range(args.rounds):
            times["easyfsl"].append(seconds(lambda peer=peer: peer))
            times["lit_cv"].append(seconds(lambda ours=ours: ours))
        rates = {name: args.episodes / statistics.median(values) for name, values in times.items()}
        name = f"{way}w{shot}s, {query} queries{', rotations (lit_cv alone)' if rotations else ''}"
        print(
            f"{name:<48}easyfsl {rates['easyfsl']:7.0f}/s   lit_cv {rates['lit_cv']:7.0f}/s   "
            f"{rates['lit_cv'] / rates['easyfsl']:5.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
