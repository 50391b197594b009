"""Optimizers, compared with formulas and reference values, and exact resume."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lit_cv.optim import LARS, Muon, build_optimizer, build_schedule, parameter_groups, reapply_options

# Weights after each of three steps of lightly's LARS and of the one in facebookresearch/mae, in the setup of the test.
_LARS = {
    "lightly": [
        [-1.0, -0.818256497, -0.63644433, -0.454557955, -0.272660077, -0.0908239633,
         0.0909338593, 0.272668958, 0.454457641, 0.636327028, 0.818230093, 1.00008869],
        [-1.00007296, -0.818402529, -0.636529207, -0.454503596, -0.272516489, -0.0907231495,
         0.0908992216, 0.272530705, 0.454342872, 0.636341274, 0.818360209, 1.00021505],
        [-1.00022101, -0.818546712, -0.636537015, -0.454367787, -0.272361934, -0.0906919464,
         0.0907783955, 0.272368938, 0.45428887, 0.636444688, 0.81852591, 1.00029075],
    ],
    "mae": [
        [-1.0, -0.818256497, -0.63644433, -0.454557955, -0.272660077, -0.0908239558,
         0.0909338593, 0.272668928, 0.454457611, 0.636327028, 0.818230093, 1.00008869],
        [-1.00007296, -0.818402529, -0.636529207, -0.454503596, -0.272516489, -0.0907231271,
         0.0908992141, 0.272530675, 0.454342842, 0.636341274, 0.818360209, 1.00021505],
        [-1.00022101, -0.818546772, -0.636537015, -0.454367787, -0.272361934, -0.0906919166,
         0.0907783806, 0.272368878, 0.45428884, 0.636444688, 0.81852597, 1.00029075],
    ],
}  # fmt: skip
_NAMES = ["adamw", "adam", "sgd", "lars", "muon"]


def _model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)
    )


def _step(model, optimizer, seed):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def test_lars_against_reference_values():
    weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    optimizer = LARS([weight], lr=0.1, momentum=0.9, weight_decay=1e-4, trust=0.001)
    for i in range(3):
        weight.grad = torch.sin(torch.arange(12.0) + i).reshape(3, 4)
        optimizer.step()
        torch.testing.assert_close(weight.detach().flatten(), torch.tensor(_LARS["lightly"][i]), atol=1e-8, rtol=0)
        torch.testing.assert_close(weight.detach().flatten(), torch.tensor(_LARS["mae"][i]), atol=1e-7, rtol=0)


def test_lars_without_adaptation_is_sgd():
    weight, twin = (nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4)) for _ in range(2))
    lars = LARS([{"params": [weight], "layer_adaptation": False}], lr=0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD([twin], lr=0.1, momentum=0.9, weight_decay=0.01)
    for i in range(3):
        weight.grad, twin.grad = (torch.sin(torch.arange(12.0) + i).reshape(3, 4) for _ in range(2))
        lars.step()
        sgd.step()
    torch.testing.assert_close(weight, twin)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_lars_first_step_has_size_of_trust_coefficient(decay):
    weight = nn.Parameter(torch.randn(8, 8))
    before = weight.detach().clone()
    weight.grad = 1000 * torch.randn(8, 8)
    grad = weight.grad.clone()
    LARS([weight], lr=2.0, weight_decay=decay, trust=0.01).step()
    direction = grad + decay * before
    scale = 2.0 * 0.01 * before.norm() / (grad.norm() + decay * before.norm())
    torch.testing.assert_close(weight.detach(), before - scale * direction)


def test_lars_at_zero_stays_finite():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([zero, still], lr=0.1).step()
    assert torch.equal(zero.detach(), torch.full((2, 2), -0.1))
    assert torch.equal(still.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("options", [{"lr": -1}, {"lr": 1, "momentum": 1.0}, {"lr": 1, "weight_decay": -1}])
def test_lars_refuses_values_out_of_range(options):
    with pytest.raises(ValueError, match=r"must not be negative|in \[0, 1\)"):
        LARS([nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_optimizers_take_same_steps(name):
    models = [_model(), _model()]
    optimizers = [
        build_optimizer(name, parameter_groups(m, 0.01, 0.1), lr=0.01, weight_decay=0.1, fused=fused)
        for m, fused in zip(models, (None, False), strict=True)
    ]
    assert optimizers[0].defaults["fused"]
    assert not optimizers[1].defaults["fused"]
    for seed in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            _step(model, optimizer, seed)
    for fast, slow in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


def test_muon_agrees_with_torch_on_matrices():
    weight, twin = (nn.Parameter(torch.linspace(-1, 1, 15).reshape(3, 5).sin()) for _ in range(2))
    own = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    other = torch.optim.Muon([twin], lr=0.1, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for i in range(3):
        weight.grad, twin.grad = (torch.cos(3 * torch.arange(15.0) ** 2 + i).reshape(3, 5) for _ in range(2))
        own.step()
        other.step()
    torch.testing.assert_close(weight, twin, atol=2e-3, rtol=0)  # torch computes in bfloat16


def test_muon_trains_vectors_as_adamw():
    weight, twin = (nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)) for _ in range(2))
    own = Muon([{"params": [weight], "layer_adaptation": False}], lr=0.1, weight_decay=0.1)
    adamw = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.1)
    for i in range(3):
        weight.grad, twin.grad = (torch.sin(torch.arange(6.0) + i).reshape(2, 3) for _ in range(2))
        own.step()
        adamw.step()
    torch.testing.assert_close(weight, twin)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (40, 3, 2, 2)])
def test_muon_orthogonalizes_steps_of_filters(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.01).step()
    matrix = weight.detach().flatten(1)
    sizes = torch.linalg.svdvals(matrix / 0.01) / (0.2 * max(matrix.shape) ** 0.5)
    assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
    left, _, right = torch.linalg.svd(-weight.grad.flatten(1), full_matrices=False)
    cosine = torch.cosine_similarity((left @ right).flatten(), matrix.flatten(), dim=0)
    assert float(cosine) > 0.97


@pytest.mark.parametrize("options", [{"lr": -1}, {"lr": 1, "momentum": 1.0}, {"lr": 1, "weight_decay": -1}])
def test_muon_refuses_values_out_of_range(options):
    with pytest.raises(ValueError, match=r"must not be negative|in \[0, 1\)"):
        Muon([nn.Parameter(torch.ones(1))], **options)


def test_options_are_passed_to_optimizer():
    groups = parameter_groups(_model(), 0.01, 0.1)
    sgd = build_optimizer("sgd", groups, lr=0.01, weight_decay=0.1, momentum=0.8)
    assert all(group["nesterov"] and group["momentum"] == 0.8 for group in sgd.param_groups)
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.1, 0.0]
    assert not build_optimizer("sgd", groups, lr=0.01, momentum=0.0).defaults["nesterov"]
    adamw = build_optimizer("adamw", groups, lr=0.01, betas=(0.8, 0.99))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.99)
    lars = build_optimizer("lars", groups, lr=0.01, momentum=0.7)
    assert [(group["momentum"], group["layer_adaptation"]) for group in lars.param_groups] == [
        (0.7, True),
        (0.7, False),
    ]
    assert set(groups[0]) == {"name", "params", "lr", "weight_decay", "layer_adaptation"}  # not changed
    with pytest.raises(ValueError, match=r"optimizer='adamv': there is no such optimizer: did you mean .*'adamw'"):
        build_optimizer("adamv", groups, lr=0.01)


def _resumed(name, lr, steps, state=None, **options):
    """Train as in a new process: build everything, load the state if there is one, and continue."""
    model = _model()
    groups = parameter_groups(model, lr, options.get("weight_decay", 0.01))
    optimizer = build_optimizer(name, groups, lr=lr, momentum=options.get("momentum", 0.9))
    schedule = build_schedule("cosine", optimizer, total_steps=10, warmup_steps=3, min_lr=1e-4)
    start = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        reapply_options(
            optimizer, parameter_groups(model, lr, options.get("weight_decay", 0.01)), **options.get("re", {})
        )
        start = state["step"]
    rates = []
    for step in range(start, start + steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        _step(model, optimizer, step)
        schedule.step()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    return (
        model,
        optimizer,
        rates,
        {k: copy.deepcopy(v.state_dict()) for k, v in parts.items()} | {"step": start + steps},
    )


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_resume_is_exact(name, cut):
    uninterrupted, _, rates, _ = _resumed(name, 0.01, 10)
    _, _, before, state = _resumed(name, 0.01, cut)
    resumed, _, after, _ = _resumed(name, 0.01, 10 - cut, state)
    assert before + after == rates
    for key, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", _NAMES)
def test_resumed_run_uses_new_options(name):
    _, _, rates, _ = _resumed(name, 0.05, 10)
    state = _resumed(name, 0.01, 4)[-1]
    options = {"weight_decay": 0.2, "momentum": 0.5}
    again = {"sgd": {"momentum": 0.5}, "lars": {"momentum": 0.5}}.get(name, {"betas": (0.7, 0.9)})
    _, optimizer, after, _ = _resumed(name, 0.05, 6, state, re=again, **options)
    assert after == rates[4:]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.05, 0.05]
    key, value = next(iter(again.items()))
    assert all(group[key] == value for group in optimizer.param_groups)
    assert all(optimizer.state[p] for group in optimizer.param_groups for p in group["params"])


def test_resumed_run_uses_new_learning_rate_without_schedule():
    model = _model()
    old = build_optimizer("sgd", parameter_groups(model, 0.01, 0.1), lr=0.01)
    new = build_optimizer("sgd", parameter_groups(model, 0.5, 0.1), lr=0.5)
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["lr"] == 0.01
    reapply_options(new, parameter_groups(model, 0.5, 0.1))
    assert [group["lr"] for group in new.param_groups] == [0.5, 0.5]


def test_differing_groups_are_refused():
    model = _model()
    optimizer = build_optimizer("sgd", parameter_groups(model, 0.01, 0.1), lr=0.01)
    with pytest.raises(
        ValueError, match=r"has the parameter groups \['decay', 'no_decay'\], but this run has \['decay'\]"
    ):
        reapply_options(optimizer, parameter_groups(model, 0.01, 0.1)[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0: must be a number of at least 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": 0.1, "weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"lr": 0.1, "betas": (0.9, 1.0)}, r"betas=\[0.9, 1.0\]: must be two numbers"),
    ],
)
def test_error_names_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer("adamw", [{"params": list(nn.Linear(2, 2).parameters())}], **options)


def test_error_names_group() -> None:
    with pytest.raises(ValueError, match=r"lr=-0.1 of the parameter group 'head'"):
        build_optimizer("sgd", [{"params": list(nn.Linear(2, 2).parameters()), "lr": -0.1, "name": "head"}], lr=0.1)
