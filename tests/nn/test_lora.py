"""Low-rank updates: initial outputs, merging, and trainable parameters."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lit_cv.nn import add_lora, create_backbone, has_lora, lora_layers, merge_lora, merge_lora_state

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def updated(network: nn.Module) -> nn.Module:
    """Set the updates to random values, as after training."""
    for layer in lora_layers(network):
        nn.init.normal_(layer.lora_up, std=0.1)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "vit_tiny_p16",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("convnext_tiny", "mobilenet_v3_small", "vit_b_16")),
    ],
)
def test_initial_update_is_zero_and_merge_keeps_outputs(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, image_size=32).eval()
    with torch.no_grad():
        before = backbone(IMAGES)
        weights = copy.deepcopy(backbone.state_dict())
        paths = add_lora(backbone.body, rank=4, alpha=8.0)
        assert paths
        assert torch.equal(backbone(IMAGES), before)
        updated(backbone)
        changed = backbone(IMAGES)
        scale = float(changed.abs().max())  # tiny in some networks with random weights
        assert float((changed - before).abs().max()) > 0.01 * scale
        assert all(torch.equal(backbone.state_dict()[key], value) for key, value in weights.items())
        state = merge_lora_state(backbone.state_dict())
        merge_lora(backbone)
        torch.testing.assert_close(backbone(IMAGES), changed, atol=1e-5 * scale, rtol=1e-5)
    assert not has_lora(backbone.state_dict())
    assert state.keys() == weights.keys() == backbone.state_dict().keys()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(6, 5, 3, stride=2, padding=1),
        nn.Conv2d(6, 5, (1, 3), padding="same", bias=False),
        nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect", dilation=1),
    ],
)
def test_update_is_product_of_factors(layer: nn.Linear | nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(3, 6, dtype=torch.float64) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 8, 9).double()
    plain = copy.deepcopy(layer)
    add_lora(layer, rank=2, alpha=3.0, targets=[""])
    updated(layer)
    up, down = layer.lora_up.detach(), layer.lora_down.detach()
    product = torch.einsum("orab,ri->oi", up.view(5, 2, 1, 1), down.view(2, -1)).view_as(plain.weight)
    plain.weight.data += 3.0 / 2 * product
    torch.testing.assert_close(layer(x), plain(x))


def test_only_updates_are_trainable() -> None:
    backbone = create_backbone("vit_tiny_p16", image_size=32)
    add_lora(backbone.body, rank=2, alpha=2.0, targets=["qkv"])
    learning = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * len(lora_layers(backbone))
    assert all(".qkv.lora_" in name for name in learning)
    backbone(IMAGES).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (name in learning)


def test_frozen_grouped_and_subclass_layers_are_skipped() -> None:
    class Subclass(nn.Linear):
        pass

    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), Subclass(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    )
    network[3].requires_grad_(False)
    assert add_lora(network, rank=8, alpha=1.0) == ["4"]
    assert network[4].lora_down.shape == (2, 4)  # limited to the rank of the layer
    assert float(network[4].lora_scale) == 1 / 8


def test_copy_has_independent_updates() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    add_lora(network, rank=1, alpha=1.0)
    twin = updated(copy.deepcopy(network))
    x = torch.randn(2, 3)
    before = network(x)
    assert not torch.allclose(twin(x), before)
    merge_lora(twin)
    assert torch.equal(network(x), before)
    assert len(lora_layers(network)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "lora_rank=0: must be at least 1"),
        ({"alpha": 0.0}, "lora_alpha=0.0: must be a positive number"),
        ({"alpha": float("nan")}, "lora_alpha=nan: must be a positive number"),
        ({"targets": ["qvk"]}, "lora_targets='qvk': must be names of linear layers or convolutions, such as"),
        ({"targets": []}, r"lora_targets=\[\]: VisionTransformer has no layer"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], words: str) -> None:
    body = create_backbone("vit_tiny_p16", image_size=32).body
    with pytest.raises(ValueError, match=words):
        add_lora(body, **{"rank": 4, "alpha": 4.0} | options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("1.weight"), "is an update of 1.weight, which is missing or incomplete"),
        (lambda state: state.pop("1.lora_up"), "is an update of 1.weight, which is missing or incomplete"),
        (lambda state: state.update({"1.lora_down": torch.zeros(3)}), "is not a low-rank update"),
        (lambda state: state.update({"1.lora_down": torch.zeros(1, 4)}), r"\(1, 4\) does not fit 1.weight \(3, 3\)"),
        (lambda state: state.update({"1.lora_scale": torch.zeros(0)}), "is not a low-rank update"),
        (lambda state: state.update({"1.lora_up": torch.zeros(3, 1, 2, 2)}), "is not a low-rank update"),
        (lambda state: state.update({"1.weight": torch.zeros(())}), "does not fit|is not a low-rank update"),
    ],
)
def test_mismatched_updates_are_refused(change: Any, words: str) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    add_lora(network, rank=1, alpha=1.0)
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(ValueError, match=words):
        merge_lora_state(state)
