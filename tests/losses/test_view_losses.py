"""Losses of approaches that compare views: values and gradients of lightly 1.6.0, closed forms and plain formulas."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.losses import (
    barlow_twins_terms,
    cosine_loss,
    info_nce,
    self_distillation_loss,
    sigreg,
    sinkhorn_assignments,
    vicreg_terms,
)
from lit_cv.losses.cross_products import off_diagonal_energy

QUEUE = F.normalize(torch.cos(torch.arange(160.0).view(10, 16)), dim=1)
DIRECTIONS = torch.cos(torch.arange(80.0).view(16, 5))
CENTER = torch.linspace(-1, 1, 16)


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 16), torch.randn(8, 16)


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    invariance, variance, covariance = vicreg_terms(torch.stack([a, b]))
    return 25 * invariance + 25 * variance + covariance


def barlow_twins(a: Tensor, b: Tensor) -> Tensor:
    invariance, redundancy = barlow_twins_terms(a, b)
    return invariance + 0.005 * redundancy


def dino(a: Tensor, b: Tensor) -> Tensor:
    teacher = ((torch.stack(inputs()) - CENTER) / 0.5).softmax(-1)
    return self_distillation_loss(torch.stack([a, b, a - b]) / 5, teacher, 0.1)


# Value of lightly's loss for `inputs()`, and the first elements of its gradient for the first view.
REFERENCE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, list[float]]] = {
    "VICReg": (vicreg, 46.390873, [-0.07524461, -0.37408602, 0.26824096]),
    "VICReg, few dimensions": (
        lambda a, b: vicreg(a[:, :4], b[:, :4]),
        38.41246,
        [-0.00307435, -1.16119826, 1.09769928],
    ),
    "Barlow Twins": (barlow_twins, 16.007788, [0.22535911, 0.02763424, 0.72310048]),
    "Barlow Twins, few dimensions": (
        lambda a, b: barlow_twins(a[:, :4], b[:, :4]),
        4.120634,
        [0.22716255, 0.02738659, 0.72300011],
    ),
    "MoCo": (lambda a, b: info_nce(a, b, 0.2, QUEUE), 2.371036, [0.04003729, -0.00842234, 0.00984339]),
    "DINO": (dino, 4.588371, [-0.00217955, -0.00355259, -0.0021349]),
    "LeJEPA": (
        lambda a, b: sigreg(torch.stack([a, b]), DIRECTIONS),
        0.733919,
        [0.04682599, -0.03064219, -0.06421005],
    ),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_values_and_gradients(name: str) -> None:
    loss, value, gradient = REFERENCE[name]
    a, b = (z.requires_grad_() for z in inputs())
    result = loss(a, b)
    result.backward()
    assert result.item() == pytest.approx(value, rel=2e-6)
    assert a.grad is not None
    assert a.grad[0, :3].tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", REFERENCE)
def test_half_precision_and_autocast_compute_in_float32(name: str) -> None:
    loss = REFERENCE[name][0]
    a, b = (z.bfloat16() for z in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(a, b)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(a.float(), b.float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("rows", [3, 9])
def test_off_diagonal_energy(rows: int) -> None:
    """The energy is that of the explicit product, for more columns than rows and for fewer."""
    a, b = (torch.randn(rows, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    product = a.T @ b
    torch.testing.assert_close(off_diagonal_energy(a, b), product.square().sum() - product.diagonal().square().sum())
    assert torch.autograd.gradcheck(off_diagonal_energy, (a.requires_grad_(), b.requires_grad_()))


def test_vicreg_of_ideal_embeddings_is_zero() -> None:
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * 2  # uncorrelated, standard deviation above 1
    terms = vicreg_terms(signs.expand(3, 4, 2))
    assert [term.item() for term in terms] == pytest.approx([0, 0, 0], abs=1e-6)


def test_vicreg_terms_of_several_views_average_over_pairs() -> None:
    a, b = inputs()
    views = torch.stack([a, b, a - b])
    invariance = (F.mse_loss(a, b) + F.mse_loss(a, a - b) + F.mse_loss(b, a - b)) / 3
    covariance = sum(
        (torch.cov(view.T) - torch.diag(torch.cov(view.T).diagonal())).square().sum() / 16 for view in views
    )
    terms = vicreg_terms(views)
    torch.testing.assert_close(terms[0], invariance)
    torch.testing.assert_close(terms[2], torch.as_tensor(covariance) * 2 / 3)


def test_barlow_twins_of_decorrelated_equal_views_is_zero() -> None:
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert [term.item() for term in barlow_twins_terms(signs, 3 * signs + 1)] == pytest.approx([0, 0], abs=1e-4)


def test_cosine_loss_stops_gradient_of_targets() -> None:
    a, b = (z.requires_grad_() for z in inputs())
    loss = cosine_loss(a, b)
    loss.backward()
    distance = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(loss, distance)
    assert a.grad is not None
    assert b.grad is None


def test_info_nce_of_batch_is_cross_entropy() -> None:
    queries, keys = (z.requires_grad_() for z in inputs())
    loss = info_nce(queries, keys, 0.1)
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / 0.1
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(8)))
    loss.backward()
    assert keys.grad is None
    with pytest.raises(ValueError, match="temperature=0"):
        info_nce(queries, keys, 0)


def test_self_distillation_skips_pairs_of_the_same_view() -> None:
    student, teacher = torch.randn(4, 3, 5), torch.randn(2, 3, 5).softmax(-1)
    terms = [
        -(teacher[t] * (student[s] / 0.2).log_softmax(-1)).sum(-1).mean() for t in range(2) for s in range(4) if s != t
    ]
    torch.testing.assert_close(self_distillation_loss(student, teacher, 0.2), torch.stack(terms).mean())


def test_sinkhorn_assignments_of_reference() -> None:
    """The values are those of lightly's `sinkhorn` with epsilon 0.5."""
    expected = [[0.5743, 0.1551, 0.2706], [0.2022, 0.0290, 0.7688], [0.4675, 0.4838, 0.0487], [0.1013, 0.6356, 0.2631]]
    torch.testing.assert_close(
        sinkhorn_assignments(inputs()[0][:4, :3] / 0.5), torch.tensor(expected), rtol=0, atol=5e-5
    )


