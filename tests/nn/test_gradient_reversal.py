import torch
from torch import nn

from lit_cv.nn import reverse_gradient


def test_gradient_is_negated_finite_difference() -> None:
    torch.manual_seed(0)
    features = nn.Linear(3, 4).double()
    behind = nn.Sequential(nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return behind(features(x)).square().mean()

    behind(reverse_gradient(features(x), 0.7)).square().mean().backward()
    for parameter, factor in ((features.weight, -0.7), (features.bias, -0.7), (behind[1].weight, 1.0)):
        for index in range(parameter.numel()):
            flat = parameter.detach().view(-1)
            kept = float(flat[index])
            flat[index] = kept + 1e-6
            up = float(loss().detach())
            flat[index] = kept - 1e-6
            down = float(loss().detach())
            flat[index] = kept
            expected = factor * (up - down) / 2e-6
            assert abs(float(parameter.grad.view(-1)[index]) - expected) < 1e-7


def test_forward_is_identity() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(reverse_gradient(x, 0.3), x)
