"""Parameter groups by weight decay and learning rate."""

import pytest
import torch
from torch import nn

from lit_cv.nn import ClassificationHead, create_backbone
from lit_cv.optim import Layer, build_optimizer, build_schedule, layer_groups, parameter_groups


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_tiny", "vit_b_32", "swin_t", "resnet9_small", "mobilenet_v3_small"]
)
def test_every_trainable_parameter_is_in_one_group(name):
    with torch.device("meta"):
        model = nn.ModuleList([create_backbone(name), ClassificationHead(8, 3)])
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05)
    assert [(g["name"], g["lr"], g["weight_decay"], g["layer_adaptation"]) for g in groups] == [
        ("decay", 0.1, 0.05, True),
        ("no_decay", 0.1, 0.0, False),
    ]
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}
    decayed = {id(p) for p in groups[0]["params"]}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert id(module.weight) in decayed
            assert module.bias is None or id(module.bias) not in decayed
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            assert not {id(module.weight), id(module.bias)} & decayed


def test_positions_tokens_and_scales_are_not_decayed():
    with torch.device("meta"):
        vit, convnext, swin = (create_backbone(name) for name in ("vit_b_32", "convnext_tiny", "swin_t"))
    for model, part, count in ((vit, "pos_embedding", 1), (vit, "class_token", 1), (convnext, "layer_scale", 18),
                               (swin, "relative_position_bias_table", 12)):  # fmt: skip
        names = {id(p): key for key, p in model.named_parameters()}
        spared = [names[id(p)] for p in parameter_groups(model, 0.1, 0.05)[1]["params"]]
        assert sum(part in name for name in spared) == count


def test_shared_and_frozen_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1, 0.05)
    assert [len(group["params"]) for group in groups] == [1, 3]
    model[0].weight.requires_grad_(False)
    assert [group["name"] for group in parameter_groups(model, 0.1, 0.05)] == ["no_decay"]
    model.requires_grad_(False)
    assert parameter_groups(model, 0.1, 0.05) == []
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer("sgd", [], lr=0.1)


def test_layers_have_learning_rates_and_are_split_by_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    layers = [
        Layer("head", list(model[2].parameters()), 0.1, 0.05),
        Layer("rest", list(model.parameters()), 0.01, 0.0),  # parameters of the head are not added again
    ]
    model[1].weight.requires_grad_(False)
    groups = layer_groups(model, layers)
    assert [(g["name"], g["layer"], g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        ("head.decay", "head", 0.1, 0.05, 1),
        ("head.no_decay", "head", 0.1, 0.0, 1),
        ("rest.decay", "rest", 0.01, 0.0, 1),
        ("rest.no_decay", "rest", 0.01, 0.0, 2),
    ]
    assert groups[0]["params"][0] is model[2].weight
    optimizer = build_optimizer("adamw", groups, lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_group_added_later_equals_initial_group(name):
    """With a constant schedule and without moments, both optimizers take the same steps."""
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(4)]
    early = build_optimizer(name, [_group("a", weights[0], 0.1), _group("b", weights[1], 0.01)], lr=1.0)
    late = build_optimizer(name, [_group("a", weights[2], 0.1)], lr=1.0)
    schedules = [build_schedule("cosine", optimizer, total_steps=10) for optimizer in (early, late)]
    for step in range(6):
        if step == 3:
            schedules[1].add_group(_group("b", weights[3], 0.01))
            assert [g["lr"] for g in late.param_groups] == [g["lr"] for g in early.param_groups]
            assert late.param_groups[1].keys() == early.param_groups[1].keys()
        for weight in weights:
            weight.grad = torch.full((2, 2), 1.0) if step >= 3 or weight is weights[0] or weight is weights[2] else None
        for optimizer, schedule in zip((early, late), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[1], torch.ones(2, 2))
    twin = build_optimizer(name, [_group("a", weights[0], 0.1), _group("b", weights[1], 0.01)], lr=1.0)
    schedule = build_schedule("cosine", twin, total_steps=10)
    twin.load_state_dict(late.state_dict())
    schedule.load_state_dict(schedules[1].state_dict())
    assert [g["lr"] for g in twin.param_groups] == [g["lr"] for g in late.param_groups]


def _group(name, weight, lr):
    return {"name": name, "params": [weight], "lr": lr, "weight_decay": 0.0}
