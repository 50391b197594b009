"""Schedules, compared with their formulas at every step."""

import copy
import logging
import math
from itertools import pairwise

import pytest
import torch
from torch import nn, optim

from lit_cv.optim import Plateau, build_schedule


def _optimizer(*rates):
    return optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates or (1.0,)])


def _rates(name, steps, total_steps, rates=(1.0,), **options):
    """Return the learning rates of steps 0, 1, ..., for one group or for each of several."""
    optimizer = _optimizer(*rates)
    schedule = build_schedule(name, optimizer, total_steps, **options)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        assert seen[-1] == schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return [one[0] for one in seen] if len(rates) == 1 else seen


def test_cosine_against_reference_values():
    expected = {0: 0.1, 1: 0.2, 5: 0.6, 9: 1.0, 10: 1.0, 11: 0.999688843, 50: 0.579509627, 98: 0.0013111574,
                99: 0.001, 100: 0.001}  # fmt: skip
    rates = _rates("cosine", 101, 100, warmup_steps=10, min_lr=0.001)
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 0), (7, 3), (50, 49), (50, 50), (100, 0)])
def test_cosine_formula_at_every_step(total, warmup):
    lr, min_lr = 0.3, 0.02
    for t, rate in enumerate(_rates("cosine", total, total, (lr,), warmup_steps=warmup, min_lr=min_lr)):
        p = (t - warmup) / max(1, total - 1 - warmup)
        expected = lr * (t + 1) / warmup if t < warmup else min_lr + (lr - min_lr) * (1 + math.cos(math.pi * p)) / 2
        assert rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "exponential", "constant", "plateau"])
def test_single_step_uses_full_learning_rate(name):
    assert _rates(name, 1, 1, (0.3,)) == pytest.approx([0.3])


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "exponential"])
def test_minimum_is_reached_at_last_step_and_kept(name):
    rates = _rates(name, 30, 20, (0.3,), warmup_steps=4, min_lr=0.01)
    assert rates[19:] == pytest.approx([0.01] * 11)
    assert max(rates) == pytest.approx(0.3)
    assert all(earlier > later for earlier, later in pairwise(rates[4:20]))


def test_exponential_falls_by_constant_factor():
    rates = _rates("exponential", 20, 20, (0.3,), warmup_steps=5, min_lr=0.003)
    assert rates[:5] == pytest.approx([0.06, 0.12, 0.18, 0.24, 0.3])
    factors = [later / earlier for earlier, later in pairwise(rates[5:])]
    assert factors == pytest.approx([0.01 ** (1 / 14)] * 14)
    assert _rates("exponential", 10, 10, (0.3,))[-1] == pytest.approx(0.0003)


@pytest.mark.parametrize(("total", "warmup", "min_lr"), [(100, 30, 0.0), (41, 20, 0.01), (100, 0, 0.001)])
def test_one_cycle_equals_torch(total, warmup, min_lr):
    lr = 0.5
    optimizer = _optimizer(lr)
    final = (lr / 25) / min_lr if min_lr else math.inf
    fraction = warmup / total if warmup else 0.3
    reference = optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total, pct_start=fraction, cycle_momentum=False, div_factor=25, final_div_factor=final
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert _rates("one_cycle", total, total, (lr,), warmup_steps=warmup, min_lr=min_lr) == pytest.approx(expected)


@pytest.mark.parametrize(("total", "warmup"), [(2, 0), (3, 0), (4, 1), (4, 4), (5, 0)])
def test_one_cycle_with_few_steps(total, warmup):
    rates = _rates("one_cycle", total + 2, total, warmup_steps=warmup)
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates[:total]) > 0.5
    assert rates[total:] == pytest.approx([0.0, 0.0] if warmup < total else rates[total:])


def test_constant_needs_no_end():
    assert _rates("constant", 5, math.inf, warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert _rates("plateau", 5, math.inf, warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "exponential"])
def test_infinite_training_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' needs the length of the training: set max_epochs or max_steps"):
        build_schedule(name, _optimizer(), math.inf)


