"""Each operation, compared with torchvision's function with the same parameters, sample by sample."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from lit_cv.augment import (
    Affine,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomCrop,
    RandomResizedCrop,
    Solarize,
    color,
    tone,
)
from lit_cv.augment.affine import affine_maps, warp


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def smooth_images(n: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Return smooth images with noise, and regions of exact gray, black, white and saturated color."""
    coarse = torch.rand(n, channels, height // 4, width // 4)
    images = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    images = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
    images[:, :, :3] = (images[:, :, :3] * 2).round() / 2
    images[:, :, 3:5, :5] = 0.0
    images[:, :, 3:5, 5:9] = 1.0
    return images


def bytes_of(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("fill", ["zero", "reflect", "edge"])
@pytest.mark.parametrize("size", [None, [20, 28]])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_random_crop_equals_pad_and_crop(fill: str, size: list[int] | None, as_bytes: bool) -> None:
    images = smooth_images(9, 24, 32)
    images = bytes_of(images) if as_bytes else images
    operation = RandomCrop(padding=4, size=size, fill=fill)
    params = operation.draw(images)
    result = operation.apply(images, params)
    mode = {"zero": "constant", "reflect": "reflect", "edge": "edge"}[fill]
    for i in range(9):
        padded = TF.pad(images[i], [4], padding_mode=mode)
        expected = TF.crop(padded, int(params["top"][i]), int(params["left"][i]), *(size or [24, 32]))
        assert torch.equal(result[i], expected)


@pytest.mark.parametrize(("full", "size"), [((32, 32), 32), ((40, 56), [24, 20]), ((96, 90), [70, 80])])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resized_crop_equals_antialiased_resize(
    full: tuple[int, int], size: int | list[int], channels: int, dtype: torch.dtype, channels_last: bool
) -> None:
    images = smooth_images(7, *full, channels=channels)
    images = bytes_of(images) if dtype == torch.uint8 else images
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    operation = RandomResizedCrop(size, scale=(0.08, 1.0))
    params = operation.draw(images)
    result = operation.apply(images, params)
    out = [size, size] if isinstance(size, int) else size
    for i in range(7):
        window = [int(params[name][i]) for name in ("top", "left", "height", "width")]
        expected = TF.resized_crop(images[i], *window, out, antialias=True)
        difference = (result[i].float() - expected.float()).abs()
        # torch's integer arithmetic differs from its float arithmetic by one rounding step
        assert difference.max() <= (1.0 if dtype == torch.uint8 else 1e-5)
        assert difference.mean() <= (0.25 if dtype == torch.uint8 else 1e-6)


@pytest.mark.parametrize("fill", ["zero", "edge", "reflect"])
def test_affine_equals_torchvision(fill: str) -> None:
    images = smooth_images(12, 33, 48)
    operation = Affine(degrees=180, translate=0.3, scale=(0.5, 2.0), shear=40, fill=fill)
    params = operation.draw(images)
    result = operation.apply(images, params)
    for i in range(12):
        options = {
            "angle": params["angle"][i].item(),
            "translate": [params["x"][i].item(), params["y"][i].item()],
            "scale": params["scale"][i].item(),
            "shear": [params["shear"][i].item(), 0.0],
        }
        expected = TF.affine(images[i], interpolation=InterpolationMode.BILINEAR, **options)
        if fill == "zero":
            # positions are float32 in both: a pixel's weight may differ by a few 1e-5
            assert (result[i] - expected).abs().max() < 1e-3
        inside = TF.affine(torch.ones_like(images[i]), interpolation=InterpolationMode.BILINEAR, **options) == 1
        assert (result[i] - expected)[inside].abs().max() < 1e-3


def test_shear_along_y_equals_torchvision() -> None:
    images = smooth_images(3, 24, 32)
    angle, shear = torch.tensor([20.0, -70.0, 0.0]), torch.tensor([10.0, 0.0, -30.0])
    shear_y = torch.tensor([-15.0, 40.0, 5.0])
    maps = affine_maps((24, 32), angle, torch.zeros(3), torch.zeros(3), torch.ones(3), shear, shear_y)
    result = warp(images, maps)
    for i in range(3):
        shears = [shear[i].item(), shear_y[i].item()]
        expected = TF.affine(images[i], angle[i].item(), [0, 0], 1.0, shears, interpolation=InterpolationMode.BILINEAR)
        assert (result[i] - expected).abs().max() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_color_functions_equal_torchvision(name: str, channels: int) -> None:
    images = smooth_images(16, 24, 20, channels)
    strength = torch.linspace(-0.5, 0.5, 16) if name == "hue" else torch.linspace(0, 2, 16)
    result = getattr(color, f"adjust_{name}")(images.clone(), strength)
    for i in range(16):
        expected = getattr(TF, f"adjust_{name}")(images[i], strength[i].item())
        assert (result[i] - expected).abs().max() < 1e-3 / 255


def test_hue_of_every_color_equals_torchvision() -> None:
    levels = torch.linspace(0, 1, 18)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).view(1, 3, 18, 324)
    for shift in (-0.5, -0.3, -1 / 6, 0.0, 0.05, 1 / 3, 0.5):
        result = color.adjust_hue(cube.clone(), torch.tensor([shift]))
        assert (result - TF.adjust_hue(cube, shift)).abs().max() < 1e-3 / 255


@pytest.mark.parametrize("as_bytes", [True, False])
def test_color_jitter_applies_functions_in_drawn_order(as_bytes: bool) -> None:
    images = smooth_images(40, 16, 16)
    images = bytes_of(images) if as_bytes else images
    operation = ColorJitter(0.8, 0.8, 0.8, 0.2)
    params = operation.draw(images)
    result = operation.apply(images, params)
    names = ["brightness", "contrast", "saturation", "hue"]
    assert len({tuple(order) for order in params["order"].tolist()}) > 12
    for i in range(40):
        expected = TF.to_dtype(images[i], torch.float32, scale=True)
        for kind in params["order"][i].tolist():
            expected = getattr(TF, f"adjust_{names[kind]}")(expected, params[names[kind]][i].item())
        if as_bytes:  # a value half-way between two bytes may be rounded either way
            difference = (result[i].int() - bytes_of(expected).int()).abs()
            assert difference.max() <= 1
            assert difference.float().mean() < 0.01
        else:
            assert (result[i] - expected).abs().max() < 4e-3 / 255


def test_grayscale_equals_torchvision() -> None:
    images = smooth_images(5, 16, 16)
    assert (Grayscale(p=1.0)(images) - TF.rgb_to_grayscale(images, 3)).abs().max() < 1e-6


@pytest.mark.parametrize(("n", "size", "kernel"), [(1, (40, 52), 9), (6, (32, 32), 5), (4, (48, 30), 23)])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_equals_torchvision(n: int, size: tuple[int, int], kernel: int, channels: int) -> None:
    images = smooth_images(n, *size, channels=channels)
    operation = GaussianBlur(kernel, sigma=(0.1, 2.5), p=1.0)
    params = operation.draw(images)
    result = operation.apply(images, params)
    for i in range(n):
        expected = TF.gaussian_blur(images[i], [kernel, kernel], [params["sigma"][i].item()] * 2)
        assert (result[i] - expected).abs().max() < 0.1 / 255


def test_convolved_blur_equals_cpu_blur() -> None:
    from lit_cv.augment.blur import _convolve

    images = smooth_images(3, 32, 24)
    sigma = torch.tensor([0.5, 1.0, 1.7])
    kernels = (torch.arange(5) / sigma[:, None]).square().mul(-0.5).exp()
    kernels = kernels / (2 * kernels.sum(1, keepdim=True) - 1)
    result = _convolve(F.pad(images, (4,) * 4, mode="reflect"), kernels)
    for i in range(3):
        expected = TF.gaussian_blur(images[i], [9, 9], [sigma[i].item()] * 2)
        assert (result[i] - expected).abs().max() < 1e-5


def test_solarize_equals_torchvision() -> None:
    images = bytes_of(smooth_images(5, 16, 16))
    for threshold in (0, 51, 128, 255):
        expected = TF.solarize(images, threshold)
        assert torch.equal(Solarize(threshold / 255, p=1.0)(images), expected)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_posterize_equals_torchvision(bits: int) -> None:
    images = bytes_of(smooth_images(3, 16, 16))
    result = tone.posterize(images / 255, torch.full((3,), float(bits)))
    assert torch.equal(bytes_of(result), TF.posterize(images, bits))


def test_autocontrast_and_equalize_equal_torchvision() -> None:
    images = bytes_of(smooth_images(6, 24, 24) * 0.6 + 0.2)
    images[0, 0] = 77  # a constant channel
    images[1] = (images[1] // 64) * 64
    contrast = bytes_of(tone.autocontrast(images / 255))
    assert (contrast.int() - TF.autocontrast(images).int()).abs().max() <= 1  # torchvision truncates, lit_cv rounds
    assert (tone.autocontrast(images / 255) - TF.autocontrast(images / 255)).abs().max() < 1e-5
    assert torch.equal(bytes_of(tone.equalize(images / 255)), TF.equalize(images))


def test_sharpness_equals_torchvision() -> None:
    images = smooth_images(5, 24, 20)
    factor = torch.linspace(0.0, 2.0, 5)
    result = tone.adjust_sharpness(images.clone(), factor)
    for i in range(5):
        assert (result[i] - TF.adjust_sharpness(images[i], factor[i].item())).abs().max() < 1e-5


def test_automatic_operations_equal_torchvision() -> None:
    from lit_cv.augment import RandAugment
    from lit_cv.augment.automatic import KINDS

    images = bytes_of(smooth_images(len(KINDS), 32, 40)) / 255
    operation = RandAugment(num_operations=1, magnitude=18)
    params = operation.draw(images)
    params["kind"] = torch.arange(len(KINDS))[:, None]
    m = dict(zip(KINDS, [0.2, -0.3, 5.0, -7.0, 20.0, 0.5, -0.4, 0.3, -0.6, 3.0, 0.4, 0.0, 0.0, 0.0], strict=True))
    params["strength"] = torch.tensor(list(m.values()))[:, None]
    result = operation.apply(images, params)

    def affine(
        image: Tensor, angle: float = 0, x: float = 0, y: float = 0, shear: tuple[float, float] = (0, 0)
    ) -> Tensor:
        degrees = [math.degrees(math.atan(part)) for part in shear]
        return TF.affine(image, angle, [x, y], 1.0, degrees, interpolation=InterpolationMode.BILINEAR)

    expected = {
        "shear_x": lambda image: affine(image, shear=(m["shear_x"], 0)),
        "shear_y": lambda image: affine(image, shear=(0, m["shear_y"])),
        "translate_x": lambda image: affine(image, x=5),
        "translate_y": lambda image: affine(image, y=-7),
        "rotate": lambda image: affine(image, angle=20),
        "brightness": lambda image: TF.adjust_brightness(image, 1.5),
        "saturation": lambda image: TF.adjust_saturation(image, 0.6),
        "contrast": lambda image: TF.adjust_contrast(image, 1.3),
        "sharpness": lambda image: TF.adjust_sharpness(image, 0.4),
        "posterize": lambda image: TF.posterize(bytes_of(image), 5) / 255,
        "solarize": lambda image: TF.solarize(image, 0.6),
        "autocontrast": TF.autocontrast,
        "equalize": lambda image: TF.equalize(bytes_of(image)) / 255,
        "identity": lambda image: image,
    }
    assert list(expected) == list(KINDS)
    for i, name in enumerate(KINDS):
        assert (result[i] - expected[name](images[i])).abs().max() < 1e-3, name
