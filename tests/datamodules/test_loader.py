from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from datamodules import BaseDataModule, EpochSampler, InMemoryDataset, ResumableLoader, collate

SAMPLES, BATCH, EPOCHS = 22, 4, 3  # 5 batches per epoch, 2 samples dropped


class Counted(InMemoryDataset):
    """Records which samples are read."""

    reads: list[int]

    def read(self, rows: Any) -> dict[str, Any]:
        self.reads.extend(rows.tolist())
        return super().read(rows)


def numbered(count: int = SAMPLES) -> Counted:
    dataset = Counted(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.arange(count) % 2, ["a", "b"])
    dataset.reads = []
    return dataset


def indices(loader: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


class Numbers(BaseDataModule):
    def load(self, split: str) -> InMemoryDataset | None:
        return numbered() if split == "train" else numbered(6) if split == "val" else None


class Recorder(L.LightningModule):
    """Records the samples of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen: dict[int, list[int]] = {}
        self.last: list[bool] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert self.trainer.global_step not in self.seen
        self.seen[self.trainer.global_step] = batch["index"].tolist()
        self.last.append(self.trainer.is_last_batch)
        return self.layer(batch["image"].flatten(1).float()).mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(L.Callback):
    """Writes a checkpoint at each step, after each validation and at the end of each epoch."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, trainer: L.Trainer, kind: str) -> None:
        trainer.save_checkpoint(self.root / f"{kind}{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "step")

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "val")

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "epoch")


