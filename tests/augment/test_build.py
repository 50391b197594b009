"""Declarative lists of operations, and errors about invalid ones."""

from typing import Any

import pytest

from lit_cv.augment import (
    POLICIES,
    ColorJitter,
    Cutout,
    GaussianBlur,
    HorizontalFlip,
    build_operations,
    policy_operations,
    simclr_operations,
)


def test_list_of_names_and_dicts() -> None:
    chain = build_operations(["horizontal_flip", {"name": "color_jitter", "brightness": 0.4, "hue": [-0.1, 0.2]}])
    flip, jitter = chain.operations
    assert isinstance(flip, HorizontalFlip)
    assert isinstance(jitter, ColorJitter)
    assert jitter.brightness == pytest.approx((0.6, 1.4))
    assert jitter.hue == (-0.1, 0.2)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (["horizontl_flip"], "operations='horizontl_flip': there is no such operation: did you mean 'horizontal_flip'"),
        ([{"name": "random_crop", "pading": 2}], "'random_crop' has no argument 'pading': did you mean 'padding'"),
        ([{"name": "horizontal_flip", "p": 1.5}], "'horizontal_flip': p=1.5: must be a number from 0 to 1"),
        ([{"name": "horizontal_flip", "p": "often"}], "p='often': must be a number"),
        ([{"name": "random_crop", "fill": "blue"}], "fill='blue': choose 'zero' or 'reflect' or 'edge'"),
        ([{"name": "random_crop", "padding": -1}], "padding=-1"),
        ([{"name": "random_resized_crop", "scale": [1.0, 0.5]}], "lower number first"),
        ([{"name": "random_resized_crop", "scale": 0.5}], "scale=0.5: must be two numbers"),
        ([{"name": "random_resized_crop", "size": 0}], "size=0: must be a number of pixels"),
        ([{"name": "gaussian_blur", "kernel_size": 4}], "kernel_size=4: must be an odd number"),
        ([{"name": "color_jitter", "hue": 0.7}], "hue=0.7: must be a number from 0 to 0.5"),
        ([{"name": "cutout", "size": 3.5}], "size=3.5: must be an integer number of pixels, or a fraction below 1"),
        ([{"name": "rand_augment", "magnitude": 31}], "magnitude=31: must be a number from 0 to 30"),
        ([{"p": 0.5}], "give a name"),
        ([3], "operation 3: give a name"),
        ("horizontal_flip", "give a list"),
    ],
)
def test_invalid_lists_are_refused(operations: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        build_operations(operations)
    assert "\n" not in str(caught.value)


def test_error_names_size_of_small_images() -> None:
    with pytest.raises(ValueError, match="smaller"):
        build_operations([{"name": "random_crop", "padding": 0, "size": 64}]).draw_for(1, (32, 32))
    import torch

    with pytest.raises(ValueError, match="are too small for"):
        GaussianBlur(31, p=1.0)(torch.rand(1, 3, 12, 12))
    with pytest.raises(ValueError, match="are too small for"):
        build_operations([{"name": "random_crop", "padding": 9, "fill": "reflect"}])(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", POLICIES)
def test_policies_build_and_have_output_size(name: str) -> None:
    chain = build_operations(policy_operations(name, 20))
    assert chain.output_size((40, 32)) == (20, 20)


def test_error_suggests_nearest_policy() -> None:
    with pytest.raises(ValueError, match="did you mean 'photographs'"):
        policy_operations("photograph")


def test_simclr_strengths_equal_paper() -> None:
    names = [entry if isinstance(entry, str) else entry["name"] for entry in simclr_operations(96)]
    assert names == ["random_resized_crop", "horizontal_flip", "color_jitter", "grayscale", "gaussian_blur"]
    jitter = build_operations(simclr_operations(96, strength=0.5)).operations[2]
    assert isinstance(jitter, ColorJitter)
    assert jitter.brightness == jitter.contrast == jitter.saturation == pytest.approx((0.6, 1.4))
    assert jitter.hue == pytest.approx((-0.1, 0.1))
    assert jitter.p == 0.8


def test_repr_round_trip() -> None:
    assert repr(Cutout(size=8, p=0.5)) == "Cutout(size=8, value=0.5, p=0.5)"