def test_sinkhorn_assignments_are_balanced() -> None:
    shares = sinkhorn_assignments(20 * inputs()[0][:, :4], iterations=200)
    torch.testing.assert_close(shares.sum(0), torch.full((4,), 2.0), rtol=0, atol=0.05)
    torch.testing.assert_close(shares.sum(1), torch.ones(8))
    extreme = sinkhorn_assignments(torch.tensor([[1e4, 0.0], [1e4, 0.0]]))
    assert torch.isfinite(extreme).all()


def test_sigreg_of_distributions() -> None:
    """It is smallest for a normal distribution of unit variance."""
    normal = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    values = [sigreg(z, directions).item() for z in (normal, normal * 1.5, normal.sign(), normal * 0)]
    assert values[0] < 2
    assert min(values[1:]) > 20
    t = torch.linspace(-3, 3, 20001)
    integral = torch.trapezoid((1 - (-t.square() / 2).exp()).square() * (-t.square() / 2).exp(), t)
    assert values[-1] == pytest.approx(  # of a collapse
        2000 * float(integral), rel=0.02
    )


def test_sigreg_in_parts_equals_plain_formula() -> None:
    """With more angles than fit into the cache, value and gradient are those of the formula."""
    z = torch.randn(2, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    directions = torch.randn(8, 900, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    angles = (z @ F.normalize(directions, dim=0))[..., None] * t
    normal = (-t.square() / 2).exp()
    error = (angles.cos().mean(1) - normal).square() + angles.sin().mean(1).square()
    expected = 2 * 40 * torch.trapezoid(error * normal, t, dim=-1).mean()
    loss = sigreg(z, directions)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (loss, expected)))


def test_minimum_of_self_distillation_is_entropy() -> None:
    teacher = torch.full((2, 1, 4), 0.25)
    assert self_distillation_loss(torch.zeros(3, 1, 4), teacher, 0.1).item() == pytest.approx(math.log(4))