@pytest.mark.parametrize("name", ["cosine", "exponential", "constant", "plateau"])
def test_warm_up_is_shortened_to_training(name, caplog):
    assert _rates(name, 4, 4, warmup_steps=100) == [0.25, 0.5, 0.75, 1.0]
    assert caplog.record_tuples == [
        (
            "lit_cv",
            logging.WARNING,
            "warm-up of 100 steps shortened to the 4 steps of the training: lower warmup_epochs.",
        )
    ]


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "exponential", "constant", "plateau"])
def test_groups_keep_their_ratio(name):
    for large, small, none in _rates(name, 25, 20, (0.4, 0.1, 0.0), warmup_steps=5, min_lr=0.04):
        assert small == pytest.approx(large / 4)
        assert none == 0


def test_minimum_applies_to_largest_learning_rate():
    assert _rates("cosine", 20, 20, (0.1, 0.4), min_lr=0.04)[-1] == pytest.approx([0.01, 0.04])


@pytest.mark.parametrize(
    ("name", "total", "options", "words"),
    [
        ("cosin", 10, {}, "schedule='cosin': there is no such schedule: did you mean 'cosine'"),
        ("cosine", 10, {"min_lr": 2.0}, r"min_lr=2\.0: must be a learning rate between 0 and lr=1\.0"),
        ("cosine", 10, {"min_lr": -1.0}, "between 0 and"),
        ("cosine", 10, {"warmup_steps": -1}, "a warm-up of at least 0 steps"),
        ("cosine", 0, {}, "a training of at least 1"),
    ],
)
def test_error_names_option(name, total, options, words):
    with pytest.raises(ValueError, match=words):
        build_schedule(name, _optimizer(), total, **options)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_equals_torch(mode):
    metrics = [
        value if mode == "min" else 10 - value
        for value in (5, 4, 4.1, 4, 4, 3.9999, 3, 3, 3, 3, 3, 3, 3, 2, math.nan, 2, 2, 2, 2)
    ]
    optimizer, twin = _optimizer(1.0, 0.1), _optimizer(1.0, 0.1)
    reference = optim.lr_scheduler.ReduceLROnPlateau(twin, mode, factor=0.1, patience=2, threshold=1e-4)
    schedule = build_schedule("plateau", optimizer, math.inf, mode=mode, patience=2)
    assert isinstance(schedule, Plateau)
    for metric in metrics:
        schedule.observe(metric)
        reference.step(metric)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([group["lr"] for group in twin.param_groups])
        optimizer.step()
        schedule.step()
        assert rates == [group["lr"] for group in optimizer.param_groups]
    assert rates[0] < 1e-2


def test_plateau_minimum_and_invalid_factors():
    optimizer = _optimizer(1.0)
    schedule = build_schedule("plateau", optimizer, math.inf, min_lr=0.05, patience=0)
    for _ in range(5):
        schedule.observe(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="reduction=1"):
        Plateau(_optimizer(), reduction=1.0)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "exponential", "constant", "plateau"])
@pytest.mark.parametrize("lr", [1.0, 0.2])
def test_resume_restores_step_but_not_learning_rate(name, lr):
    def observe(schedule, step):
        if isinstance(schedule, Plateau):
            schedule.observe(1.0 if step < 3 else 2.0)

    def run(schedule, optimizer, steps):
        rates = []
        for step in steps:
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            observe(schedule, step)
        return rates

    def build(lr):
        optimizer = _optimizer(lr)
        return build_schedule(name, optimizer, 20, 4, min_lr=0.01, patience=3), optimizer

    schedule, optimizer = build(lr)
    expected = run(schedule, optimizer, range(20))
    schedule, optimizer = build(1.0)
    run(schedule, optimizer, range(11))
    saved = copy.deepcopy((schedule.state_dict(), optimizer.state_dict()))
    schedule, optimizer = build(lr)
    optimizer.load_state_dict(saved[1])
    schedule.load_state_dict(saved[0])
    assert [group["initial_lr"] for group in optimizer.param_groups] == [lr]
    assert run(schedule, optimizer, range(11, 20)) == expected[11:]
    assert all(not callable(value) for value in saved[0].values())


def test_resumed_run_may_be_longer():
    optimizer = _optimizer(1.0)
    schedule = build_schedule("cosine", optimizer, 40)
    schedule.load_state_dict({"last_epoch": 10})
    assert optimizer.param_groups[0]["lr"] == _rates("cosine", 40, 40)[10]
