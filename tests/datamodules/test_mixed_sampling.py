from typing import Any

import numpy as np
import pytest
import torch

from datamodules import DigitsDataModule, InMemoryDataset, ResumableLoader
from datamodules.mixed_sampling import MixedSampler
from lit_cv import SemiSupervisedModule

LABELED = torch.arange(50) % 5 == 0


def batches(sampler: MixedSampler) -> np.ndarray[Any, Any]:
    return np.array(list(sampler)).reshape(-1, sampler.batch_size * (1 + sampler.ratio))


def test_batches_hold_labeled_then_unlabeled_images() -> None:
    drawn = batches(MixedSampler(LABELED, batch_size=2, ratio=3, seed=0))
    assert drawn.shape == (6, 8)
    assert LABELED[drawn[:, :2]].all()
    assert not LABELED[drawn[:, 2:]].any()


def test_epoch_is_one_pass_and_labels_do_not_run_out() -> None:
    drawn = batches(MixedSampler(LABELED, batch_size=4, ratio=2, seed=0))
    assert len(np.unique(drawn[:, 4:])) == drawn[:, 4:].size == 40
    counts = np.bincount(drawn[:, :4].reshape(-1), minlength=50)[LABELED.numpy()]
    assert counts.tolist() == [2] * 10
    few = batches(MixedSampler(torch.arange(50) < 1, batch_size=4, ratio=2, seed=0))
    assert (few[:, :4] == 0).all()


def test_epoch_passes_through_labeled_images_where_there_are_more() -> None:
    drawn = batches(MixedSampler(torch.arange(50) < 40, batch_size=4, ratio=1, seed=0))
    assert len(np.unique(drawn[:, :4])) == 40
    assert len(np.unique(drawn[:, 4:])) == 10


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sampler, other = (MixedSampler(LABELED, 2, 3, seed=seed) for seed in (0, 1))
    first = list(sampler)
    assert list(sampler) == first != list(other)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_ranks_share_the_epoch() -> None:
    parts = [batches(MixedSampler(LABELED, 2, 3, seed=0, num_replicas=2, rank=rank)) for rank in (0, 1)]
    together = np.concatenate([part[:, 2:].reshape(-1) for part in parts])
    assert len(np.unique(together)) == len(together) == 36
    whole = batches(MixedSampler(LABELED, 4, 3, seed=0))
    joined = np.concatenate([part[:, :2] for part in parts], 1), np.concatenate([part[:, 2:] for part in parts], 1)
    assert np.array_equal(joined[0], whole[:, :4])
    assert np.array_equal(joined[1], whole[:, 4:])


def test_resume_continues_within_an_epoch() -> None:
    dataset = InMemoryDataset(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.where(LABELED, 1, -1))

    def loader() -> ResumableLoader:
        return ResumableLoader(dataset, batch_size=8, sampler=MixedSampler(LABELED, 2, 3, seed=0), drop_last=True)

    first = loader()
    iterator = iter(first)
    next(iterator)
    state, rest = first.state_dict(), [batch["index"].tolist() for batch in iterator]
    resumed = loader()
    resumed.load_state_dict(state)
    assert [batch["index"].tolist() for batch in resumed] == rest
    assert len(rest) == 5 == len(resumed) - 1


def test_balance_draws_rare_classes_as_often() -> None:
    classes = torch.tensor([0] * 9 + [1] + [-1] * 40)
    drawn = batches(MixedSampler(classes >= 0, 5, 2, classes, balance=1.0, seed=0))
    assert (classes[drawn[:, :5]] == 1).sum() == 10 == drawn[:, :5].size // 2


def test_datamodule_delivers_mixed_batches_without_hidden_labels() -> None:
    data = DigitsDataModule(batch_size=4, labels_per_class=2)
    data.setup()
    data.trainer = _TrainerOf(SemiSupervisedModule(backbone="conv4", unlabeled_ratio=3))  # type: ignore[assignment]
    for batch in data.train_dataloader():
        assert (batch["label"] >= 0).tolist() == [True] * 4 + [False] * 12
    kept = {int(i) for i in torch.nonzero(data.unlabeled_dataset.labels >= 0)}
    assert len(kept) == 20


def test_all_images_labeled_is_an_error() -> None:
    data = DigitsDataModule(batch_size=4)
    data.setup()
    data.trainer = _TrainerOf(SemiSupervisedModule(backbone="conv4"))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"have labels.*labels_per_class"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="both are needed"):
        MixedSampler(torch.ones(4, dtype=torch.bool), 1, 1)


class _TrainerOf:
    """What `train_dataloader` asks of a Trainer."""

    global_rank, world_size, num_devices = 0, 1, 1

    def __init__(self, module: SemiSupervisedModule) -> None:
        self.lightning_module = module
