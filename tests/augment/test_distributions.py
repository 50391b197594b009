"""Distributions of drawn parameters, compared with torchvision by two-sample tests with fixed seeds."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import v2

from lit_cv.augment import (
    OPERATIONS,
    Affine,
    ColorJitter,
    Cutout,
    GaussianBlur,
    HorizontalFlip,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    TrivialAugment,
    draw_cutmix,
    draw_mixup,
)
from lit_cv.augment.automatic import KINDS

N = 3000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def same(ours: torch.Tensor, theirs: list[float]) -> bool:
    return ks_2samp(ours.double().numpy(), np.array(theirs, dtype=float)).pvalue > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (40, 90)])
def test_resized_crop_distribution(size: tuple[int, int]) -> None:
    ours = RandomResizedCrop().draw_for(N, size)
    image = torch.empty(3, *size)
    reference = v2.RandomResizedCrop(32)
    theirs = [reference.make_params([image]) for _ in range(N)]
    for name in ("top", "left", "height", "width"):
        assert same(ours[name], [params[name] for params in theirs])
    assert int((ours["top"] + ours["height"]).max()) <= size[0]
    assert int((ours["left"] + ours["width"]).max()) <= size[1]
    assert min(int(ours[name].min()) for name in ("top", "left")) >= 0


@pytest.mark.parametrize(("size", "window"), [((10, 100), (10, 13)), ((100, 10), (13, 10))])
def test_resized_crop_falls_back_to_largest_center_crop(size: tuple[int, int], window: tuple[int, int]) -> None:
    params = RandomResizedCrop(scale=(1.0, 1.0)).draw_for(50, size)
    assert params["height"].unique().tolist() == [window[0]]
    assert params["width"].unique().tolist() == [window[1]]
    assert params["left"].unique().tolist() == [(size[1] - window[1]) // 2]


def test_color_jitter_distribution() -> None:
    ours = ColorJitter(0.8, [0.5, 1.5], 0.4, 0.2).draw_for(N, (8, 8))
    theirs = [v2.ColorJitter(0.8, (0.5, 1.5), 0.4, 0.2).make_params([]) for _ in range(N)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert same(ours[name], [params[f"{name}_factor"] for params in theirs])
    codes = (ours["order"] * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_affine_distribution() -> None:
    size = (30, 50)
    ours = Affine(degrees=30, translate=0.2, scale=(0.7, 1.6), shear=12).draw_for(N, size)
    reference = v2.RandomAffine(30, translate=(0.2, 0.2), scale=(0.7, 1.6), shear=12)
    theirs = [reference.make_params([torch.empty(3, *size)]) for _ in range(N)]
    assert same(ours["angle"], [params["angle"] for params in theirs])
    assert same(ours["x"], [params["translate"][0] for params in theirs])
    assert same(ours["y"], [params["translate"][1] for params in theirs])
    assert same(ours["scale"], [params["scale"] for params in theirs])
    assert same(ours["shear"], [params["shear"][0] for params in theirs])


def test_blur_and_crop_distributions() -> None:
    sigma = GaussianBlur(sigma=(0.1, 2.0)).draw_for(N, (8, 8))["sigma"]
    assert same(sigma, [v2.GaussianBlur(3, (0.1, 2.0)).make_params([])["sigma"][0] for _ in range(N)])
    params = RandomCrop(padding=4).draw_for(N, (32, 32))
    for name in ("top", "left"):
        assert chisquare(np.bincount(params[name].numpy(), minlength=9)).pvalue > 1e-3
        assert int(params[name].max()) == 8


def test_probability() -> None:
    for p in (0.2, 0.8):
        share = HorizontalFlip(p).draw_for(N, (8, 8))["applied"].float().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / N) ** 0.5


def test_trivial_augment_draws_every_operation_and_strength() -> None:
    params = TrivialAugment().draw_for(N * 4, (224, 224))
    assert params["kind"].shape == (N * 4, 1)
    assert chisquare(np.bincount(params["kind"][:, 0].numpy(), minlength=len(KINDS))).pvalue > 1e-3
    limits = {"rotate": 135, "translate_x": 32, "brightness": 0.99, "posterize": 6, "solarize": 1, "shear_y": 0.99}
    for name, limit in limits.items():
        strength = params["strength"][params["kind"] == KINDS.index(name)]
        assert strength.abs().max().item() == pytest.approx(limit)
        assert len(strength.abs().unique()) == 31
        assert (strength.min() < 0) == (name not in ("posterize", "solarize"))
    shifts = TrivialAugment().draw_for(N, (30, 60))
    assert shifts["strength"][shifts["kind"] == KINDS.index("translate_x")].abs().max() == 20


def test_rand_augment_draws_one_strength() -> None:
    params = RandAugment(num_operations=2, magnitude=15).draw_for(N, (224, 224))
    assert params["kind"].shape == (N, 2)
    for name, strength in {"rotate": 15.0, "brightness": 0.45, "translate_y": 50.0, "solarize": 0.5}.items():
        drawn = params["strength"][params["kind"] == KINDS.index(name)]
        assert drawn.abs().unique().tolist() == pytest.approx([strength])


def test_cutmix_area_is_beta_before_clipping() -> None:
    boxes, keep = draw_cutmix(N, (64, 48), alpha=1.0)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 64
    assert boxes[:, 3].max() <= 48
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    torch.testing.assert_close(keep, 1 - area / (64 * 48))
    # One side of relative length s and uniform center keeps s (1 - s / 4) of itself; s = sqrt(1 - u), u uniform:
    # E[(s (1 - s/4))^2] = E[s^2 - s^3 / 2 + s^4 / 16] = 1/2 - 1/5 + 1/48
    assert abs((1 - keep).mean().item() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.02
    theirs = [1 - v2.CutMix(num_classes=2).make_params([torch.empty(2, 3, 64, 48)])["lam_adjusted"] for _ in range(N)]
    assert same(1 - keep, theirs)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_are_beta_distributed(alpha: float) -> None:
    assert kstest(draw_mixup(N, alpha).numpy(), "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_cutout_centers_are_uniform() -> None:
    boxes = Cutout(size=8).draw_for(N, (32, 40))["box"]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 32
    assert boxes[:, 3].max() <= 40
    inner = boxes[(boxes[:, 0] > 0) & (boxes[:, 2] < 32)]
    assert (inner[:, 2] - inner[:, 0]).unique().tolist() == [8]
    odd = Cutout(size=7).draw_for(N, (32, 40))["box"]
    inner = odd[(odd[:, 0] > 0) & (odd[:, 2] < 32)]
    assert (inner[:, 2] - inner[:, 0]).unique().tolist() == [7]
    # side 8: the visible height is 8 unless the center is within 4 pixels of the top or bottom
    heights = (boxes[:, 2] - boxes[:, 0]).float().mean().item()
    expected = sum(min(y + 4, 32) - max(y - 4, 0) for y in range(32)) / 32
    assert abs(heights - expected) < 0.1


def test_draws_differ_between_samples_and_seeds() -> None:
    for name in OPERATIONS:
        options = {"brightness": 0.5} if name == "color_jitter" else {"degrees": 9} if name == "affine" else {}
        operation = OPERATIONS[name](**options)
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(operation.draw_for(64, (64, 64)))
        key = {"scaling": "scale"}.get(name, "applied" if "applied" in draws[0] else next(iter(draws[0])))
        assert len(draws[0][key].unique(dim=0)) > 1, name
        assert torch.equal(draws[0][key], draws[1][key]), name
        assert not torch.equal(draws[0][key], draws[2][key]), name
