"""Backbones with torch.compile and torch.export."""

import pytest
import torch

from lit_cv.nn import create_backbone


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_compile_without_graph_breaks(dtype):
    backbone = create_backbone("resnet9_small", in_channels=1, spatial_dropout=0.1).eval()
    images = torch.randint(0, 2, (2, 1, 16, 16)).to(dtype)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), backbone(images))


@pytest.mark.slow
def test_vit_compiles_and_exports():
    backbone = create_backbone("vit_micro_p4", in_channels=1, image_size=16).eval()
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    expected = backbone(images)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)
    torch.testing.assert_close(torch.export.export(backbone, (images,)).module()(images), expected)


def test_channels_last_is_preserved():
    backbone = create_backbone("resnet9_small").to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert backbone.forward_features(images).is_contiguous(memory_format=torch.channels_last)


def test_exported_program_accepts_raw_images():
    backbone = create_backbone("conv4", in_channels=1).eval()
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    program = torch.export.export(backbone, (images,)).module()
    torch.testing.assert_close(program(images), backbone(images))
