"""Random rotation, scaling, translation and shear."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.augment.checks import check_choice, check_interval, check_number
from lit_cv.augment.geometry import Geometric
from lit_cv.augment.memory import on_device
from lit_cv.augment.operation import OPERATIONS, Params

__all__ = ["Affine", "Rotation", "Scaling", "affine_maps", "warp"]

_BORDERS = {"zero": "zeros", "edge": "border", "reflect": "reflection"}


@OPERATIONS.add("affine")
class Affine(Geometric):
    """Random rotation, translation, scaling and shear about the center, with bilinear interpolation.

    Parameters have the distributions of torchvision's RandomAffine, drawn for every sample; translations are integers.

    Args:
        degrees: Maximum rotation in either direction.
        translate: Maximum translation in either direction, as a fraction of the width and of the height.
        scale: Minimum and maximum scale factor; None for no scaling.
        shear: Maximum shear along x in either direction, in degrees, below 90.
        p: Probability of transforming a sample.
        fill: Values beyond the edges: "zero" (black), "edge" or "reflect" (mirror image).

    Example:
        >>> Affine(degrees=10, translate=0.1)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    computes_float = True
    overwrites = True

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: list[float] | tuple[float, float] | None = None,
        shear: float = 0.0,
        p: float = 1.0,
        fill: str = "zero",
    ) -> None:
        super().__init__(p)
        self.degrees = check_number("degrees", degrees, 0.0, 180.0)
        self.translate = check_number("translate", translate, 0.0, 1.0)
        self.scale = (1.0, 1.0) if scale is None else check_interval("scale", scale, 1e-3)
        self.shear = check_number("shear", shear, 0.0, 89.0)
        self.fill = check_choice("fill", fill, tuple(_BORDERS))
        self._border = "mirror" if fill == "reflect" else fill

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        height, width = size
        return {
            "angle": torch.empty(n).uniform_(-self.degrees, self.degrees),
            "x": (torch.empty(n).uniform_(-1, 1) * (self.translate * width)).round_(),
            "y": (torch.empty(n).uniform_(-1, 1) * (self.translate * height)).round_(),
            "scale": torch.empty(n).uniform_(*self.scale),
            "shear": torch.empty(n).uniform_(-self.shear, self.shear),
        }

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return warp(images, self._to_input(params, (images.shape[2], images.shape[3])), self.fill)

    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor:
        return affine_maps(size, **{name: params[name] for name in ("angle", "x", "y", "scale", "shear")})


@OPERATIONS.add("rotation")
class Rotation(Affine):
    """Random rotation about the center.

    Args:
        degrees: Maximum rotation in either direction.
        p: Probability of transforming a sample.
        fill: Values beyond the edges: "zero" (black), "edge" or "reflect" (mirror image).
    """

    def __init__(self, degrees: float = 15.0, p: float = 1.0, fill: str = "zero") -> None:
        super().__init__(degrees=degrees, p=p, fill=fill)


@OPERATIONS.add("scaling")
class Scaling(Affine):
    """Random scaling of the content of images; the image size does not change.

    Args:
        scale: Minimum and maximum scale factor.
        p: Probability of transforming a sample.
        fill: Values beyond the edges: "zero" (black), "edge" or "reflect" (mirror image).
    """

    def __init__(
        self, scale: list[float] | tuple[float, float] = (0.8, 1.2), p: float = 1.0, fill: str = "zero"
    ) -> None:
        super().__init__(scale=scale, p=p, fill=fill)


def affine_maps(
    size: tuple[int, int],
    angle: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    shear: Tensor,
    shear_y: Tensor | None = None,
) -> Tensor:
    """Return the maps from the transformed images back to the images, in pixels: see `Geometric.matrices`.

    Args:
        size: (height, width) of the images.
        angle: Rotation in degrees, clockwise, (N,).
        x: Translation to the right in pixels, (N,).
        y: Translation downward in pixels, (N,).
        scale: Scale factor, (N,).
        shear: Shear along x in degrees, (N,).
        shear_y: Shear along y in degrees, (N,); None for no shear.

    Returns:
        (N, 2, 3) float32.
    """
    turn, lean = torch.deg2rad(angle), torch.deg2rad(shear)
    lean_y = torch.zeros_like(lean) if shear_y is None else torch.deg2rad(shear_y)
    # Rotation times shear as in torchvision: R(turn) . shear_y . shear_x
    cos, sin = torch.cos(turn - lean_y) / torch.cos(lean_y), torch.sin(turn - lean_y) / torch.cos(lean_y)
    a, b = cos, -cos * torch.tan(lean) - torch.sin(turn)
    c, d = sin, -sin * torch.tan(lean) + torch.cos(turn)
    inverse = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (scale * (a * d - b * c)).view(-1, 1, 1)
    center = torch.tensor([size[1] / 2, size[0] / 2])
    moved = center + torch.stack([x, y], 1)
    return torch.cat([inverse, (center - (inverse @ moved[:, :, None])[:, :, 0])[:, :, None]], 2)


def warp(images: Tensor, maps: Tensor, fill: str = "zero") -> Tensor:
    """Transform images by affine maps with bilinear interpolation.

    Args:
        images: (N, C, H, W) floating point.
        maps: (N, 2, 3), from the result to the images, see `Geometric.matrices`; on the CPU.
        fill: Values beyond the edges: "zero", "edge" or "reflect".
    """
    n, _, height, width = images.shape
    if n == 0:
        return images
    size = torch.tensor([width / 2, height / 2])
    # grid_sample uses coordinates from -1 to 1.
    turn = maps[:, :, :2] * size / size[:, None]
    shift = (maps[:, :, :2] @ size + maps[:, :, 2]) / size - 1
    theta = on_device(torch.cat([turn, shift[:, :, None]], 2), images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=_BORDERS[fill], align_corners=False)
