"""Networks of the user's own, by `file.Class`.

Such a class is an `nn.Module` that has, once built, the attribute `num_features`, a number F. Its `forward` takes
normalized images (N, C, H, W) and returns features (N, F), or a feature map (N, F, h, w), which is averaged. Its
constructor gets what it accepts of `in_channels` and `image_size`, the height and width in pixels. It may have `mean`
and `std`, a number for each channel in [0, 1] units, by which its images are to be normalized. Fine-tuning takes its
submodules for its stages, and those of a container named `stages`, `blocks` or `layers`.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_cv.nn.backbone import Network
from lit_cv.nn.preprocessing import Preprocessing
from lit_cv.nn.sizes import size_error
from lit_cv.registry import Registry, subclass_problem
from lit_cv.signatures import build

__all__ = ["NETWORKS", "build_own"]

_PROBES = ((64, 64), (224, 224), (32, 32), (28, 28))  # sizes to try where none is given


def _misfit(found: object) -> str | None:
    if (problem := subclass_problem(found, nn.Module)) is not None:
        return problem
    return "no network: it has no forward" if cast(Any, found).forward is nn.Module.forward else None


NETWORKS: Registry[Callable[..., nn.Module]] = Registry("backbone", nn.Module, "lit_cv.nn", _misfit)
"""What the user's own networks must be; the built-in ones are listed by `list_backbones`."""


def build_own(name: str, kind: Callable[..., nn.Module], in_channels: int, size: tuple[int, int] | None) -> Network:
    """Build a network of the user's own, and look at what it gives for an image.

    Args:
        name: Its name, for messages.
        kind: Its class.
        in_channels: Channels of the images.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: If it has no `num_features`, or its `forward` gives another shape or takes no such images.
    """
    body = build(kind, name, offered={"in_channels": in_channels, **({"image_size": size} if size else {})})
    num_features = getattr(body, "num_features", None)
    if not isinstance(num_features, int) or isinstance(num_features, bool) or num_features < 1:
        raise ValueError(
            f"{name} has no num_features: set it to the number of features of an image, a whole number, in __init__."
        )
    if lazy := [key for key, parameter in body.named_parameters() if is_lazy(parameter)]:
        raise ValueError(f"{name} has layers whose sizes are unknown ({lazy[0]}): give them in place of lazy layers.")
    shape = _probe(name, body, in_channels, size)
    mean, std = (_channel_values(name, body, attribute) for attribute in ("mean", "std"))
    has_map = shape is not None and len(shape) == 4
    if mean is None and std is None:
        return Network(body, _features, _pool, num_features, has_map)
    return Network(body, _features, _pool, num_features, has_map, Preprocessing(mean, std, source=name))


def _features(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, body(x))


def _pool(body: nn.Module, x: Tensor) -> Tensor:
    _check_shape(type(body).__name__, cast(Any, body).num_features, x)
    return x.mean((2, 3)) if x.ndim == 4 else x


def _check_shape(name: str, num_features: int, output: object) -> None:
    """Raise ValueError unless this is what `forward` must return."""
    if not isinstance(output, Tensor):
        raise ValueError(f"{name}.forward returned a {type(output).__name__}: give a tensor.")
    if output.ndim not in (2, 4) or output.shape[1] != num_features:
        raise ValueError(
            f"{name}.forward returned the shape {tuple(output.shape)}: give (N, {num_features}) or a feature map "
            f"(N, {num_features}, h, w), as its num_features says."
        )


def _probe(name: str, body: nn.Module, in_channels: int, size: tuple[int, int] | None) -> torch.Size | None:
    """Return the shape of what a network gives for two images of a size, `None` if that shows only in use.

    A copy in evaluation mode is asked, so that nothing of the network changes.
    """
    parameter = next(body.parameters(), torch.empty(0))
    network = copy.deepcopy(body).eval()
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    for height, width in (size,) if size else _PROBES:
        images = torch.zeros(2, in_channels, height, width, device=parameter.device, dtype=parameter.dtype)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices):
                output = network(images)
        except Exception as error:  # of code of the user's own
            if size:
                raise size_error(name, size, error) from error
            continue
        _check_shape(name, cast(Any, body).num_features, output)
        return cast(Tensor, output).shape
    return None


def _channel_values(name: str, body: nn.Module, attribute: str) -> tuple[float, ...] | None:
    """Return the mean or the standard deviation that a network has as an attribute, `None` if it has none."""
    value = getattr(body, attribute, None)
    if value is None or (isinstance(value, Tensor) and value.is_meta):
        return None
    numbers = value.flatten().tolist() if isinstance(value, Tensor) else value
    if not isinstance(numbers, list | tuple) or not all(isinstance(each, int | float) for each in numbers):
        raise ValueError(f"{name}.{attribute} is a {type(value).__name__}: give a list of a number for each channel.")
    return tuple(float(each) for each in numbers)
