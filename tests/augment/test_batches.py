"""Properties of every operation and policy on batches: dtype, layout, independence, devices."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_cv.augment import (
    OPERATIONS,
    POLICIES,
    Chain,
    ColorJitter,
    GaussianBlur,
    HorizontalFlip,
    Operation,
    RandomResizedCrop,
    build_operations,
    policy_operations,
)
from lit_cv.augment import chain as chain_module
from lit_cv.augment.operation import take

OPTIONS: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 20, "translate": 0.2},
    "color_jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    "random_resized_crop": {"size": [24, 20]},
}
ALL = [*OPERATIONS, *(f"policy {name}" for name in POLICIES)]


def make(name: str) -> Operation:
    if name.startswith("policy "):
        return build_operations(policy_operations(name.removeprefix("policy "), 24))
    return OPERATIONS[name](**OPTIONS.get(name, {}))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_dtype_layout_shape_and_range(name: str, dtype: torch.dtype) -> None:
    operation = make(name)
    for n in (0, 1, 2, 7):
        for channels in (1, 3):
            for layout in (torch.contiguous_format, torch.channels_last):
                images = torch.rand(n, channels, 28, 36)
                images = (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)
                images = images.contiguous(memory_format=layout)
                before = images.clone()
                result = operation(images)
                assert torch.equal(images, before)
                assert result.shape == (n, channels, *operation.output_size((28, 36)))
                assert result.dtype == dtype
                if n:  # an empty batch has no layout
                    assert result.is_contiguous(memory_format=layout)
                    assert result.float().min() >= 0
                    assert result.float().max() <= (255 if dtype == torch.uint8 else 1 + 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_samples_differ_and_seed_is_reproducible(name: str) -> None:
    operation = make(name)
    images = torch.rand(1, 3, 32, 32).expand(32, 3, 32, 32).contiguous()
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(operation(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert len({sample.numpy().tobytes() for sample in results[0]}) > 1


@pytest.mark.parametrize("name", [name for name in ALL if name != "gaussian_noise"])
def test_sample_depends_only_on_its_parameters(name: str) -> None:
    operation = make(name)
    images = (torch.rand(9, 3, 32, 32) * 255).to(torch.uint8)
    params = operation.draw(images)
    together = operation.apply(images, params)
    for i in range(9):
        alone = operation.apply(images[i : i + 1], take(params, slice(i, i + 1)))
        # one rounding step if sums are in another order
        assert (together[i].int() - alone[0].int()).abs().max() <= 1


def test_unselected_samples_do_not_change() -> None:
    images = torch.rand(20, 3, 16, 16)
    operation = ColorJitter(brightness=[2.0, 3.0], p=0.5)
    params = operation.draw(images)
    changed = (operation.apply(images, params) != images).flatten(1).any(1)
    assert torch.equal(changed, params["applied"])
    assert 0 < int(changed.sum()) < 20
    assert torch.equal(ColorJitter(brightness=[2.0, 3.0], p=0.0)(images), images)


def test_chain_equals_operations_and_rounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = (torch.rand(11, 3, 40, 40) * 255).to(torch.uint8)
    operations = [HorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), GaussianBlur(5), HorizontalFlip()]
    chain = Chain(operations)
    params = chain.draw(images)
    result = chain.apply(images, params)
    expected = images.float() / 255
    for i, operation in enumerate(operations):
        expected = operation.apply(expected, chain.params_of(params, i))
    assert (result.float() - expected * 255).abs().max() <= 0.5 + 1e-3
    monkeypatch.setattr(chain_module, "_TOGETHER", 2 * 40 * 40 * 3)
    assert (chain.apply(images, params).int() - result.int()).abs().max() <= 1
    monkeypatch.setattr(chain_module, "_LARGE", 1)
    assert (chain.apply(images, params).int() - result.int()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_chain_that_crops_first_equals_operations(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    images = (torch.rand(11, 3, 40, 40) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    crop, rest = RandomResizedCrop(16), [HorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)]
    chain = Chain([HorizontalFlip(), crop, *rest])
    params = chain.draw(images)
    split = chain.apply(images, params)
    monkeypatch.setattr(Chain, "_leading_crops", lambda self, size: 0)
    torch.testing.assert_close(split, chain.apply(images, params), atol=1 if dtype == torch.uint8 else 1e-3, rtol=0)


@pytest.mark.parametrize(
    ("operations", "count"),
    [
        ([RandomResizedCrop(16), ColorJitter()], 1),
        ([HorizontalFlip(), RandomResizedCrop(16)], 2),
        ([ColorJitter(), RandomResizedCrop(16)], 0),
        ([RandomResizedCrop(40), ColorJitter()], 0),
    ],
)
def test_chain_crops_first_if_no_operation_before_computes_float(operations: list[Any], count: int) -> None:
    assert Chain(operations)._leading_crops((32, 32)) == count


def test_empty_chain_copies() -> None:
    images = torch.rand(2, 3, 8, 8)
    result = Chain([])(images)
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\)"),
        (torch.zeros(2, 4, 8, 8), "1 or 3"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "int64"),
        ([1, 2], "list"),
    ],
)
def test_invalid_images_are_refused(images: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build_operations(["horizontal_flip"]).apply(images, {})


class OneDevice(TorchDispatchMode):
    """Raise an error if an operation mixes devices, like a GPU; the device "meta" does not always do so."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "copy" not in func.__name__ or "index" in func.__name__:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
            assert len({tensor.device for tensor in tensors}) <= 1, f"{func} on several devices"
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_no_device_mixing_or_synchronization(name: str) -> None:
    # The device "meta" has no values: reading one fails.
    operation = make(name)
    for dtype in (torch.uint8, torch.float32):
        images = torch.empty(64, 3, 48, 52, dtype=dtype, device="meta")
        params = operation.draw(images)
        with OneDevice():
            result = operation.apply(images, params)
        assert result.device.type == "meta"
        assert result.shape == (64, 3, *operation.output_size((48, 52)))
        assert result.dtype == dtype


def test_number_of_threads_is_restored() -> None:
    torch.set_num_threads(2)
    try:
        build_operations(["horizontal_flip"])(torch.rand(4, 3, 8, 8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
