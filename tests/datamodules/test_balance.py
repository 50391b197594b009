from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from datamodules import (
    AnnotatedImagesDataModule,
    BaseDataModule,
    DomainAdaptationDataModule,
    EpisodicDataModule,
    InMemoryDataset,
    ResumableLoader,
)
from datamodules.balance import BalancedSampler, balanced_positions, rarest_classes
from datamodules.domain_pairs import PairSampler
from lit_cv.annotations.coco_writing import write_coco
from tests.annotations.sets import example

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 16 + [3] * 3 + [-1] * 11)
NAMES = ["a", "b", "c", "d"]


class Uneven(BaseDataModule):
    """Return 110 images of four classes, eleven of them unlabeled."""

    labels = LABELS

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        count = len(self.labels)
        pixels = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
        return InMemoryDataset(pixels, self.labels, NAMES) if split == "train" else None


class Several(Uneven):
    """Return images with up to three labels each."""

    labels = torch.tensor([[1, 0, 0, 0]] * 12 + [[1, 1, 0, 0]] * 4 + [[1, 1, 1, 0]] * 2 + [[0, 0, 0, 0]] * 6).float()


def uneven(cls: type[BaseDataModule] = Uneven, **kwargs: Any) -> Any:
    data = cls(**{"val_fraction": 0.0, "batch_size": 9} | kwargs)  # type: ignore[arg-type]
    data.setup()
    return data


def drawn(loader: Any) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def expected_shares(counts: list[int], balance: float, total: int) -> list[int]:
    """Compute shares by the definition of the largest remainder method."""
    weights = [count ** (1 - balance) for count in counts]
    exact = [total * weight / sum(weights) for weight in weights]
    found = [int(value) for value in exact]
    for position in sorted(range(len(exact)), key=lambda i: found[i] - exact[i])[: total - sum(found)]:
        found[position] += 1
    return found


@pytest.mark.parametrize("balance", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_shares_are_exact_over_an_epoch(balance: float) -> None:
    sampler = BalancedSampler(LABELS, balance, seed=3)
    order = list(sampler)
    assert len(order) == len(sampler) == 110
    classes = Counter(LABELS[order].tolist())
    assert [classes[k] for k in range(4)] == expected_shares([50, 30, 16, 3], balance, 99)
    assert classes[-1] == 11
    times = Counter(order)
    for k in (-1, 0, 1, 2, 3):
        of_class = [times[position] for position, label in enumerate(LABELS.tolist()) if label == k]
        assert max(of_class) - min(of_class) <= 1, k
        assert k >= 0 or of_class == [1] * 11


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        np.random.seed(np.random.randint(1000))
        sampler = BalancedSampler(LABELS, 0.5, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_all_images_of_a_large_class_are_drawn_in_some_epoch() -> None:
    sampler, seen = BalancedSampler(LABELS, 1.0, seed=0), set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(110))


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_samples_of_one_rank(drop_last: bool) -> None:
    whole = list(BalancedSampler(LABELS, 1.0, 5))
    parts = [list(BalancedSampler(LABELS, 1.0, 5, 2, rank, drop_last)) for rank in (0, 1)]
    assert sorted([*parts[0], *parts[1]]) == sorted(whole)
    assert [pair[0] for pair in zip(*parts, strict=True)] == whole[::2]


def test_datamodule_without_balance() -> None:
    plain, balanced = uneven(), uneven(balance=0.0)
    assert drawn(plain.train_dataloader()) == drawn(balanced.train_dataloader())
    assert sorted(drawn(ResumableLoader(plain.train_dataset, 9, shuffle=True))) == list(range(99))


def test_datamodule_draws_classes_equally_often() -> None:
    data = uneven(balance=1.0)
    loader = data.train_dataloader()
    counts = torch.bincount(torch.cat([batch["label"] for batch in loader]))
    assert counts.tolist() == [25, 25, 25, 24]
    assert len(loader) == 11
    assert data.class_counts().tolist() == [50, 30, 16, 3]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("consumed", [1, 4, 10])
def test_resume_in_the_middle_of_an_epoch_is_exact(consumed: int, workers: int) -> None:
    loader = uneven(balance=0.7, num_workers=workers).train_dataloader()
    batches = iter(loader)
    for _ in range(consumed):
        next(batches)
    state = loader.state_dict()
    rest = drawn(batches)
    resumed = uneven(balance=0.7).train_dataloader()
    resumed.load_state_dict(state)
    assert drawn(resumed) == rest
    assert drawn(resumed) == drawn(loader)


def test_resume_refuses_another_balance() -> None:
    loader = uneven(balance=0.7).train_dataloader()
    next(iter(loader))
    for other in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"middle of an epoch with balance=0\.7, but this run has balance="):
            uneven(balance=other).train_dataloader().load_state_dict(loader.state_dict())


