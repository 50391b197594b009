import pytest
import torch
from torch import Tensor, nn

from lit_cv.nn.batch_statistics import batch_statistics


def test_subclass_with_another_forward_is_refused() -> None:
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with (
        pytest.raises(ValueError, match="WithActivation in the network cannot use the statistics of a task"),
        batch_statistics(WithActivation(2)),
    ):
        pass


@pytest.mark.parametrize("first", [None, 3])
def test_activations_of_timm_follow_the_statistics_of_the_batch(first: int | None) -> None:
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(2, act_layer=nn.SiLU).eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    norm.double()

    def output(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(norm, weights, (x,))

    reference = x[:first]
    mean, variance = reference.mean((0, 2, 3)), reference.var((0, 2, 3), correction=0)
    expected = nn.functional.silu(
        nn.functional.batch_norm(x, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
    )
    with batch_statistics(norm, first=first):
        weights = {name: value.detach() for name, value in norm.named_parameters()}
        torch.testing.assert_close(output(weights), expected)
        slopes = torch.func.grad(lambda values: output(values).sum())(weights)
    torch.testing.assert_close(slopes["bias"], torch.autograd.grad(expected.sum(), norm.bias)[0])
    assert norm.num_batches_tracked == 0
