import random

import numpy as np
import pytest
import torch

from lit_cv.randomness import global_seed, seed_step

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), random.random(), np.random.rand()


def test_same_seed_gives_same_draws() -> None:
    seed_step(3, 1, 7, 0, CPU)
    first = draw()
    torch.rand(100), random.random(), np.random.rand(5)
    seed_step(3, 1, 7, 0, CPU)
    assert draw() == first


@pytest.mark.parametrize("other", [(4, 1, 7, 0), (3, 2, 7, 0), (3, 1, 8, 0), (3, 1, 7, 1), (3, 7, 1, 0)])
def test_different_seed_gives_different_draws(other: tuple[int, int, int, int]) -> None:
    seed_step(3, 1, 7, 0, CPU)
    first = draw()
    seed_step(*other, CPU)
    assert all(a != b for a, b in zip(first, draw(), strict=True))


def test_first_draws_are_uniform() -> None:
    values = []
    for batch in range(2000):
        seed_step(0, 0, batch, 0, CPU)
        values.append(torch.rand(()).item())
    histogram, _ = np.histogram(values, bins=10, range=(0, 1))
    chi2 = ((histogram - 200) ** 2 / 200).sum()
    assert chi2 < 27.9  # 99.9 % quantile with 9 degrees of freedom


def test_global_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert global_seed() == 17
