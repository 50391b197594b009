"""The memory layout of images does not change the results."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cv.augment import OPERATIONS, POLICIES, Operation, build_operations, cutmix, mixup, policy_operations
from lit_cv.augment.tone import equalize
from tests.marks import first_quick

ENTRIES: dict[str, Any] = {name: name for name in OPERATIONS} | {
    "affine": {"name": "affine", "degrees": 20, "translate": 0.2},
    "color_jitter": {"name": "color_jitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    "color_jitter, as matrices": {"name": "color_jitter", "brightness": 0.5, "hue": 0.2, "exact": False},
    "random_resized_crop, small": {"name": "random_resized_crop", "size": 32},
    "random_resized_crop, large": {"name": "random_resized_crop", "size": [80, 90]},
    "random_crop, reflected": {"name": "random_crop", "padding": 3, "fill": "reflect"},
}


def wide(images: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    around = torch.zeros(n, channels, 2 * height, width + 5, dtype=images.dtype)
    around[:, :, ::2, 2:-3] = images
    return around[:, :, ::2, 2:-3]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "transposed": lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
    "transposed, channels last": lambda images: images.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1),
    "samples last": lambda images: images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "part of a larger one": wide,
    "one sample": lambda images: images[:1].expand(len(images), -1, -1, -1),
    "one channel": lambda images: images[:, :1].expand(-1, images.shape[1], -1, -1),
}


def check(layout: str, channels: int, dtype: torch.dtype, change: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, 72, 84, generator=generator)
    images = LAYOUTS[layout]((images * 255).to(torch.uint8) if dtype == torch.uint8 else images.to(dtype))
    before = images.clone()
    results = []
    for each in (images, images.contiguous()):
        torch.manual_seed(3)
        results.append(change(each).float())
    assert torch.equal(images, before)
    # Another order of sums may round differently.
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1.0 if dtype == torch.uint8 else 0.02)


@pytest.mark.parametrize("layout", first_quick(LAYOUTS))
@pytest.mark.parametrize("name", ENTRIES)
def test_operations_ignore_memory_layout(name: str, layout: str) -> None:
    chain = build_operations([ENTRIES[name]])
    operation: Operation = chain.operations[0]
    for channels in (1, 3):
        for dtype in (torch.uint8, torch.float32, torch.bfloat16):
            for change in (operation, chain):
                check(layout, channels, dtype, change)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POLICIES)
def test_policies_ignore_memory_layout(name: str, layout: str) -> None:
    for size in (24, 70):
        check(layout, 3, torch.uint8, build_operations(policy_operations(name, size)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixing_ignores_memory_layout(layout: str) -> None:
    weight = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0])
    boxes = torch.tensor([[0, 0, 9, 80], [5, 70, 72, 84], [0, 0, 0, 0], [0, 0, 72, 84], [3, 4, 5, 6]])
    for dtype in (torch.uint8, torch.float32, torch.bfloat16):
        check(layout, 3, dtype, lambda images: mixup(images, weight))
        check(layout, 3, dtype, lambda images: cutmix(images, boxes))


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_nan_stays_in_its_sample(name: str) -> None:
    operation = OPERATIONS[name]()
    for seed in range(10):
        torch.manual_seed(seed)
        images = torch.rand(8, 3, 12, 12)
        images[2, 0, 4, 4] = torch.nan
        found = operation(images)
        assert found[torch.arange(8) != 2].isfinite().all()
    images = torch.rand(2, 3, 12, 12)
    images[0, 0, 4, 4] = torch.nan
    found = equalize(images.clone())
    assert torch.equal(found.isnan(), images.isnan())
    torch.testing.assert_close(found[1], equalize(images[1:].clone())[0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_error_explains_single_image(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"the shape \(3, 8, 8\): give \(N, 1 or 3, H, W\), images\[None\] for a single image"
    ):
        OPERATIONS[name]()(torch.zeros(3, 8, 8))
