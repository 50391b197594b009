"""Moving averages: updates, BatchNorm statistics, copies and state dicts."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_cv.nn import MovingAverage, cosine_decay
from lit_cv.optim import parameter_groups


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2))


class Parent(nn.Module):
    def __init__(self, statistics: Any = "own") -> None:
        super().__init__()
        self.backbone = network()
        self.backbone(images())
        self.target = MovingAverage(self.backbone, statistics)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 5, 5)


def change(module: nn.Module) -> None:
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.add_(torch.randint(1, 5, value.shape) if value.dtype == torch.int64 else torch.rand(value.shape))


@pytest.mark.parametrize("statistics", ["own", "averaged"])
def test_update_equals_formula(statistics: str) -> None:
    parent = Parent(statistics)
    expected = {key: value.clone() for key, value in parent.backbone.state_dict().items()}
    for decay in (0.9, 0.5, 0.0, 1.0, 0.99):
        change(parent.backbone)
        parent.target.update(decay)
        for key, value in parent.backbone.state_dict().items():
            if statistics == "own" and key in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
                continue
            is_integer = not value.is_floating_point()
            expected[key] = value.clone() if is_integer else decay * expected[key] + (1 - decay) * value
        for key, value in parent.target.state_dict().items():
            torch.testing.assert_close(value, expected[key], msg=key)


def test_own_statistics_track_input_batches() -> None:
    parent = Parent()
    norm, seen = parent.target.module[1], []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = norm.running_mean.clone()
    parent.train()
    assert [name for name, part in parent.target.named_modules() if part.training] == ["module.1"]
    given = images()
    outputs = parent.target(given)
    assert torch.equal(parent.target(given), outputs)  # no dropout
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.81 * before + 0.19 * mean)
    held = copy.deepcopy(norm.state_dict())
    parent.eval()
    torch.testing.assert_close(parent.target(given)[:1], parent.target(given[:1]))
    assert all(torch.equal(value, held[key]) for key, value in norm.state_dict().items())


def test_averaged_statistics_ignore_input_batches() -> None:
    parent = Parent("averaged").train()
    assert not any(part.training for part in parent.target.modules())
    held, given = copy.deepcopy(parent.target.state_dict()), images()
    torch.testing.assert_close(parent.target(given)[:1], parent.target(given[:1]))
    assert all(torch.equal(value, held[key]) for key, value in parent.target.state_dict().items())


def test_average_is_not_trainable() -> None:
    parent = Parent().train()
    assert not parent.target(images()).requires_grad
    assert not any(parameter.requires_grad for parameter in parent.target.parameters())
    grouped = {id(parameter) for group in parameter_groups(parent, 0.1, 0.1) for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in parent.backbone.parameters()}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda parent: pickle.loads(pickle.dumps(parent))])
def test_copy_follows_copied_network(copied: Any) -> None:
    parent = Parent()
    twin, before = copied(parent), copy.deepcopy(parent.target.state_dict())
    change(twin.backbone)
    twin.target.update(0.0)
    for key, value in twin.backbone.named_parameters():
        assert torch.equal(twin.target.state_dict()[key], value)
    assert all(torch.equal(value, before[key]) for key, value in parent.target.state_dict().items())


def test_state_dict_has_keys_of_network() -> None:
    parent, other = Parent(), Parent()
    change(parent.target.module)
    keys = [f"{part}.{key}" for part in ("backbone", "target") for key in parent.backbone.state_dict()]
    state = parent.state_dict()
    assert list(state) == keys
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    other.target.load_state_dict(parent.backbone.state_dict())
    assert all(torch.equal(other.target.state_dict()[key], v) for key, v in parent.backbone.state_dict().items())
    found = other.load_state_dict({key: state[key] for key in keys[:-1]} | {"target.9.bias": torch.zeros(1)}, False)
    assert (len(found.missing_keys), len(found.unexpected_keys)) == (1, 1)


def test_average_follows_dtype_and_memory_format_of_owner() -> None:
    parent = Parent("averaged").to(torch.float64, memory_format=torch.channels_last)
    weight = parent.target.module[0].weight
    assert weight.dtype == torch.float64
    change(parent.backbone)
    parent.target.update(0.0)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert parent.target.module[1].running_mean.dtype == torch.float64
    for key, value in parent.backbone.state_dict().items():
        assert torch.equal(parent.target.state_dict()[key], value)
    assert copy.deepcopy(parent).target.module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_shared_weights_are_updated_once() -> None:
    shared = nn.Linear(2, 2)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    average = MovingAverage(module)
    before = average.module[0].weight.clone()
    with torch.no_grad():
        shared.weight.add_(1)
    average.update(0.5)
    torch.testing.assert_close(average.module[2].weight, before + 0.5)


def test_network_without_weights() -> None:
    MovingAverage(nn.ReLU()).update(0.5)


def test_invalid_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"statistics='batch': must be 'own' or 'averaged'"):
        MovingAverage(nn.Linear(1, 1), "batch")  # type: ignore[arg-type]
    module = nn.Sequential(nn.Linear(1, 1))
    average = MovingAverage(module)
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"decay=.*: must be a number from 0 to 1"):
            average.update(decay)
    module.append(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="the weights of Sequential have other shapes than when its moving average"):
        average.update(0.5)


def test_cosine_decay_equals_formula() -> None:
    for step in (0, 1, 37, 250, 999, 1000):
        assert cosine_decay(0.996, step, 1000) == 1 - (1 - 0.996) * (math.cos(math.pi * step / 1000) + 1) / 2
    assert [round(cosine_decay(0.996, step, 8), 6) for step in (0, 2, 4, 6, 8)] == [0.996, 0.996586, 0.998, 0.999414, 1]
    assert cosine_decay(0.9, 12, 8) == 1  # a run that was extended
    assert cosine_decay(0.9, 12, math.inf) == pytest.approx(0.9)
