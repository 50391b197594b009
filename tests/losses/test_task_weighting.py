"""Task weightings, compared with their formulas, and cases without an optimum."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cv.losses import DynamicWeightAverage, FixedWeighting, UncertaintyWeighting


def test_fixed_weights_multiply_given_losses() -> None:
    weighting = FixedWeighting(["a", "b", "c"], {"a": 2.0, "b": 0.5, "c": 7.0})
    losses = {"b": torch.tensor(-4.0, requires_grad=True), "a": torch.tensor(1.5, requires_grad=True)}
    total = weighting(losses)
    assert float(total.detach()) == 2 * 1.5 - 0.5 * 4
    total.backward()
    assert (float(losses["a"].grad), float(losses["b"].grad)) == (2.0, 0.5)  # type: ignore[arg-type]
    assert float(FixedWeighting(["a", "b"])({"a": torch.tensor(3.0), "b": torch.tensor(4.0)})) == 7.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "weights for a, but the tasks are a, b"),
        ({"a": 1.0, "b": -1.0}, "the weight of b is -1.0"),
        ({"a": 1.0, "b": math.inf}, "the weight of b is inf"),
    ],
)
def test_invalid_fixed_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FixedWeighting(["a", "b"], weights)


def test_invalid_task_names_are_refused() -> None:
    with pytest.raises(ValueError, match="c: no such task; the tasks are a, b"):
        FixedWeighting(["a", "b"])({"c": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="each once"):
        FixedWeighting(["a", "a"])
    with pytest.raises(ValueError, match="z: no such task"):
        UncertaintyWeighting(["a"], classification=["z"])


def uncertain(log_sigma: list[float], classification: tuple[str, ...] = ()) -> UncertaintyWeighting:
    weighting = UncertaintyWeighting([f"t{i}" for i in range(len(log_sigma))], classification).double()
    with torch.no_grad():
        weighting.log_sigma.copy_(torch.tensor(log_sigma, dtype=torch.float64))
    return weighting


def test_uncertainty_loss_and_gradients_equal_formula() -> None:
    weighting = uncertain([0.3, -1.2, 2.0], classification=("t2",))
    values = [1.7, 0.004, 900.0]
    losses = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    total = weighting({f"t{i}": loss for i, loss in enumerate(losses)})
    sigma = [math.exp(s) for s in (0.3, -1.2, 2.0)]
    forms = [0.5, 0.5, 1.0]
    expected = sum(f * v / s**2 + math.log(s) for f, v, s in zip(forms, values, sigma, strict=True))
    assert total.dtype == torch.float64
    assert float(total.detach()) == pytest.approx(expected, rel=1e-14)
    total.backward()
    for f, loss, s in zip(forms, losses, sigma, strict=True):
        assert float(loss.grad) == pytest.approx(f / s**2, rel=1e-14)  # type: ignore[arg-type]
    slopes = [1 - 2 * f * v / s**2 for f, v, s in zip(forms, values, sigma, strict=True)]  # d / d log sigma
    assert weighting.log_sigma.grad is not None
    assert weighting.log_sigma.grad.tolist() == pytest.approx(slopes, rel=1e-13)
    assert weighting.weights().tolist() == pytest.approx([f / s**2 for f, s in zip(forms, sigma, strict=True)])


def settle(weighting: UncertaintyWeighting, losses: dict[str, Tensor], steps: int = 800, lr: float = 0.02) -> None:
    optimizer = torch.optim.Adam(weighting.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()


@pytest.mark.learns
def test_sigma_converges_to_optimum_of_constant_losses(seed: int) -> None:
    torch.manual_seed(seed)
    weighting = uncertain((0.1 * torch.randn(4)).tolist(), classification=("t1",))
    values = (9.0, 9.0, 0.5, 1e-4)
    settle(weighting, {f"t{i}": torch.tensor(v, dtype=torch.float64) for i, v in enumerate(values)}, steps=1200)
    assert weighting.sigma().tolist() == pytest.approx([3.0, math.sqrt(18), math.sqrt(0.5), 0.01], rel=1e-3)


def test_start_sets_sigmas_to_optimum() -> None:
    weighting = uncertain([0.0] * 5, classification=("t1",)).float()
    assert weighting.waiting() == list(weighting.tasks)
    values = dict(zip(weighting.tasks, (2500.0, 2500.0, -0.25, 0.0, math.nan), strict=True))
    losses = {name: torch.tensor(value) for name, value in values.items()}
    weighting.start({name: losses[name] for name in ("t0", "t1")})
    assert weighting.waiting() == ["t2", "t3", "t4"]
    weighting.start({name: losses[name] for name in ("t2", "t3", "t4")})
    assert weighting.waiting() == []
    assert weighting.sigma().tolist() == pytest.approx([50.0, math.sqrt(5000), 0.5, 1.0, 1.0])
    weighting({name: losses[name] for name in ("t0", "t1")}).backward()
    assert weighting.log_sigma.grad is not None
    assert weighting.log_sigma.grad[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    again = UncertaintyWeighting(weighting.tasks, ["t1"])
    again.load_state_dict(weighting.state_dict())
    assert again.waiting() == []


@pytest.mark.learns
@pytest.mark.parametrize(
    "value", [0.0, -5.0, *(pytest.param(v, marks=pytest.mark.slow) for v in (-1e-9, 1e-9, 1e30, -1e30))]
)
def test_losses_without_an_optimum_keep_everything_finite(value: float, seed: int) -> None:
    torch.manual_seed(seed)
    weighting = uncertain((0.1 * torch.randn(2)).tolist()).float()
    loss = torch.tensor(value, requires_grad=True)
    settle(weighting, {"t0": loss, "t1": torch.tensor(4.0)})
    total = weighting({"t0": loss, "t1": torch.tensor(4.0)})
    total.backward()
    assert torch.isfinite(torch.stack([total, loss.grad, *weighting.log_sigma])).all()  # type: ignore[list-item]
    assert float(loss.grad) > 0  # type: ignore[arg-type]
    assert float(weighting.sigma()[1].detach()) == pytest.approx(2.0, rel=1e-2)  # the other task is not affected
    if value == -5.0:
        assert float(weighting.sigma()[0].detach()) == pytest.approx(math.sqrt(5), rel=1e-2)


def test_sigma_recovers_from_bound() -> None:
    weighting = uncertain([0.0]).float()
    with torch.no_grad():
        weighting.log_sigma.fill_(-50.0)
    total = weighting({"t0": torch.tensor(0.0)})
    assert float(total.detach()) == -7.0
    weighting({"t0": torch.tensor(1e-3)}).backward()
    assert weighting.log_sigma.grad is not None
    assert float(weighting.log_sigma.grad) < 0  # a step increases it


def test_missing_task_does_not_contribute() -> None:
    weighting = uncertain([0.5, 0.5])
    total = weighting({"t1": torch.tensor(2.0, dtype=torch.float64)})
    assert float(total.detach()) == pytest.approx(2.0 / (2 * math.e) + 0.5)
    total.backward()
    assert weighting.log_sigma.grad is not None
    assert float(weighting.log_sigma.grad[0]) == 0.0
    nothing = weighting({})
    nothing.backward()  # with several ranks, every parameter needs a gradient
    assert float(nothing.detach()) == 0.0


def test_half_precision_losses_are_summed_in_float32() -> None:
    weighting = UncertaintyWeighting(["a", "b"])
    losses = {"a": torch.tensor(300.0, dtype=torch.bfloat16), "b": torch.tensor(1.0, dtype=torch.float16)}
    assert weighting(losses).dtype == torch.float32
    assert float(weighting(losses).detach()) == pytest.approx(150.5)
    assert float(FixedWeighting(["a", "b"])(losses)) == pytest.approx(301.0)


EPOCHS = [{"a": 4.0, "b": 2.0}, {"a": 1.0, "b": 1.9}, {"a": 0.9, "b": 0.5}]


def test_dynamic_weights_equal_softmax_of_ratios() -> None:
    weighting = DynamicWeightAverage(["a", "b"], temperature=2.0)
    found = []
    for losses in EPOCHS:
        found.append(weighting.weights().tolist())
        weighting.end_epoch(losses)
    found.append(weighting.weights().tolist())
    assert found[0] == found[1] == [1.0, 1.0]
    for weights, ratios in zip(found[2:], [(1 / 4, 1.9 / 2), (0.9 / 1, 0.5 / 1.9)], strict=True):
        powers = [math.exp(ratio / 2) for ratio in ratios]
        assert weights == pytest.approx([2 * p / sum(powers) for p in powers], rel=1e-6)
    total = weighting({"a": torch.tensor(3.0), "b": torch.tensor(5.0)})
    assert float(total) == pytest.approx(3 * found[3][0] + 5 * found[3][1])


def test_dynamic_weights_of_negative_tiny_and_missing_losses() -> None:
    weighting = DynamicWeightAverage(["falls", "rises"])
    for losses in ({"falls": -1.0, "rises": -2.0}, {"falls": -2.0, "rises": -1.0}):
        weighting.end_epoch(losses)
    falls, rises = weighting.weights().tolist()
    assert rises > 1 > falls  # a loss that falls from -1 to -2 makes progress
    weighting = DynamicWeightAverage(["a", "b"])
    for losses in ({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"b": math.nan}, {"a": 1e-30, "b": 1e30}):
        weighting.end_epoch(losses)
        assert weighting.weights().isfinite().all()
        assert float(weighting.weights().sum()) == pytest.approx(2.0)


def test_state_dict_contains_state() -> None:
    for losses, make in ((EPOCHS, DynamicWeightAverage), ([], UncertaintyWeighting)):
        before: Any = make(["a", "b"])
        for epoch in losses[:2]:
            before.end_epoch(epoch)
        if not losses:
            settle(before, {"a": torch.tensor(3.0), "b": torch.tensor(0.3)}, steps=20)
        after = make(["a", "b"])
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        for epoch in losses[2:]:
            before.end_epoch(epoch)
            after.end_epoch(epoch)
        assert torch.equal(before.weights(), after.weights())
        assert not torch.equal(before.weights(), make(["a", "b"]).weights())


def test_invalid_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature=0"):
        DynamicWeightAverage(["a"], temperature=0)
