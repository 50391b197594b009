"""Feature maps of several resolutions from any backbone."""

import pytest
import torch
from torch import Tensor, nn

from lit_cv.nn import create_backbone
from lit_cv.nn.feature_maps import find_levels, tokens_to_map

CONVOLUTIONAL = ["resnet18", "resnet9_small", "mobilenet_v3_small", "shufflenet_v2_x0_5"]


def built(name: str, size: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, image_size=size).eval()


def location_of_change(backbone: nn.Module, size: tuple[int, int], y: int, x: int) -> dict[int, tuple[float, float]]:
    """Return the pixel where each map changes most if the image changes around (y, x)."""
    image = torch.full((1, 3, *size), 128, dtype=torch.uint8)
    changed = image.clone()
    changed[:, :, y - 8 : y + 8, x - 8 : x + 8] = 255
    with torch.no_grad():
        before, after = backbone.forward_maps(image), backbone.forward_maps(changed)
    places = {}
    for stride, own in before.items():
        change = (after[stride] - own).abs().mean(1)[0]
        flat = int(change.argmax())
        places[stride] = ((flat // change.shape[1] + 0.5) * stride, (flat % change.shape[1] + 0.5) * stride)
    return places


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, (128, 192)) for name in CONVOLUTIONAL), ("swin_t", (128, 192)), ("vit_micro_p16", (96, 160))],
)
def test_maps_are_aligned_with_image(name: str, size: tuple[int, int]) -> None:
    backbone = built(name, 64 if name.startswith("vit") else None)
    levels = backbone.feature_levels()
    assert list(levels) == sorted(levels)
    maps = backbone.forward_maps(torch.zeros(2, 3, *size, dtype=torch.uint8))
    for stride, channels in levels.items():
        assert maps[stride].shape[:2] == (2, channels)
        for side, full in zip(maps[stride].shape[2:], size, strict=True):
            assert abs(side - full / stride) < 1
    y, x = (24, 40) if name.startswith("vit") else (40, 136)
    found = location_of_change(backbone, size, y, x)
    for stride, place in found.items():
        if stride <= 16:  # coarser maps depend on the complete image
            assert abs(place[0] - y) <= 8 + 1.5 * stride, (stride, place)
            assert abs(place[1] - x) <= 8 + 1.5 * stride, (stride, place)


@pytest.mark.parametrize("name", ["resnet9_small", "vit_micro_p8", "swin_t"])
def test_forward_both_equals_separate_passes(name: str) -> None:
    backbone = built(name, 64 if name.startswith("vit") else None)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        pooled, maps = backbone.forward_both(images)
        torch.testing.assert_close(pooled, backbone(images))
        for stride, own in backbone.forward_maps(images, [8]).items():
            assert stride == 8
            torch.testing.assert_close(own, maps[8])
    assert all(not module._forward_hooks for module in backbone.modules())


def test_levels_of_published_networks() -> None:
    assert built("resnet18").feature_levels() == {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
    small = create_backbone("resnet18", image_size=32, stem="small").feature_levels((32, 32))
    assert small == {1: 64, 2: 128, 4: 256, 8: 512}
    with torch.device("meta"):  # shapes need no memory
        convnext = create_backbone("convnext_tiny")
    assert find_levels(convnext.body, convnext._features).keys() == {4, 8, 16, 32}


def test_last_map_equals_forward_features() -> None:
    backbone = built("resnet18")
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(backbone.forward_maps(images)[32], backbone.forward_features(images))


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet10t",
        pytest.param("timm/swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        "timm/vit_tiny_patch16_224",
    ],
)
def test_maps_equal_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    size = 64 if "resnet" in name else 224
    backbone = built(name, size)
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        maps = backbone.forward_maps(images)
        if "vit" in name:
            assert {s: m.shape[1:] for s, m in maps.items()} == {16: (192, 14, 14)}
            return
        reference = timm.create_model(name.removeprefix("timm/"), features_only=True, pretrained=False).eval()
        state = {key.replace("layers.", "layers_"): value for key, value in backbone.body.state_dict().items()}
        own = reference.state_dict()
        shared = {key: state[key] for key in own if key in state}
        assert len(shared) == len(own)
        reference.load_state_dict(shared)
        expected: list[Tensor] = reference(backbone.normalize(images))
    for map_, other in zip(list(maps.values())[:-1], expected[:-1], strict=True):  # a norm follows the last map
        torch.testing.assert_close(map_, other if other.shape == map_.shape else other.permute(0, 3, 1, 2))


def test_vit_pads_images_to_patch_size() -> None:
    backbone = built("vit_micro_p16", 64)
    with torch.no_grad():
        maps = backbone.forward_maps(torch.zeros(1, 3, 50, 70, dtype=torch.uint8))
    assert maps[16].shape == (1, 128, 4, 5)


@pytest.mark.parametrize(
    ("name", "strides", "frozen"),
    [
        ("resnet18", [8, 16], {"layer4"}),
        ("resnet9_small", [2, 4], {"stages"}),
        ("vit_micro_p16", [16], set()),
    ],
)
def test_freeze_unused_freezes_exactly_unused_parameters(name: str, strides: list[int], frozen: set[str]) -> None:
    backbone = built(name, 64).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.freeze_unused(strides, (64, 64))
    assert backbone.training
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    found = {key for key, parameter in backbone.body.named_parameters() if not parameter.requires_grad}
    assert {key.partition(".")[0] for key in found} == frozen
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.stack([own.square().mean() for own in backbone.forward_maps(images, strides).values()]).sum().backward()
    assert {key for key, parameter in backbone.body.named_parameters() if parameter.grad is None} == found


def test_layers_behind_last_map_are_skipped() -> None:
    backbone, ran = built("resnet18"), []
    backbone.feature_levels()  # runs all layers
    for name in ("layer2", "layer3", "layer4"):
        module = getattr(backbone.body, name)
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert list(backbone.forward_maps(images, [4, 8])) == [4, 8]
    assert ran == ["layer2"]
    backbone.forward_both(images, [4, 8])
    assert ran == ["layer2", "layer2", "layer3", "layer4"]


def test_maps_of_tokens_export_with_any_batch_size() -> None:
    class Maps(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens_to_map(tokens, 2, 3)

    tokens = torch.rand(4, 7, 5)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Maps(), (tokens[:2],), dynamic_shapes=({0: batch},)).module()
    assert torch.equal(program(tokens), tokens[:, 1:].transpose(1, 2).reshape(4, 5, 2, 3))
