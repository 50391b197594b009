"""Views of ContrastiveAugmentation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_cv.augment import ColorJitter, GaussianBlur
from lit_cv.callbacks.contrastive import ContrastiveAugmentation
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
        ({"min_scale": 2.0}, "scale"),
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
