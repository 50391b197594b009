"""Views of ContrastiveAugmentation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_cv.augment import ColorJitter, GaussianBlur, RandomResizedCrop
from lit_cv.callbacks.contrastive import ContrastiveAugmentation, local_view_side
from lit_cv.nn import create_backbone
from tests.callbacks.test_augmentation import fit, start


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("n_views", [2, 3])
def test_views_have_dtype_of_images(dtype: torch.dtype, n_views: int) -> None:
    images = (torch.rand(5, 3, 32, 40) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    batch = start(ContrastiveAugmentation(size=24, n_views=n_views), {"image": images})
    assert batch["views"].shape == (n_views, 5, 3, 24, 24)
    assert batch["views"].dtype == dtype
    assert batch["image"] is images
    flat = batch["views"].flatten(0, 1)
    assert flat.data_ptr() == batch["views"].data_ptr()  # flattening needs no copy
    assert len({view.numpy().tobytes() for view in flat}) == 5 * n_views


def test_views_belong_to_their_sample() -> None:
    images = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 32, 32).to(torch.uint8).contiguous()
    callback = ContrastiveAugmentation(operations=["random_resized_crop", "horizontal_flip"])
    views = callback.views(images)
    assert torch.equal(views, images.expand(2, -1, -1, -1, -1))


def test_small_views_are_not_blurred() -> None:
    callback = ContrastiveAugmentation()
    small, large = (callback._chains[key][0].operations for key in (True, False))
    assert not any(isinstance(operation, GaussianBlur) for operation in small)
    assert any(isinstance(operation, GaussianBlur) for operation in large)
    with_blur = ContrastiveAugmentation(blur=0.3)._chains[True][0].operations
    assert [operation.p for operation in with_blur if isinstance(operation, GaussianBlur)] == [0.3]


def test_strength_changes_colors() -> None:
    jitter = ContrastiveAugmentation(strength=0.5)._chains[True][0].operations[2]
    assert isinstance(jitter, ColorJitter)
    assert jitter.brightness == pytest.approx((0.6, 1.4))


def test_options_per_view() -> None:
    callback = ContrastiveAugmentation(n_views=2, operations=[[{"name": "solarize", "p": 1.0}], []])
    images = torch.full((3, 1, 8, 8), 200, dtype=torch.uint8)
    views = callback.views(images)
    assert views[0].unique().tolist() == [55]
    assert views[1].unique().tolist() == [200]
    chains = ContrastiveAugmentation(blur=[1.0, 0.1], solarize=[0.0, 0.2])._chains[False]
    assert [len(chain.operations) for chain in chains] == [5, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_views": 1}, "n_views=1"),
        ({"blur": [0.1, 0.2, 0.3]}, "a list of n_views=2 numbers"),
        ({"operations": [["horizontal_flip"]]}, r"has 1 lists: it must have one per view \(n_views=2\)"),
        ({"operations": ["horizontl_flip"]}, "did you mean 'horizontal_flip'"),
        ({"min_scale": 2.0}, "min_scale=2.0"),
        ({"min_scale": 0.5, "max_scale": 0.4}, "max_scale=0.4: must be at least min_scale=0.5"),
        ({"local_views": -1}, "local_views=-1"),
        ({"local_size": 0}, "local_size=0"),
        ({"local_scale": [0.4, 0.05]}, r"local_scale=\[0.4, 0.05\]"),
        ({"local_scale": [0.4, 1.5]}, "local_scale=1.5"),
        ({"local_blur": 2.0}, "local_blur=2.0"),
        ({"local_views": 2, "operations": ["horizontal_flip"]}, "local_operations=None: must be set"),
    ],
)
def test_error_names_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveAugmentation(**options)


def test_validation_views_are_fixed() -> None:
    torch.manual_seed(1)
    first = fit(ContrastiveAugmentation())
    torch.manual_seed(2)
    second = fit(ContrastiveAugmentation())
    for part in ("train_batches", "val_batches"):
        made = [[batch["views"] for batch in getattr(module, part)] for module in (first, second)]
        assert [views.shape for views in made[0][:2]] == [(2, 4, 1, 8, 8), (2, 2, 1, 8, 8)]
        assert all(torch.equal(a, b) for a, b in zip(*made, strict=True)) == (part == "val_batches")


@pytest.mark.parametrize(("size", "view_size", "blurred"), [(48, None, False), (80, None, True), (80, 40, False)])
def test_views_have_image_size_of_data(size: int, view_size: int | None, blurred: bool) -> None:
    callback = ContrastiveAugmentation(size=view_size)
    callback.setup(SimpleNamespace(datamodule=SimpleNamespace(image_size=(size, size))), None, "fit")  # type: ignore[arg-type]
    side = view_size or size
    assert callback.views(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)).shape == (2, 2, 3, side, side)
    chain = callback._chains[side < 64][0]
    assert any(isinstance(operation, GaussianBlur) for operation in chain.operations) == blurred


def test_custom_operations_crop_to_image_size_of_data() -> None:
    callback = ContrastiveAugmentation(operations=[["random_resized_crop"], ["random_crop", "horizontal_flip"]])
    callback.setup(SimpleNamespace(datamodule=SimpleNamespace(image_size=(24, 24))), None, "fit")  # type: ignore[arg-type]
    assert callback.views(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 2, 3, 24, 24)


def test_local_views_are_smaller_and_belong_to_their_sample() -> None:
    images = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 32, 48).to(torch.uint8).contiguous()
    crop = ["random_resized_crop"]
    callback = ContrastiveAugmentation(operations=crop, local_views=5, local_operations=crop)
    local = start(callback, {"image": images})["local_views"]
    assert torch.equal(local, images[:, :, :16, :16].expand(5, -1, -1, -1, -1))
    assert "local_views" not in start(ContrastiveAugmentation(), {"image": images})


def test_local_views_are_drawn_per_sample_and_cover_their_scale() -> None:
    ramp = torch.arange(64).expand(1, 64, 64) / 64
    images = torch.stack([ramp[0], ramp[0].T, torch.zeros(64, 64)])[None].expand(40, 3, 64, 64).contiguous()
    options: dict[str, Any] = {"strength": 0.0, "blur": 0.0, "local_blur": 0.0}
    callback = ContrastiveAugmentation(min_scale=0.4, local_views=4, local_scale=[0.05, 0.2], **options)
    for crops, low, high in ((callback.views(images), 0.4, 1.0), (callback.local_crops(images), 0.05, 0.2)):
        flat = crops.flatten(0, 1)
        flat = flat[flat[:, 0].ne(flat[:, 1]).flatten(1).any(1)]  # without those in grayscale
        assert len({crop.numpy().tobytes() for crop in flat}) == len(flat)
        width = (flat[:, 0, 0].amax(-1) - flat[:, 0, 0].amin(-1)) * flat.shape[-1] / (flat.shape[-1] - 1)
        height = (flat[:, 1, :, 0].amax(-1) - flat[:, 1, :, 0].amin(-1)) * flat.shape[-1] / (flat.shape[-1] - 1)
        area = width * height
        assert low - 0.1 * low < float(area.min()) < low + 0.25 * (high - low)
        assert high - 0.25 * (high - low) < float(area.max()) < high + 0.1 * high


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (518, 14), (96, 16), (64, 16), (32, 4), (28, 4)])
def test_patches_divide_local_views(side: int, patch: int) -> None:
    assert local_view_side(side) % patch == 0
    assert 0.3 * side < local_view_side(side) < 0.6 * side


def test_small_images_have_local_views() -> None:
    for side in range(1, 600):
        assert min(side, 8) <= local_view_side(side) <= side
    assert (local_view_side(224), local_view_side(8)) == (96, 8)


def test_options_of_local_views() -> None:
    callback = ContrastiveAugmentation(blur=[1.0, 0.1], solarize=[0.0, 0.2], local_views=1, strength=0.5)
    assert [len(chain.operations) for chain in callback._chains[False]] == [5, 6]
    small, large = (callback._local_chains[key].operations for key in (True, False))
    assert [isinstance(chain[-1], GaussianBlur) for chain in (small, large)] == [False, True]
    crop, _, jitter, *_ = large
    assert isinstance(crop, RandomResizedCrop)
    assert isinstance(jitter, ColorJitter)
    assert (crop.scale, jitter.brightness) == ((0.05, 0.4), pytest.approx((0.6, 1.4)))
    blurred = ContrastiveAugmentation(local_blur=0.3)._local_chains[True].operations
    assert [operation.p for operation in blurred if isinstance(operation, GaussianBlur)] == [0.3]
    assert ContrastiveAugmentation(local_views=1, size=48).local_crops(torch.zeros(2, 3, 64, 64)).shape[3:] == (16, 16)
    assert ContrastiveAugmentation(local_views=1, local_size=10).local_crops(torch.zeros(2, 3, 8, 9)).shape[3] == 10


def test_local_views_of_validation_are_fixed() -> None:
    torch.manual_seed(1)
    first = fit(ContrastiveAugmentation(local_views=3, local_size=4))
    torch.manual_seed(2)
    second = fit(ContrastiveAugmentation(local_views=3, local_size=4))
    for part in ("train_batches", "val_batches"):
        made = [[batch["local_views"] for batch in getattr(module, part)] for module in (first, second)]
        assert [crops.shape for crops in made[0][:2]] == [(3, 4, 1, 4, 4), (3, 2, 1, 4, 4)]
        assert all(torch.equal(a, b) for a, b in zip(*made, strict=True)) == (part == "val_batches")


def test_local_views_do_not_change_global_ones() -> None:
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    batches = []
    for callback in (ContrastiveAugmentation(), ContrastiveAugmentation(local_views=2)):
        torch.manual_seed(3)
        batches.append(start(callback, {"image": images}))
    assert torch.equal(batches[0]["views"], batches[1]["views"])


@pytest.mark.parametrize("backbone", ["vit_micro", "timm/vit_tiny_patch16_224", "timm/resnet18", "resnet9", "conv4"])
def test_backbones_encode_both_sizes(backbone: str) -> None:
    network = create_backbone(backbone, image_size=64)
    callback = ContrastiveAugmentation(local_views=2)
    batch = start(callback, {"image": torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)})
    features = [network(batch[name].flatten(0, 1)) for name in ("views", "local_views")]
    assert [part.shape for part in features] == [(4, network.num_features)] * 2
