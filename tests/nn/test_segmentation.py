"""Segmentation heads."""

import pytest
import torch
from torch import nn

from lit_cv.losses import pixel_cross_entropy
from lit_cv.nn import create_backbone
from lit_cv.nn.segmentation import SEGMENTERS, build_segmenter


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = torch.full((2, 3, 60, 64), 90, dtype=torch.uint8), torch.zeros(2, 60, 64, dtype=torch.int64)
    for n, (y, x) in enumerate([(8, 12), (30, 34)]):
        images[n, n, y : y + 20, x : x + 16] = 255
        masks[n, y : y + 20, x : x + 16] = n + 1
    return images, masks


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("name", SEGMENTERS)
def test_head_fits_two_images(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    images, masks = scene()
    backbone = create_backbone("resnet9_small")
    head = build_segmenter(name, backbone.feature_levels(), 3, stride=2, channels=32, dropout=0.0)
    network = nn.ModuleList([backbone, head]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(30):
        logits = head.upsample(head(backbone.forward_maps(images, head.strides)), (60, 64))
        loss = pixel_cross_entropy(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = logits.argmax(1)
    for kind in (0, 1, 2):
        both, either = ((predicted == kind) & (masks == kind)).sum(), ((predicted == kind) | (masks == kind)).sum()
        assert both / either > 0.8


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("levels", [{2: 6, 4: 8, 8: 12, 16: 16, 32: 24}, {8: 16}])
def test_any_backbone_and_size(name: str, levels: dict[int, int]) -> None:
    head = build_segmenter(name, levels, 4, stride=4, channels=16).eval()
    for size in [(64, 96), (72, 80)]:
        maps = {s: torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)) for s, c in levels.items()}
        assert set(head.strides) <= maps.keys()
        logits = head({stride: maps[stride] for stride in head.strides})
        assert logits.shape == (2, 4, size[0] // 4, size[1] // 4)
        assert head.upsample(logits, size).shape == (2, 4, *size)


def test_upsampling_keeps_locations() -> None:
    head = build_segmenter("fcn", {4: 8}, 2, stride=4, channels=8)
    coarse = torch.zeros(1, 2, 5, 6)
    coarse[0, 1, 3, 1] = 1.0
    fine = head.upsample(coarse, (18, 21))
    assert fine.shape == (1, 2, 18, 21)
    y, x = divmod(int(fine[0, 1].argmax()), 21)
    assert y in (13, 14)
    assert x in (5, 6)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no segmentation head 'unet': choose one of fcn, deeplab"):
        build_segmenter("unet", {4: 8}, 2)
    with pytest.raises(ValueError, match="num_classes=1"):
        build_segmenter("fcn", {4: 8}, 1)
    with pytest.raises(ValueError, match="stride=3"):
        build_segmenter("fcn", {4: 8}, 2, stride=3)
    with pytest.raises(ValueError, match="stride=8: the backbone's map for DeepLab has stride 4"):
        build_segmenter("deeplab", {2: 8, 4: 8}, 2, stride=8)
