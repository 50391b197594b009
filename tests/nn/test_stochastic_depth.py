"""Stochastic depth: probabilities and effects."""

import pytest
import torch
from torchvision.ops import StochasticDepth

from lit_cv.nn import create_backbone, set_stochastic_depth


def rates(body):
    return [module.p for module in body.modules() if isinstance(module, StochasticDepth)]


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_probability_rises_linearly(name):
    body = create_backbone(name).body
    set_stochastic_depth(body, 0.3)
    found = rates(body)
    assert found[0] == 0
    assert found[-1] == 0.3
    assert torch.diff(torch.tensor(found)).std() < 1e-6
    set_stochastic_depth(body, 0.0)
    assert not any(rates(body))


def test_timm_network():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = create_backbone("timm/vit_tiny_patch16_224", image_size=32)
    images = torch.rand(4, 3, 32, 32)
    off = backbone(images)
    set_stochastic_depth(backbone.body, 0.5)
    assert len(rates(backbone.body)) == 24  # attention and MLP of 12 blocks
    assert not torch.allclose(backbone(images), backbone(images))
    assert torch.equal(backbone.eval()(images), off)
    assert not [key for key in backbone.state_dict() if "drop" in key]


def test_invalid_probability_and_network_are_refused():
    with pytest.raises(ValueError, match=r"drop_path=1.5"):
        set_stochastic_depth(create_backbone("convnext_tiny").body, 1.5)
    with pytest.raises(ValueError, match="ResNet does not support stochastic depth"):
        set_stochastic_depth(create_backbone("resnet18").body, 0.1)
