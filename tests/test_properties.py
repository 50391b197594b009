"""Properties that hold for every size, number of ranks and resume position."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import InMemoryDataset, ResumableLoader
from datamodules.domain_pairs import PairSampler
from datamodules.episodes import EpisodeSampler
from datamodules.loader import EpochSampler
from datamodules.splits import hold_out, keep_labels
from lit_cv.annotations import decode_rle, encode_rle
from lit_cv.annotations.rle import outline_box
from lit_cv.augment import OPERATIONS, build_operations, mix_labels

FEW = settings(max_examples=30, derandomize=True, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
# The first changes the image size, the second draws when it is applied.
AUGMENTATIONS = [name for name in OPERATIONS if name not in ("random_resized_crop", "gaussian_noise")]


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(1, 7), SEEDS, st.integers(0, 5), st.booleans())
@FEW
def test_sampler_splits_samples_over_ranks(size: int, ranks: int, seed: int, epoch: int, drop: bool) -> None:
    orders = []
    for rank in range(ranks):
        sampler = EpochSampler(size, True, seed, ranks, rank, drop)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(sampler) == len(orders[-1])
    drawn = [position for order in orders for position in order]
    assert len({len(order) for order in orders}) == 1
    assert drop or set(drawn) == set(range(size))
    assert not drop or len(set(drawn)) == len(drawn) == size // ranks * ranks
    unshuffled = [position for rank in range(ranks) for position in EpochSampler(size, False, seed, ranks, rank)]
    assert sorted(unshuffled) == list(range(size))


@given(st.integers(1, 30), st.integers(1, 8), st.booleans(), SEEDS, st.data())
@FEW
def test_loader_resumes_at_any_batch(size: int, batch: int, drop: bool, seed: int, data: Any) -> None:
    dataset = InMemoryDataset(torch.zeros(size, 1, 1, 1, dtype=torch.uint8), torch.arange(size))

    def loader() -> ResumableLoader:
        return ResumableLoader(dataset, batch, shuffle=True, drop_last=drop, seed=seed)

    epoch = [b["index"].tolist() for b in loader()]
    if not epoch:
        return
    stop = data.draw(st.integers(1, len(epoch)))
    interrupted = loader()
    iterator = iter(interrupted)
    before = [next(iterator)["index"].tolist() for _ in range(stop)]
    state = interrupted.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    after = [b["index"].tolist() for b in resumed] if stop < len(epoch) else []
    assert before + after == epoch


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), SEEDS)
@FEW
def test_pairs_use_samples_equally_often(source: int, target: int, ranks: int, seed: int) -> None:
    pairs = np.concatenate([PairSampler((source, target), seed, ranks, rank).order() for rank in range(ranks)])
    for column, size in zip(pairs.T, (source, target), strict=True):
        counts = np.bincount(column, minlength=size)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == size


@given(st.integers(1, 40), st.integers(1, 5), SEEDS, st.integers(0, 3))
@FEW
def test_episodes_differ_between_ranks(size: int, ranks: int, seed: int, epoch: int) -> None:
    episodes = []
    for rank in range(ranks):
        sampler = EpisodeSampler(size, seed, ranks, rank)
        sampler.set_epoch(epoch)
        episodes += list(sampler)
    assert len(set(episodes)) == len(episodes)


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=60), st.floats(0, 0.99), SEEDS)
@FEW
def test_splits_keep_all_classes_and_samples(labels: list[int], fraction: float, seed: int) -> None:
    tensor = torch.tensor(labels)
    kept, held = hold_out(tensor, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert set(tensor[kept].tolist()) == set(labels)
    assert (tensor[held] >= 0).all()
    for per_class in (1, 3):
        few = keep_labels(tensor, per_class, None, seed)
        counts = np.bincount(tensor[few].numpy(), minlength=6)
        assert counts.tolist() == [min(per_class, labels.count(label)) for label in range(6)]


@given(st.integers(1, 12), st.integers(1, 12), SEEDS)
@FEW
def test_rle_round_trip(height: int, width: int, seed: int) -> None:
    mask = np.random.RandomState(seed).rand(height, width) < 0.4
    code = encode_rle(mask)
    assert np.array_equal(decode_rle(code), mask)
    y, x = np.nonzero(mask)
    assert outline_box(code) == ((x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 0, 0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(
    n=st.integers(0, 3),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=SEEDS,
)
@settings(FEW, max_examples=15)
def test_augmentations_accept_any_batch(name: str, n: int, channels: int, height: int, width: int, seed: int) -> None:
    chain = build_operations([name])
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)
    before = images.clone()
    params = chain.draw(images)
    result = chain.apply(images, params)
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(chain.apply(images, params), result)
    floats = chain.apply(images.float() / 255, params)
    assert ((floats >= 0) & (floats <= 1 + 1e-6)).all()


@given(st.integers(1, 6), st.integers(2, 5), SEEDS)
@FEW
def test_mixed_labels_sum_to_one(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    mixed = mix_labels(torch.nn.functional.one_hot(labels, classes).float(), torch.rand(n, generator=generator))
    torch.testing.assert_close(mixed.sum(1), torch.ones(n))
    assert (mixed >= 0).all()