def fit(workers: int, root: Path | None = None, ckpt_path: Path | None = None, **options: Any) -> Recorder:
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=[SaveEverywhere(root)] if root else [], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip
    data = Numbers(batch_size=BATCH, num_workers=workers, val_fraction=0.0)
    trainer.fit(module, data, ckpt_path=str(ckpt_path) if ckpt_path else None, weights_only=True)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """Return an uninterrupted run with a checkpoint at every step and two at the end of every epoch."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "5")
        return fit(0, root), root


@pytest.fixture(autouse=True)
def _another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set another seed, which a resumed run must ignore in favor of the checkpoint's."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")


def test_an_epoch_uses_every_sample_at_most_once(whole: tuple[Recorder, Path]) -> None:
    seen = whole[0].seen
    assert len(seen) == 15
    epochs = [flat(seen[step] for step in range(5 * epoch, 5 * epoch + 5)) for epoch in range(EPOCHS)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    assert whole[0].last == [False, False, False, False, True] * EPOCHS


POSITIONS = [*(("step", step) for step in range(1, 15)), ("val", 5), ("val", 10), ("epoch", 5), ("epoch", 10)]


@pytest.mark.parametrize(("kind", "step"), POSITIONS)
def test_resume_is_exact(whole: tuple[Recorder, Path], kind: str, step: int) -> None:
    module, root = whole
    resumed = fit(0, ckpt_path=root / f"{kind}{step}.ckpt")
    assert resumed.seen == {key: value for key, value in module.seen.items() if key >= step}
    assert resumed.last == module.last[step:]


@pytest.mark.parametrize(("kind", "step"), [("step", 2), ("val", 5)])
def test_resume_with_other_workers(whole: tuple[Recorder, Path], kind: str, step: int, tmp_path: Path) -> None:
    module, root = whole
    first = fit(2, tmp_path, root / f"{kind}{step}.ckpt")
    assert first.seen == {key: value for key, value in module.seen.items() if key >= step}
    second = fit(0, ckpt_path=tmp_path / "step7.ckpt")
    assert second.seen == {key: value for key, value in module.seen.items() if key >= 7}


def test_limited_epochs_resume(whole: tuple[Recorder, Path], tmp_path: Path) -> None:
    uninterrupted = fit(0, tmp_path, limit_train_batches=3)
    for step in (1, 3, 4):
        resumed = fit(0, None, tmp_path / f"step{step}.ckpt", limit_train_batches=3)
        assert resumed.seen == {key: value for key, value in uninterrupted.seen.items() if key >= step}


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled:UserWarning")  # which is what is tried
@pytest.mark.parametrize("workers", [0, 2])
def test_overfit_batches_resume(tmp_path: Path, workers: int) -> None:
    uninterrupted = fit(0, tmp_path, overfit_batches=3).seen
    assert uninterrupted[0] == uninterrupted[3] == list(range(BATCH))
    for step in (1, 3, 4, 5) if workers == 0 else (4,):
        resumed = fit(workers, None, tmp_path / f"step{step}.ckpt", overfit_batches=3).seen
        assert resumed == {key: value for key, value in uninterrupted.items() if key >= step}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("consumed", [0, 1, 5, 6])
def test_state_outside_lightning(workers: int, consumed: int) -> None:
    loader = ResumableLoader(numbered(), BATCH, shuffle=True, num_workers=workers)
    batches = iter(loader)
    for _ in range(consumed):
        next(batches)
    state = loader.state_dict()
    assert all(type(value) is int for value in state.values())
    rest = [batch["index"].tolist() for batch in batches] + indices(loader)
    dataset = numbered()
    resumed = ResumableLoader(dataset, BATCH, shuffle=True)
    resumed.load_state_dict(state)
    assert len(resumed) == 6
    assert (indices(resumed) if consumed < 6 else []) + indices(resumed) == rest
    assert dataset.reads == flat(rest)  # no earlier sample was read


def test_seed_of_state_wins() -> None:
    loader = ResumableLoader(numbered(), BATCH, shuffle=True, seed=1)
    batches = iter(loader)
    next(batches)
    other = ResumableLoader(numbered(), BATCH, shuffle=True, seed=2)
    other.load_state_dict(loader.state_dict())
    assert indices(other) == [batch["index"].tolist() for batch in batches]


def test_set_epoch_after_load_wins() -> None:
    loader = ResumableLoader(numbered(), BATCH, shuffle=True)
    next(iter(loader))
    other = ResumableLoader(numbered(), BATCH, shuffle=True)
    other.load_state_dict(loader.state_dict())
    other.sampler.set_epoch(1)  # type: ignore[attr-defined]
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert indices(other) == indices(loader)


def test_abandoned_epoch_starts_again() -> None:
    loader = ResumableLoader(numbered(), BATCH, shuffle=True)
    first = next(iter(loader))["index"].tolist()
    assert indices(loader)[0] == first
    assert indices(loader)[0] != first  # a finished pass is not repeated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 5}, "batch_size=4.*batch_size=5"),
        ({"num_replicas": 2}, "world_size=1.*world_size=2"),
        ({"dataset": numbered(30)}, "22 samples.*30"),
    ],
)
def test_mismatched_state_is_refused(change: dict[str, Any], message: str) -> None:
    loader = ResumableLoader(numbered(), BATCH, shuffle=True)
    next(iter(loader))
    other = ResumableLoader(**{"dataset": numbered(), "batch_size": BATCH, "shuffle": True} | change)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(loader.state_dict())


@pytest.mark.parametrize("size", [1, 7, 8, 9, 23])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_samples_are_distributed_over_ranks(size: int, world: int) -> None:
    def shards(shuffle: bool, drop_last: bool = False) -> list[list[int]]:
        samplers = [EpochSampler(size, shuffle, 0, world, rank, drop_last) for rank in range(world)]
        parts = [list(sampler) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        return parts

    assert sorted(flat(shards(shuffle=False))) == list(range(size))
    padded, dropped = shards(shuffle=True), shards(shuffle=True, drop_last=True)
    assert len({len(part) for part in padded}) == len({len(part) for part in dropped}) == 1
    assert set(flat(padded)) == set(range(size))
    assert len(set(flat(dropped))) == len(flat(dropped)) == size // world * world


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(np.random.randint(1000))
        sampler = EpochSampler(9, True, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == [7, 3, 5, 0, 8, 2, 6, 1, 4]  # the same on every machine
    assert order(1, 2) == order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_seed_comes_from_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    assert EpochSampler(3, True).seed == 12
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert EpochSampler(3, True).seed == 0


def test_offset() -> None:
    sampler = EpochSampler(9, True, 3)
    whole = list(sampler)
    sampler.offset = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == 9


def test_collate() -> None:
    samples = [{"image": torch.ones(1, 2, 2), "label": 3, "boxes": torch.zeros(n, 4)} for n in (1, 2)]
    batch = collate(samples)
    assert batch["image"].shape == (2, 1, 2, 2)
    assert batch["label"].tolist() == [3, 3]
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 2]
    assert collate(batch) is batch
