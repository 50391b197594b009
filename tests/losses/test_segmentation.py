"""Segmentation losses, compared with plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from lit_cv.losses import dice_loss, pixel_cross_entropy


def case(ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 5, 7, 6) * 2, torch.randint(4, (3, 7, 6))  # class 4 does not occur
    return logits, torch.where(torch.rand(3, 7, 6) < ignored, 255, target)


def test_cross_entropy_equals_torch_on_known_pixels() -> None:
    logits, target = case()
    torch.testing.assert_close(pixel_cross_entropy(logits, target), F.cross_entropy(logits, target, ignore_index=255))
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    torch.testing.assert_close(
        pixel_cross_entropy(logits, target, weight), F.cross_entropy(logits, target, weight, ignore_index=255)
    )


def test_dice_equals_loop() -> None:
    logits, target = case()
    p = logits.double().softmax(1)
    losses = []
    for kind in range(5):
        both = total = there = 0.0
        for n, y, x in (target != 255).nonzero().tolist():
            value, true = float(p[n, kind, y, x]), float(target[n, y, x] == kind)
            both, total, there = both + value * true, total + value + true, there + true
        if there:
            losses.append(1 - 2 * both / total)
    assert len(losses) == 4
    assert float(dice_loss(logits, target)) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, target = case()
    for loss in (pixel_cross_entropy, dice_loss):
        own = logits.clone().requires_grad_()
        loss(own, target).backward()
        norms = own.grad.abs().sum(1)
        assert norms[target == 255].max() == 0
        assert norms[target != 255].min() > 0


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_masks_without_known_pixels(loss: object) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), 255))  # type: ignore[operator]
    assert float(value.detach()) == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_losses_are_minimal_for_correct_predictions() -> None:
    target = case()[1]
    right = 40.0 * F.one_hot(target.where(target != 255, 0), 5).movedim(-1, 1)
    assert float(pixel_cross_entropy(right, target)) < 1e-6
    assert float(dice_loss(right, target)) < 1e-6
    assert float(dice_loss(-right, target)) > 0.7


def test_half_precision_is_computed_in_float32() -> None:
    logits, target = case()
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (pixel_cross_entropy, dice_loss):
            found = loss(logits.bfloat16(), target)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, loss(logits.bfloat16().float(), target))
