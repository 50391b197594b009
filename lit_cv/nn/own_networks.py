"""User-defined networks, named as `file.Class`.

Such a class is an `nn.Module` whose instances have the attribute `num_features`, an integer F. Its `forward` takes
normalized images (N, C, H, W) and returns features (N, F), or a feature map (N, F, h, w), which is averaged. Its
constructor receives `in_channels` and `image_size` (height and width in pixels) if it accepts them. The optional
attributes `mean` and `std`, one number per channel in [0, 1] units, normalize its images. Fine-tuning treats its
submodules, and those of a container named `stages`, `blocks` or `layers`, as its stages.
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

__all__ = ["NETWORKS", "build_user_network"]

_PROBES = ((64, 64), (224, 224), (32, 32), (28, 28))  # sizes to try if no image size is set


def _misfit(candidate: object) -> str | None:
    if (problem := subclass_problem(candidate, nn.Module)) is not None:
        return problem
    return "no network: it has no forward" if cast(Any, candidate).forward is nn.Module.forward else None


NETWORKS: Registry[Callable[..., nn.Module]] = Registry("backbone", nn.Module, "lit_cv.nn", _misfit)
"""Requirements on user-defined networks; `list_backbones` lists the built-in ones."""


def build_user_network(
    name: str, kind: Callable[..., nn.Module], in_channels: int, size: tuple[int, int] | None
) -> Network:
    """Build a user-defined network and check the shape of its output.

    Args:
        name: Name of the network, for messages.
        kind: Class of the network.
        in_channels: Channels of the images.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: If it has no `num_features`, or its `forward` returns another shape or fails for such images.
    """
    body = build(kind, name, offered={"in_channels": in_channels, **({"image_size": size} if size else {})})
    num_features = getattr(body, "num_features", None)
    if not isinstance(num_features, int) or isinstance(num_features, bool) or num_features < 1:
        raise ValueError(
            f"{name} has no num_features: set it in __init__ to the number of features per image, an integer."
        )
    if lazy := [key for key, parameter in body.named_parameters() if is_lazy(parameter)]:
        raise ValueError(f"{name} has lazy layers of unknown size ({lazy[0]}): use layers with explicit sizes.")
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
    """Raise ValueError unless the output of `forward` is a tensor of a valid shape."""
    if not isinstance(output, Tensor):
        raise ValueError(f"{name}.forward returned a {type(output).__name__}: return a tensor.")
    if output.ndim not in (2, 4) or output.shape[1] != num_features:
        raise ValueError(
            f"{name}.forward returned the shape {tuple(output.shape)}: return (N, {num_features}) or a feature map "
            f"(N, {num_features}, h, w), to match its num_features."
        )


def _probe(name: str, body: nn.Module, in_channels: int, size: tuple[int, int] | None) -> torch.Size | None:
    """Return the output shape of a network for two images, `None` if no probed size works.

    Runs a copy in evaluation mode, so that the network does not change.
    """
    parameter = next(body.parameters(), torch.empty(0))
    network = copy.deepcopy(body).eval()
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    for height, width in (size,) if size else _PROBES:
        images = torch.zeros(2, in_channels, height, width, device=parameter.device, dtype=parameter.dtype)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices):
                output = network(images)
        except Exception as error:  # user code may raise anything
            if size:
                raise size_error(name, size, error) from error
            continue
        _check_shape(name, cast(Any, body).num_features, output)
        return cast(Tensor, output).shape
    return None


def _channel_values(name: str, body: nn.Module, attribute: str) -> tuple[float, ...] | None:
    """Return the attribute `mean` or `std` of a network as numbers, `None` if it has none."""
    value = getattr(body, attribute, None)
    if value is None or (isinstance(value, Tensor) and value.is_meta):
        return None
    numbers = value.flatten().tolist() if isinstance(value, Tensor) else value
    if not isinstance(numbers, list | tuple) or not all(isinstance(each, int | float) for each in numbers):
        raise ValueError(f"{name}.{attribute} is a {type(value).__name__}: use a list with one number per channel.")
    return tuple(float(each) for each in numbers)
