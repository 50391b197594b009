"""Choice of the values that normalize the images of a backbone, and its log line."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

from lit_cv.errors import MODULE, OptionError, argument
from lit_cv.nn.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from lit_cv.nn.stems import adapt_normalization
from lit_cv.nn.timm_networks import timm_name, timm_preprocessing
from lit_cv.nn.torchvision_networks import torchvision_names, torchvision_preprocessing
from lit_cv.nn.vit import is_vit_name
from lit_cv.nn.weights import Weights

__all__ = ["Statistics", "choose_preprocessing", "given_preprocessing", "log_preprocessing"]

_LOGGER = logging.getLogger("lit_cv")


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel of a set of images, in [0, 1] units."""

    mean: Sequence[float]
    std: Sequence[float]


def given_preprocessing(
    mean: Sequence[float] | None, std: Sequence[float] | None, in_channels: int
) -> Preprocessing | None:
    """Return the record of `mean` and `std` given as arguments, `None` if there are none.

    Raises:
        ValueError: If they are not one finite number per channel.
    """
    if mean is None and std is None:
        return None
    if std is not None and len(std) and min(std) <= 0:
        raise OptionError(MODULE, "std", list(std)[:8], "every standard deviation must be positive")
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != in_channels or not all(math.isfinite(value) for value in values):
            shown = None if values is None else list(values)[:8]
            channels = "the channel" if in_channels == 1 else f"each of the {in_channels} channels"
            raise OptionError(MODULE, name, shown, f"must be a number for {channels}, mean and std together")
    return Preprocessing(tuple(mean or ()), tuple(std or ()), source="as given")


def choose_preprocessing(
    name: str,
    in_channels: int,
    *,
    given: Preprocessing | None,
    weights: Weights | None,
    pretrained: bool,
    of_network: Preprocessing | None,
    data: Statistics | None,
) -> Preprocessing:
    """Choose the preprocessing of a backbone, with a mean and a standard deviation for each channel.

    Args:
        name: Name of the backbone.
        in_channels: Channels of its images.
        given: Values given as arguments. They come first.
        weights: Loaded weights. Their preprocessing comes second. That of the network's published weights comes after
            `of_network`, unless lit_cv saved the weights.
        pretrained: Whether the network has its published weights already.
        of_network: Preprocessing that the network itself declares. It comes third.
        data: Statistics of the data, for networks with no other known preprocessing.
    """
    chosen = (given or Preprocessing()).completed_by(weights and weights.preprocessing).completed_by(of_network)
    if pretrained or (weights is not None and not weights.of_backbone):
        chosen = chosen.completed_by(_published(name, weights, has_values=chosen.mean is not None))
    if chosen.mean is None and data is not None:
        chosen = chosen.completed_by(Preprocessing(tuple(data.mean), tuple(data.std), source="of the data"))
    default = Preprocessing((0.5,), (0.25,), source="the defaults")
    if in_channels == 3:
        default = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, source="ImageNet's")
    chosen = chosen.completed_by(default)
    mean, std = (adapt_normalization(values or (), in_channels) for values in (chosen.mean, chosen.std or default.std))
    return Preprocessing(tuple(mean), tuple(std), chosen.interpolation, chosen.crop, chosen.size, chosen.source)


def log_preprocessing(name: str, chosen: Preprocessing, image_size: tuple[int, int] | None) -> None:
    """Log the preprocessing of a network in one line, with the current image size if it differs from the weights'."""
    note = ""
    if image_size and chosen.size and image_size != chosen.size:
        note = f"; the images of this run have {image_size[0]} x {image_size[1]} pixels"
    _LOGGER.info("%s: images are normalized by %s%s", name, chosen, note)


def _published(name: str, weights: Weights | None, has_values: bool) -> Preprocessing | None:
    """Return the preprocessing of a network's published weights, `None` if it has none."""
    if (model := timm_name(name)) is not None:
        return timm_preprocessing(model, weights is not None and not has_values)
    if name in torchvision_names():
        return torchvision_preprocessing(name)
    if is_vit_name(name) and weights is not None and not has_values:
        _LOGGER.warning(
            "%s does not record how its images were normalized: using ImageNet's mean and standard deviation. Some "
            "published vision transformers of this layout use others: if these weights need 0.5, set %s and %s.",
            weights.source, argument("mean", MODULE), argument("std", MODULE),
        )  # fmt: skip
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, source="ImageNet's")
    return None
