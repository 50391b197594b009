"""Entropy, diversity and balance of predictions against hand-worked values."""

import math

import pytest
import torch

from lit_cv.metrics import AnswerInformation


def computed(probabilities: list[list[float]], shares: list[float] | None = None) -> dict[str, float]:
    metric = AnswerInformation(len(probabilities[0]), None if shares is None else torch.tensor(shares))
    for row in probabilities:
        metric.update(torch.tensor([row]))
    return {name.removeprefix("target_"): float(value) for name, value in metric.compute().items()}


def test_balance_is_one_where_shares_are_as_expected() -> None:
    certain = [[1.0, 0.0]] * 3 + [[0.0, 1.0]]
    assert computed(certain, [3.0, 1.0])["balance"] == pytest.approx(1.0)
    assert computed(certain, [3.0, 1.0])["diversity"] == pytest.approx(
        -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    )
    even = [[1.0, 0.0], [0.0, 1.0]]
    assert computed(even)["balance"] == computed(even)["diversity"] == pytest.approx(1.0)
    divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert computed(even, [3.0, 1.0])["balance"] == pytest.approx(1 - divergence / math.log(2))


def test_balance_of_equal_shares_is_the_diversity() -> None:
    rows = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).softmax(1).tolist()
    values = computed(rows)
    assert values["balance"] == pytest.approx(values["diversity"], abs=1e-6)


def test_class_without_count_is_as_rare_as_the_rarest() -> None:
    values = computed([[0.5, 0.25, 0.25]], [2.0, 1.0, 0.0])
    assert values["balance"] == pytest.approx(1.0)


def test_no_predictions_give_nan() -> None:
    metric = AnswerInformation(3)
    with pytest.warns(UserWarning, match="compute"):
        values = metric.compute()
    assert all(math.isnan(value) for value in values.values())