class Recorder(L.LightningModule):
    """Records the samples of each step, and depends on them in its weights."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.layer, self.stop = nn.Linear(4, 1), stop
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == self.stop:
            raise KeyboardInterrupt
        self.seen[self.trainer.global_step] = batch["index"].tolist()
        return self.layer(batch["index"][:, None].expand(-1, 4).float()).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(root: Path, module: Recorder, ckpt_path: Path | None = None) -> Recorder:
    keep = L.pytorch.callbacks.ModelCheckpoint(root, every_n_train_steps=1, filename="{step}", save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[keep], logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    data = Uneven(val_fraction=0.0, batch_size=9, num_workers=0, balance=0.9)
    with suppress(SystemExit):
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize("step", [4, 15])
def test_interrupted_run_resumes_exactly(tmp_path: Path, step: int) -> None:
    torch.manual_seed(0)
    whole = fit(tmp_path / "whole", Recorder())
    torch.manual_seed(0)
    ended = fit(tmp_path / "ended", Recorder(stop=step))
    resumed = fit(tmp_path / "resumed", Recorder(), tmp_path / "ended" / f"step={step}.ckpt")
    assert ended.seen | resumed.seen == whole.seen
    assert len(whole.seen) == 22
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_multi_label_image_counts_as_rarest_class() -> None:
    assert rarest_classes(Several.labels > 0).tolist() == [0] * 12 + [1] * 4 + [2] * 2 + [-1] * 6
    data = uneven(Several, balance=1.0, batch_size=6)
    chosen = drawn(data.train_dataloader())
    assert sorted(Counter(rarest_classes(Several.labels > 0)[chosen].tolist()).items()) == [
        (-1, 6), (0, 6), (1, 6), (2, 6),
    ]  # fmt: skip


def test_hidden_labels_stay_unlabeled() -> None:
    data = uneven(balance=1.0, labels_per_class=3)
    assert len(drawn(data.train_dataloader())) == 9  # one of the twelve batches
    sampler = BalancedSampler(data.unlabeled_dataset.sampled_classes(), 1.0, seed=0)
    assert Counter(data.unlabeled_dataset.labels[list(sampler)].tolist()) == {0: 3, 1: 3, 2: 3, 3: 3, -1: 98}


def test_images_count_as_the_rarest_class_of_their_boxes(tmp_path: Path) -> None:
    write_coco(example(tmp_path), tmp_path)
    data = AnnotatedImagesDataModule(str(tmp_path), format="coco", val_fraction=0.0, balance=1.0, batch_size=1)
    data.setup()
    classes = data.train_dataset.sampled_classes()
    present = [set(data.train_dataset[i]["box_labels"].tolist()) for i in range(len(classes))]
    images = Counter(label for labels in present for label in labels)
    assert classes.tolist() == [min(labels, key=lambda k: (images[k], k), default=-1) for labels in present]


def test_source_domain_is_balanced() -> None:
    data = DomainAdaptationDataModule(
        Uneven(val_fraction=0.0, balance=1.0), Uneven(val_fraction=0.0), batch_size=10, num_workers=0
    )
    data.setup()
    batches = list(data.train_dataloader())
    sources = torch.bincount(torch.cat([batch["source"]["label"] for batch in batches]))
    assert sources.tolist() == [28, 28, 27, 27]
    targets = torch.cat([batch["target"]["index"] for batch in batches])
    assert len(targets.unique()) == 110
    with pytest.raises(ValueError, match=r"balance=0\.5: must be 0: the target's labels are not used"):
        DomainAdaptationDataModule(Uneven(), Uneven(balance=0.5))


def test_pairs_of_two_ranks_match_one_rank() -> None:
    classes = LABELS[:99]
    whole = list(PairSampler((99, 140), 1, classes=classes, balance=1.0))
    parts = [list(PairSampler((99, 140), 1, 2, rank, classes=classes, balance=1.0)) for rank in (0, 1)]
    assert np.array_equal(np.stack(parts, 1).reshape(-1, 2), np.array(whole))


@pytest.mark.parametrize("balance", [-0.1, 1.5])
def test_balance_out_of_range_is_refused(balance: float) -> None:
    with pytest.raises(ValueError, match=r"balance=.*must be a number from 0 to 1"):
        Uneven(balance=balance)


def test_images_without_classes_are_refused() -> None:
    class Unlabeled(Uneven):
        labels = torch.full((20,), -1)

    data = uneven(Unlabeled, balance=1.0)
    data.trainer = None
    with pytest.raises(ValueError, match=r"balance=1\.0: must be 0: no training image has a class"):
        data._sampled_classes(data.unlabeled_dataset)


def test_episodes_refuse_balance() -> None:
    with pytest.raises(ValueError, match="episodes draw every class equally often"):
        EpisodicDataModule(Uneven(balance=1.0))


def test_positions_of_many_classes() -> None:
    classes = np.arange(20_000) % 5_000
    order = balanced_positions(classes, 1.0, len(classes), np.random.RandomState(0))
    assert np.array_equal(np.sort(order), np.arange(len(classes)))
