"""The whitening layer and the network that starts with it."""

import copy
from pathlib import Path

import torch

from lit_cv.nn import MovingAverage, create_backbone
from lit_cv.nn.whitening import WhiteningConv2d
from tests.processes import run_ranks


def images(count: int = 64) -> torch.Tensor:
    """Return images with correlated pixels and channels, (count, 3, 12, 12)."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return noise + noise.roll(1, 1) + noise.roll(1, 2) + noise.roll(1, 3)


def test_outputs_are_white_after_the_first_training_batch() -> None:
    layer = WhiteningConv2d(3, epsilon=0.0)
    outputs = layer(images()).detach().double()
    half, negative = outputs.chunk(2, 1)
    torch.testing.assert_close(negative, -half)
    values = half.permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(values @ values.T / values.shape[1], torch.eye(12).double(), atol=1e-4, rtol=0)


def _set_on_a_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(rank)
    layer = WhiteningConv2d(3)
    layer(images()[[slice(40), slice(40, 64)][rank]])
    torch.save(layer.weight, Path(folder) / f"{rank}.pt")


def test_ranks_have_the_filters_of_all_images(tmp_path: Path) -> None:
    run_ranks(_set_on_a_rank, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    alone = WhiteningConv2d(3)
    alone(images())
    torch.testing.assert_close(first.flatten(1).abs(), alone.weight.flatten(1).abs(), rtol=1e-3, atol=1e-4)


def test_filters_stay_and_are_saved() -> None:
    layer = WhiteningConv2d(3)
    initial = layer.weight.clone()
    layer.eval()(images())
    assert torch.equal(layer.weight, initial)
    layer.train()(images())
    weight = layer.weight.clone()
    assert not torch.equal(weight, initial)
    restored = WhiteningConv2d(3)
    restored.load_state_dict(layer.state_dict())
    for each in (layer, restored, copy.deepcopy(layer)):
        each.train()(images().flip(0)[:8])
        assert torch.equal(each.weight, weight)


def test_only_the_bias_is_trained() -> None:
    layer = WhiteningConv2d(1)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    layer(images()[:, :1]).square().mean().backward()
    assert layer.bias.grad is not None


def test_moving_average_has_the_filters_of_its_network() -> None:
    layer = WhiteningConv2d(3)
    average = MovingAverage(layer)
    average(images())
    layer(images())
    average.update(0.99)
    assert torch.equal(average.module.weight, layer.weight)
    assert bool(average.module.is_set)


def test_airbench_starts_as_identity_of_leading_channels() -> None:
    body = create_backbone("airbench_small", in_channels=3, image_size=32).body
    convolutions = [module for module in body.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [tuple(each.weight.shape[:2]) for each in convolutions] == [
        (32, 24), (32, 32), (128, 32), (128, 128), (128, 128), (128, 128)
    ]  # fmt: skip
    x = torch.randn(1, 32, 5, 5)
    torch.testing.assert_close(convolutions[2](x)[:, :32], x)
