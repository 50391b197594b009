"""MMD and CORAL, compared with double loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from lit_cv.losses import CORALLoss, MMDLoss, coral, mmd


def features(n: int, d: int = 3, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def distance(a: Tensor, b: Tensor) -> float:
    return sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))


def plain_kernel(layers: list[tuple[Tensor, Tensor]], middles: list[float], kernels: int, factor: float):
    """Return the kernel as a function of the indices of two points in the joined source and target."""
    points = [torch.cat(pair).double() for pair in layers]

    def kernel(i: int, j: int) -> float:
        product = 1.0
        for z, middle in zip(points, middles, strict=True):
            d = distance(z[i], z[j])
            product *= sum(math.exp(-d / (middle * factor ** (k - kernels // 2))) for k in range(kernels)) / kernels
        return product

    return kernel


def mean_distance(pair: tuple[Tensor, Tensor]) -> float:
    z = torch.cat(pair).double()
    n = len(z)
    return sum(distance(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


def plain_unbiased(layers: list[tuple[Tensor, Tensor]], bandwidth: float | None, kernels: int, factor: float) -> float:
    middles = [bandwidth or mean_distance(pair) for pair in layers]
    k = plain_kernel(layers, middles, kernels, factor)
    n, m = len(layers[0][0]), len(layers[0][1])
    total = sum(k(i, j) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    total += sum(k(n + i, n + j) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    if n == m:
        return total - 2 * sum(k(i, n + j) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return total - 2 * sum(k(i, n + j) for i in range(n) for j in range(m)) / (n * m)


@pytest.mark.parametrize("m", [7, 5])
@pytest.mark.parametrize("bandwidth", [None, 2.0])
@pytest.mark.parametrize("kernels", [1, 5])
def test_unbiased_mmd_equals_loop(m: int, bandwidth: float | None, kernels: int) -> None:
    x, y = features(7), features(m, seed=1, shift=0.4)
    expected = plain_unbiased([(x, y)], bandwidth, kernels, 1.5)
    assert float(MMDLoss(kernels, 1.5, bandwidth)(x, y)) == pytest.approx(expected, abs=2e-6)


def test_joint_mmd_equals_loop() -> None:
    layers = [(features(6), features(6, seed=1)), (features(6, 2, seed=2), features(6, 2, seed=3, shift=1.0))]
    expected = plain_unbiased(layers, None, 3, 2.0)
    found = mmd([x for x, _ in layers], [y for _, y in layers], kernels=3)
    assert float(found) == pytest.approx(expected, abs=2e-6)
    assert float(found) != pytest.approx(sum(float(mmd(x, y, kernels=3)) for x, y in layers), abs=1e-3)


def test_linear_mmd_equals_loop() -> None:
    x, y = features(9), features(8, seed=1, shift=0.5)
    pairs = [(x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]) for i in range(4)]
    found = [[distance(a, b) for a, b in ((p, q), (r, s), (p, s), (q, r))] for p, q, r, s in pairs]
    middle = sum(map(sum, found)) / 16
    k = [[(math.exp(-d / (0.5 * middle)) + math.exp(-d / middle)) / 2 for d in row] for row in found]
    expected = sum(row[0] + row[1] - row[2] - row[3] for row in k) / 4
    assert float(MMDLoss(kernels=2, estimator="linear")(x, y)) == pytest.approx(expected, abs=1e-6)


def test_gradients_equal_finite_differences() -> None:
    x, y = features(5), features(5, seed=1, shift=0.5)
    moving = x.clone().requires_grad_()
    MMDLoss(bandwidth=2.0)(moving, y).backward()
    step = torch.zeros_like(x)
    for i, j in ((0, 0), (3, 2)):
        step.zero_()[i, j] = 1e-3
        up, down = (plain_unbiased([(x + s * step, y)], 2.0, 5, 2.0) for s in (1, -1))
        assert float(moving.grad[i, j]) == pytest.approx((up - down) / 2e-3, rel=1e-3)


@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_mmd_is_zero_for_equal_samples_and_grows_with_shift(estimator: str) -> None:
    x = features(64)
    loss = MMDLoss(estimator=estimator)
    if estimator == "unbiased":
        assert float(loss(x, x)) == pytest.approx(0, abs=1e-6)
    values = [float(loss(x, features(64, seed=1, shift=shift))) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values)
    assert values[-1] > 0.5


@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_mmd_is_unbiased(estimator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 2, 8, 2, generator=generator)
    values = torch.stack([mmd(x, y, bandwidth=2.0, estimator=estimator) for x, y in draws])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    assert float(values.min()) < 0 < float(values.max())


def test_equal_points_give_no_nan() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    MMDLoss()(x, torch.zeros(4, 3)).backward()
    assert torch.equal(x.grad, torch.zeros(4, 3))


def test_half_precision_is_computed_in_float32() -> None:
    x, y = features(16), features(16, seed=1, shift=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mmd(x.bfloat16(), y.bfloat16())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(mmd(x.bfloat16().float(), y.bfloat16().float())), abs=1e-7)


def test_coral() -> None:
    x, y = features(9), 2 * features(6, seed=1)
    expected = (torch.cov(x.double().T) - torch.cov(y.double().T)).square().sum() / (4 * 9)
    assert float(CORALLoss()(x, y)) == pytest.approx(float(expected), rel=1e-5)
    assert float(coral(x, x + 5)) == pytest.approx(0, abs=1e-10)


def test_invalid_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        mmd(features(4), features(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        coral(features(1), features(4))
    with pytest.raises(ValueError, match="give the same number of each"):
        mmd([features(4)], [features(4), features(4)])
    for options in ({"kernels": 0}, {"factor": 1.0}, {"bandwidth": 0.0}, {"estimator": "biased"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MMDLoss(**options)
