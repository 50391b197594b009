"""Feature pyramids."""

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

from lit_cv.nn.pyramid import FeaturePyramid


def test_equals_torchvision_if_backbone_has_all_maps() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid({2: 3, 4: 6, 8: 12, 16: 24}, [4, 8, 16], channels=8)
    assert pyramid.sources == {4: 4, 8: 8, 16: 16}
    reference = FeaturePyramidNetwork([6, 12, 24], 8)
    reference.load_state_dict(pyramid.fpn.state_dict())
    maps = {4: torch.randn(2, 6, 9, 11), 8: torch.randn(2, 12, 5, 6), 16: torch.randn(2, 24, 3, 3)}
    expected = reference({str(s): m for s, m in maps.items()})
    for stride, own in pyramid(maps).items():
        torch.testing.assert_close(own, expected[str(stride)])


@pytest.mark.parametrize(
    ("levels", "strides"),
    [
        ({16: 64}, [4, 8, 16, 32]),
        ({8: 4, 16: 4, 32: 4}, [8, 16, 32, 64, 128]),
        ({4: 4, 16: 8}, [4, 8, 16]),
        ({4: 4}, [8]),
    ],
)
def test_levels_missing_in_backbone(levels: dict[int, int], strides: list[int]) -> None:
    pyramid = FeaturePyramid(levels, strides, channels=8)
    maps = {stride: torch.randn(1, channels, 128 // stride, 256 // stride) for stride, channels in levels.items()}
    out = pyramid(maps)
    assert {s: tuple(m.shape) for s, m in out.items()} == {s: (1, 8, 128 // s, 256 // s) for s in strides}
    sum(m.sum() for m in out.values()).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@pytest.mark.parametrize("strides", [[], [4, 16], [3, 6], [16, 8]])
def test_invalid_strides_are_refused(strides: list[int]) -> None:
    with pytest.raises(ValueError, match="powers of two, each twice the one before"):
        FeaturePyramid({4: 4}, strides, channels=8)
