import math

import pytest
import torch
from torch import Tensor

from lit_cv.losses import DistributionAlignment, build_threshold, fairness_loss

CONFIDENT = torch.tensor([[0.97, 0.02, 0.01], [0.96, 0.02, 0.02], [0.02, 0.96, 0.02], [0.5, 0.3, 0.2]])


def random_probabilities(seed: int, count: int = 8, classes: int = 4) -> Tensor:
    return (3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def test_fixed_threshold_never_moves() -> None:
    rule = build_threshold("fixed", 3, 4, confidence=0.9, decay=0.5)
    assert rule.observe(CONFIDENT, torch.arange(4)).tolist() == rule().tolist() == pytest.approx([0.9] * 3)
    assert not rule.state_dict()


def test_flex_threshold_follows_confident_predictions() -> None:
    rule = build_threshold("flex", 3, num_images=5, confidence=0.95, decay=0.0)
    assert rule.observe(CONFIDENT, torch.tensor([4, 1, 2, 0])).tolist() == [0.0, 0.0, 0.0]
    # Two images of class 0, one of class 1, two without a confident prediction: status 1, 1/2 and 0.
    assert rule().tolist() == pytest.approx([0.95, 0.95 * 0.5 / 1.5, 0.0])
    rule.observe(CONFIDENT[[2, 3]], torch.tensor([4, 1]))  # image 4 changes its class, image 1 is no longer confident
    assert rule().tolist() == pytest.approx([0.95 * 0.5 / 1.5, 0.95, 0.0])


def test_flex_threshold_loads_without_data() -> None:
    rule = build_threshold("flex", 3, num_images=5, confidence=0.95, decay=0.0)
    rule.observe(CONFIDENT, torch.arange(4))
    other = build_threshold("flex", 3, num_images=0, confidence=0.95, decay=0.0)
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other(), rule())


def test_flex_threshold_needs_positions() -> None:
    with pytest.raises(ValueError, match=r"flex.*needs a DataModule"):
        build_threshold("flex", 3, 0, 0.95, 0.0).observe(CONFIDENT, torch.arange(4))
    with pytest.raises(ValueError, match="an `index`"):
        build_threshold("flex", 3, 9, 0.95, 0.0).observe(CONFIDENT, torch.zeros(0, dtype=torch.int64))


def test_free_threshold_equals_its_formula() -> None:
    rule, decay, classes = build_threshold("free", 4, 0, confidence=0.0, decay=0.7), 0.7, 4
    confidence, mean = 1 / classes, [1 / classes] * classes
    for seed in range(5):
        batch = random_probabilities(seed)
        found = rule.observe(batch, torch.arange(8))
        confidence = decay * confidence + (1 - decay) * sum(max(row) for row in batch.tolist()) / 8
        mean = [decay * m + (1 - decay) * sum(column) / 8 for m, column in zip(mean, batch.T.tolist(), strict=True)]
        assert found.tolist() == pytest.approx([confidence * m / max(mean) for m in mean], rel=1e-5)
    assert torch.equal(rule(), found)


def test_fairness_loss_equals_its_formula() -> None:
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mask = torch.tensor([True, False, True] * 3)
    past, histogram = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.4, 0.0])
    rows = [row for row, kept in zip(logits.softmax(1).tolist(), mask.tolist(), strict=True) if kept]
    shares = [sum(row.index(max(row)) == k for row in rows) / len(rows) for k in range(3)]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def normalized(values: list[float], by: list[float]) -> list[float]:
        scaled = [v / b if b else 0.0 for v, b in zip(values, by, strict=True)]
        return [value / sum(scaled) for value in scaled]

    expected = zip(normalized(past.tolist(), histogram.tolist()), normalized(means, shares), strict=True)
    loss = fairness_loss(logits, mask, past, histogram)
    assert float(loss.detach()) == pytest.approx(sum(a * math.log(b + 1e-12) for a, b in expected), rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[~mask].abs().max() == 0 < logits.grad[mask].abs().max()


def test_fairness_loss_without_pseudo_labels_is_0() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = fairness_loss(logits, torch.zeros(4, dtype=torch.bool), *torch.full((2, 3), 1 / 3))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_alignment_equals_its_formula() -> None:
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4])
    alignment, batch = DistributionAlignment(expected, decay=0.9), random_probabilities(0)
    torch.testing.assert_close(alignment(batch), batch)  # nothing was predicted yet
    alignment.update(batch)
    past = [0.9 * e + 0.1 * sum(column) / 8 for e, column in zip(expected.tolist(), batch.T.tolist(), strict=True)]
    for found, row in zip(alignment(batch).tolist(), batch.tolist(), strict=True):
        scaled = [p * e / m for p, e, m in zip(row, expected.tolist(), past, strict=True)]
        assert found == pytest.approx([value / sum(scaled) for value in scaled], rel=1e-3)
