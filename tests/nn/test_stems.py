"""Stems for small images and other numbers of channels."""

import pytest
import torch
from torch import nn

from lit_cv.nn import create_backbone, has_small_stem, list_backbones
from lit_cv.nn.stems import adapt_channels, adapt_normalization, first_convolution, replace_input
from tests.marks import first_quick


@pytest.mark.parametrize(
    ("name", "standard", "small"),
    first_quick(
        [
            ("resnet18", 1, 4),
            ("densenet121", 1, 4),
            ("regnet_y_400mf", 1, 2),
            ("convnext_tiny", 1, 2),
            ("efficientnet_b0", 1, 2),
            ("mobilenet_v3_small", 1, 2),
            ("mnasnet0_5", 1, 2),
            ("shufflenet_v2_x0_5", 1, 4),
            ("googlenet", 1, 4),
        ],
        3,
    ),
)
def test_small_stem_keeps_resolution(name, standard, small):
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for stem, side in (("standard", standard), ("small", small)):
        backbone = create_backbone(name, stem=stem).eval()
        with torch.no_grad():
            assert backbone.forward_features(images).shape == (
                1,
                backbone.forward_features(images).shape[1],
                side,
                side,
            )


def test_small_resnet_stem_is_3x3_without_pooling():
    body = create_backbone("resnet18", stem="small", in_channels=1).body
    assert tuple(body.conv1.weight.shape) == (64, 1, 3, 3)
    assert body.conv1.stride == (1, 1)
    assert not any(isinstance(module, nn.MaxPool2d) for module in body.modules())


def test_has_small_stem():
    assert has_small_stem("resnet50")
    assert has_small_stem("wide_resnet50_2")
    assert has_small_stem("resnext50_32x4d")
    for name in ("vgg11", "resnet9", "conv4", "vit_b_16", "timm/resnet18", "nonsense"):
        assert not has_small_stem(name)
    for name in ("vgg11", "resnet9", "conv4"):  # suit small images without a change
        with torch.device("meta"):
            create_backbone(name, stem="small")


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "alexnet", "inception_v3", "squeezenet1_0", "maxvit_t"])
def test_error_lists_networks_with_small_stem(name):
    assert name in list_backbones()
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=f"{name} has no stem for small images.*resnet.*convnext"),
    ):
        create_backbone(name, stem="small")


def test_adapted_gray_filter_equals_rgb_filter_on_copies():
    weight, gray = torch.randn(8, 3, 5, 5), torch.rand(2, 1, 16, 16)
    one = nn.functional.conv2d(gray, adapt_channels(weight, 1))
    torch.testing.assert_close(one, nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_adapted_filters_repeat_and_rescale(channels):
    weight = torch.randn(8, 3, 5, 5)
    adapted = adapt_channels(weight, channels)
    for channel in range(channels):
        torch.testing.assert_close(adapted[:, channel], weight[:, channel % 3] * 3 / channels)


def test_adapt_normalization():
    assert adapt_normalization([0.1, 0.2, 0.6], 1) == pytest.approx([0.3])
    assert adapt_normalization([0.1, 0.2, 0.6], 4) == [0.1, 0.2, 0.6, 0.1]
    assert adapt_normalization([0.1, 0.2, 0.6], 3) == [0.1, 0.2, 0.6]


@pytest.mark.parametrize("channels", [1, 12])
def test_replaced_input_keeps_output_variance(channels):
    body = nn.Sequential(nn.Conv2d(3, 256, 7, bias=True))
    old = body[0]
    replace_input(body, channels)
    new = first_convolution(body)[1]
    assert new.in_channels == channels
    assert torch.equal(new.bias, old.bias)
    before, after = old(torch.randn(16, 3, 9, 9)).var(), new(torch.randn(16, channels, 9, 9)).var()
    assert 0.8 < before / after < 1.25


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "squeezenet1_1"])
def test_any_number_of_channels(name):
    backbone = create_backbone(name, in_channels=5, image_size=64)
    assert first_convolution(backbone.body)[1].in_channels == 5
    assert backbone.mean.flatten().tolist() == [0.5] * 5
    assert backbone.std.flatten().tolist() == [0.25] * 5
