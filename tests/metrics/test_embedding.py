import math

import pytest
import torch
import torch.nn.functional as F

from lit_cv.metrics import alignment, effective_rank, spread, uniformity


def test_alignment_equals_mean_squared_distance() -> None:
    a, b = torch.randn(50, 6), torch.randn(50, 6)
    expected = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).norm(dim=1).pow(2).mean()
    torch.testing.assert_close(alignment(a, b), expected)
    assert alignment(a, 2 * a).item() == pytest.approx(0, abs=1e-6)


def test_spread_equals_mean_over_pairs() -> None:
    z = torch.randn(20, 6).double()
    cosines = F.cosine_similarity(z[:, None], z[None], dim=2)
    assert spread(z).item() == pytest.approx(1 - (cosines.sum() - 20).item() / (20 * 19), abs=1e-5)
    near = F.normalize(torch.ones(50, 6), dim=1) + 1e-5 * torch.randn(50, 6)
    assert 1e-10 < spread(near).item() < 1e-9  # 1 minus a mean cosine in float32 is 0 or 6e-8
    with pytest.raises(ValueError, match="at least 2"):
        spread(z[:1])


@pytest.mark.parametrize("n", [5, 1500])
def test_uniformity_equals_published_code(n: int) -> None:
    z = torch.randn(n, 6)
    expected = torch.pdist(F.normalize(z, dim=1)).pow(2).mul(-2).exp().mean().log()  # the authors' published code
    torch.testing.assert_close(uniformity(z), expected)


def test_collapse_is_detected() -> None:
    same = torch.ones(100, 16) * torch.rand(100, 1)
    assert uniformity(same).item() == pytest.approx(0, abs=1e-5)
    assert effective_rank(same).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(4, 3)).item() == pytest.approx(1)
    assert math.isnan(effective_rank(torch.full((4, 3), math.nan)))


def test_effective_rank_counts_directions() -> None:
    orthogonal = torch.linalg.qr(torch.randn(40, 8))[0]
    assert effective_rank(orthogonal).item() == pytest.approx(8, rel=1e-4)
    assert effective_rank(orthogonal[:, :3] @ torch.linalg.qr(torch.randn(3, 3))[0]).item() == pytest.approx(
        3, rel=1e-4
    )
    p = torch.tensor([0.7, 0.2, 0.1])
    assert effective_rank(orthogonal[:, :3] * p).item() == pytest.approx((-(p * p.log()).sum()).exp().item(), rel=1e-4)


def test_uniformity_needs_two_embeddings() -> None:
    with pytest.raises(ValueError, match="1 embeddings"):
        uniformity(torch.ones(1, 3))
