import numpy as np
import pytest
import torch

from datamodules.splits import hold_out, keep_labels

LABELS = torch.tensor([0] * 7 + [1] * 100 + [2] * 33 + [-1] * 10)[
    torch.randperm(150, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_hold_out_is_a_stratified_partition(fraction: float) -> None:
    kept, held = hold_out(LABELS, fraction, seed=3)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(150))
    assert len(held) == round(140 * fraction)
    assert (LABELS[held] >= 0).all()
    for label, size in enumerate((7, 100, 33)):
        assert abs(int((LABELS[held] == label).sum()) - fraction * size) < 1


def test_choices_depend_on_the_seed_and_the_purpose() -> None:
    choices = [hold_out(LABELS, 0.3, seed, purpose)[1].tolist() for seed in (0, 1) for purpose in (0, 2)]
    assert len({tuple(choice) for choice in choices}) == 4
    assert hold_out(LABELS, 0.3, 0)[1].tolist() == choices[0]


def test_choices_are_the_same_on_every_machine() -> None:
    labels = torch.arange(20) % 2
    assert hold_out(labels, 0.3, seed=0)[1].tolist() == [0, 2, 3, 9, 12, 15]


def test_each_class_keeps_a_sample() -> None:
    kept, held = hold_out(torch.tensor([0, 1, 1, 1, 1]), 0.9, seed=0)
    assert 0 in kept
    assert len(held) == 3


@pytest.mark.parametrize(("per_class", "expected"), [(1, [1, 1, 1]), (10, [7, 10, 10]), (1000, [7, 100, 33])])
def test_labels_per_class(per_class: int, expected: list[int]) -> None:
    chosen = keep_labels(LABELS, per_class, None, seed=0)
    assert torch.bincount(LABELS[chosen]).tolist() == expected


@pytest.mark.parametrize(("fraction", "expected"), [(0.001, [1, 1, 1]), (0.2, [1, 20, 7]), (1.0, [7, 100, 33])])
def test_label_fraction(fraction: float, expected: list[int]) -> None:
    chosen = keep_labels(LABELS, None, fraction, seed=0)
    assert torch.bincount(LABELS[chosen]).tolist() == expected


def test_more_labels_extend_fewer() -> None:
    few, more = (set(keep_labels(LABELS, count, None, seed=0).tolist()) for count in (2, 5))
    assert few < more


def test_choices_match_per_class_reference() -> None:
    labels = torch.from_numpy(np.random.RandomState(0).randint(-1, 40, 700))

    def by_class(seed: int, purpose: int) -> list[np.ndarray]:
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, purpose])))
        return [random.permutation(np.flatnonzero(labels.numpy() == label)) for label in range(40)]

    few = np.sort(np.concatenate([own[:3] for own in by_class(5, 1)]))
    assert np.array_equal(keep_labels(labels, 3, None, seed=5), few)
    held = hold_out(labels, 0.3, seed=2)[1]
    counts = np.bincount(labels[held], minlength=40)
    again = np.sort(np.concatenate([own[:n] for own, n in zip(by_class(2, 0), counts, strict=True)]))
    assert np.array_equal(held, again)
