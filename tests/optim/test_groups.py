"""Which parameters are decayed."""

import pytest
import torch
from torch import nn

from lit_cv.nn import ClassificationHead, create_backbone
from lit_cv.optim import build_optimizer, parameter_groups


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_tiny", "vit_b_32", "swin_t", "resnet9_small", "mobilenet_v3_small"]
)
def test_every_trainable_parameter_comes_once(name):
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
