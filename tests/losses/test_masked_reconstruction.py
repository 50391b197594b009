"""The reconstruction loss, compared with a computation in double precision."""

import numpy as np
import pytest
import torch

from lit_cv.losses import MaskedReconstructionLoss


def independent(prediction, target, mask, norm_pix):
    total, count = 0.0, 0
    for p, t, row in zip(prediction.double().numpy(), target.double().numpy(), mask.numpy(), strict=True):
        for patch, pixels, hidden in zip(p, t, row, strict=True):
            if not hidden:
                continue
            if norm_pix:
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            total += float(((patch - pixels) ** 2).mean())
            count += 1
    return total / count


def example(n=3, length=7, dim=12):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(n, length, dim, generator=generator)
    target = torch.rand(n, length, dim, generator=generator)
    return prediction, target, torch.rand(n, length, generator=generator) < 0.7


@pytest.mark.parametrize("norm_pix", [False, True])
def test_equals_independent_computation(norm_pix):
    prediction, target, mask = example()
    loss = MaskedReconstructionLoss(norm_pix)(prediction, target, mask)
    assert float(loss) == pytest.approx(independent(prediction, target, mask, norm_pix), rel=1e-5)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("norm_pix", [False, True])
def test_only_hidden_patches_count(norm_pix):
    prediction, target, mask = example()
    loss = MaskedReconstructionLoss(norm_pix)
    shown = ~mask[..., None]
    changed = loss(torch.where(shown, 9.0, prediction), torch.where(shown, -5.0, target), mask)
    assert torch.equal(changed, loss(prediction, target, mask))
    assert not torch.equal(loss(prediction + mask[..., None], target, mask), changed)


def test_all_patches_count_without_mask():
    prediction, target, mask = example()
    loss = MaskedReconstructionLoss()
    torch.testing.assert_close(loss(prediction, target), loss(prediction, target, torch.ones_like(mask)))


def test_norm_pix_is_invariant_to_brightness_and_contrast():
    prediction, target, mask = example()
    loss = MaskedReconstructionLoss()
    torch.testing.assert_close(
        loss(prediction, 3 * target + 2, mask), loss(prediction, target, mask), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computed_in_float32(dtype):
    prediction, target, mask = example()
    prediction[0, 0] = 300.0  # its square overflows float16
    with torch.autocast("cpu", torch.bfloat16):
        loss = MaskedReconstructionLoss(False)(prediction.to(dtype), target.to(dtype), torch.ones_like(mask))
    assert loss.dtype == torch.float32
    exact = independent(prediction.to(dtype).float(), target.to(dtype).float(), torch.ones_like(mask), False)
    assert float(loss) == pytest.approx(exact, rel=1e-5)


def test_constant_patch_is_finite():
    loss = MaskedReconstructionLoss()(torch.zeros(1, 1, 12), torch.full((1, 1, 12), 0.5))
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_mismatched_shapes_are_refused():
    prediction, target, mask = example()
    with pytest.raises(ValueError, match=r"prediction \(3, 7, 12\), target \(3, 6, 12\), mask None"):
        MaskedReconstructionLoss()(prediction, target[:, 1:])
    with pytest.raises(ValueError, match=r"mask \(3, 6\)"):
        MaskedReconstructionLoss()(prediction, target, mask[:, 1:])
