"""Reverse validation: right predictions teach what holds for the source, wrong ones do not."""

import pytest
import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv.metrics import reverse_validation


def digits() -> tuple[Tensor, Tensor]:
    data = DigitsDataModule(val_fraction=0.0)
    data.setup()
    batch = data.train_dataset.__getitems__(range(1200))
    return batch["image"], batch["label"]


@pytest.mark.slow
@pytest.mark.learns
def test_scores_rank_predictions_by_their_accuracy(seed: int) -> None:
    images, labels = digits()
    target, source = 255 - images[:800] // 2, images[800:]  # pale and inverted digits
    truth, known = labels[:800], labels[800:]
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.where(
        torch.rand(800, generator=generator) < 0.5, torch.randint(10, (800,), generator=generator), truth
    )
    merged = torch.where(truth > 4, truth - 5, truth)
    kinds = {"right": truth, "noisy": noisy, "merged": merged, "swapped": (truth + 1) % 10}
    scores = {
        name: reverse_validation(target, predicted, source, known, 10, seed=seed) for name, predicted in kinds.items()
    }
    means = {name: float(sum(values) / 2) for name, values in scores.items()}
    assert max(means, key=lambda name: means[name]) == "right", means
    assert scores["swapped"].source_accuracy < 0.2 < scores["right"].source_accuracy
    assert scores["noisy"].agreement < scores["right"].agreement


def test_scores_are_repeatable_and_leave_the_random_state() -> None:
    images, labels = digits()
    before = torch.get_rng_state()
    one, two = (reverse_validation(images[:90], labels[:90], images[90:180], labels[90:180], 10, steps=3) for _ in "ab")
    assert one == two
    assert torch.equal(torch.get_rng_state(), before)


def test_scores_within_inference_mode() -> None:
    images, labels = digits()
    expected = reverse_validation(images[:90], labels[:90], images[90:180], labels[90:180], 10, steps=3)
    with torch.inference_mode():
        found = reverse_validation(images[:90], labels[:90] + 0, images[90:180] + 0, labels[90:180], 10, steps=3)
    assert found == expected


@pytest.mark.slow
def test_agreement_on_a_single_class_counts_little() -> None:
    images, labels = digits()
    one = reverse_validation(images[:600], torch.zeros(600, dtype=torch.int64), images[600:700], labels[600:700], 10)
    assert float(one.agreement) == pytest.approx(0.1)


def test_large_images_are_reduced() -> None:
    images = torch.rand(6, 3, 80, 200)
    scores = reverse_validation(images, torch.zeros(6, dtype=torch.int64), images, torch.zeros(6), 3, steps=2)
    assert 0 <= float(scores.source_accuracy) <= 1


def test_errors() -> None:
    images, labels = torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 target and 1 source images: give at least two and one"):
        reverse_validation(images, labels, images, labels, 2)
