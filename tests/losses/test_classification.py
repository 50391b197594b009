import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.losses import class_cross_entropy, label_cross_entropy

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 2, 3, 0])
WEIGHTS: list[Tensor | None] = [None, torch.tensor([0.2, 1.0, 0.0, 3.0])]


def mean(target: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    total, count = class_cross_entropy(LOGITS, target, weight, smoothing)
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_hard_and_one_hot_labels_equal_torch(weight: Tensor | None, smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, LABELS, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(mean(LABELS, weight, smoothing), expected)
    torch.testing.assert_close(mean(F.one_hot(LABELS, 4).float(), weight, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_unlabeled_images_do_not_count(weight: Tensor | None, smoothing: float) -> None:
    partly = LABELS.clone()
    partly[[1, 4]] = torch.tensor([-1, -3])
    kept = [0, 2, 3, 5]
    expected = F.cross_entropy(LOGITS[kept], LABELS[kept], weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(mean(partly, weight, smoothing), expected)
    rows = F.one_hot(LABELS, 4).float()
    rows[1], rows[4] = 0, -1
    torch.testing.assert_close(mean(rows, weight, smoothing), expected)


def test_mixed_image_counts_by_known_label_weight() -> None:
    rows = F.one_hot(LABELS, 4).float()
    rows[0] *= 0.25
    losses = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(mean(rows), (losses[0] * 0.25 + losses[1:].sum()) / 5.25)


def test_sum_and_divisor_are_zero_without_labels() -> None:
    for target in (torch.full((6,), -1), torch.zeros(6, 4)):
        logits = LOGITS.clone().requires_grad_()
        total, count = class_cross_entropy(logits, target)
        assert (float(total.detach()), float(count)) == (0, 0)
        total.backward()
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("weight", WEIGHTS)
def test_unknown_labels_do_not_count(weight: Tensor | None) -> None:
    target = torch.tensor([[1.0, 0, -1, 1], [torch.nan, -1, -1, -1], [0, 0, 1, 1]])
    each = F.binary_cross_entropy_with_logits(
        LOGITS[:3], target.nan_to_num(0).clamp_min(0), pos_weight=weight, reduction="none"
    )
    expected = torch.stack([each[0, [0, 1, 3]].mean(), torch.tensor(0.0), each[2].mean()])
    torch.testing.assert_close(label_cross_entropy(LOGITS[:3], target, weight), expected)
