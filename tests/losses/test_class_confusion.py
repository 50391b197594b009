"""Class confusion against its equations, written out for single images."""

import math

import pytest
import torch

from lit_cv.losses import class_confusion


def test_equals_its_equations() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3
    rows = [[math.exp(value / 1.5) for value in row] for row in logits.tolist()]
    p = [[value / sum(row) for value in row] for row in rows]
    weight = [1 + math.exp(sum(q * math.log(q) for q in row)) for row in p]
    weight = [len(p) * value / sum(weight) for value in weight]
    confusion = [
        [sum(w * row[j] * row[k] for w, row in zip(weight, p, strict=True)) for k in range(4)] for j in range(4)
    ]
    expected = sum(confusion[j][k] / sum(confusion[j]) for j in range(4) for k in range(4) if j != k) / 4
    assert float(class_confusion(logits, temperature=1.5)) == pytest.approx(expected, rel=1e-5)


def test_weights_of_images_carry_no_gradient() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    class_confusion(logits).backward()
    found = logits.grad
    p = (logits.detach() / 2.5).softmax(1)
    weight = 1 + (p * p.log()).sum(1).exp()
    again = logits.detach().clone().requires_grad_()
    q = (again / 2.5).softmax(1)
    correlation = torch.einsum("n,nj,nk->jk", weight / weight.mean(), q, q)
    (1 - (correlation.diagonal() / correlation.sum(1)).mean()).backward()
    torch.testing.assert_close(found, again.grad)


def test_uneven_classes_are_not_penalized() -> None:
    even, uneven = torch.eye(3)[[0, 0, 1, 1, 2, 2]], torch.eye(3)[[0, 0, 0, 0, 1, 2]]
    assert float(class_confusion(50 * even)) == pytest.approx(float(class_confusion(50 * uneven)), abs=1e-6)
    assert float(class_confusion(torch.zeros(4, 3))) == pytest.approx(2 / 3)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert class_confusion(logits).dtype == torch.float32
    torch.testing.assert_close(class_confusion(logits), class_confusion(logits.float()))


def test_invalid_input_is_refused() -> None:
    with pytest.raises(ValueError, match="of at least one image"):
        class_confusion(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="temperature=0"):
        class_confusion(torch.zeros(2, 3), temperature=0)
