"""By which values the images of a backbone are normalized, and what the log says of it."""

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
    """Mean and standard deviation of each channel of some images, in [0, 1] units."""

    mean: Sequence[float]
    std: Sequence[float]


def given_preprocessing(
    mean: Sequence[float] | None, std: Sequence[float] | None, in_channels: int
) -> Preprocessing | None:
    """Return the values that were given as arguments, `None` if there are none.

    Raises:
        ValueError: If they are no number for each channel.
    """
    if mean is None and std is None:
        return None
    if std is not None and len(std) and min(std) <= 0:
        raise OptionError(MODULE, "std", list(std)[:8], "every standard deviation must be positive")
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != in_channels or not all(math.isfinite(value) for value in values):
            shown = None if values is None else list(values)[:8]
            channels = "the channel" if in_channels == 1 else f"each of the {in_channels} channels"
            raise OptionError(MODULE, name, shown, f"give a number for {channels}, mean and std together")
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
    """Return how images are prepared for a backbone, with a mean and a standard deviation for each of its channels.

    Args:
        name: Name of the backbone.
        in_channels: Channels of its images.
        given: What was given as arguments: it comes first.
        weights: Weights that were read: what they say comes next. What the published weights of the same network were
            prepared by comes after `of_network`, if they are not from this project.
        pretrained: Whether the network holds published weights already.
        of_network: What the network itself says.
        data: What the images of the data have, for networks of whose weights nothing is known.
    """
    found = (given or Preprocessing()).completed_by(weights and weights.preprocessing).completed_by(of_network)
    if pretrained or (weights is not None and not weights.of_backbone):
        found = found.completed_by(_published(name, weights, has_values=found.mean is not None))
    if found.mean is None and data is not None:
        found = found.completed_by(Preprocessing(tuple(data.mean), tuple(data.std), source="of the data"))
    usual = Preprocessing((0.5,), (0.25,), source="the usual ones")
    if in_channels == 3:
        usual = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, source="ImageNet's")
    found = found.completed_by(usual)
    mean, std = (adapt_normalization(values or (), in_channels) for values in (found.mean, found.std or usual.std))
    return Preprocessing(tuple(mean), tuple(std), found.interpolation, found.crop, found.size, found.source)


def log_preprocessing(name: str, chosen: Preprocessing, image_size: tuple[int, int] | None) -> None:
    """Say in a line how the images of a network are prepared, and how its weights' differ in size."""
    note = ""
    if image_size and chosen.size and image_size != chosen.size:
        note = f"; here the images have {image_size[0]} x {image_size[1]} pixels"
    _LOGGER.info("%s: images are normalized by %s%s", name, chosen, note)


def _published(name: str, weights: Weights | None, has_values: bool) -> Preprocessing | None:
    """Return how the images of a network's published weights were prepared, `None` if it has none."""
    if (theirs := timm_name(name)) is not None:
        return timm_preprocessing(theirs, weights is not None and not has_values)
    if name in torchvision_names():
        return torchvision_preprocessing(name)
    if is_vit_name(name) and weights is not None and not has_values:
        _LOGGER.warning(
            "%s does not say how its images were normalized: ImageNet's mean and standard deviation are taken. Vision "
            "transformers of this layout were published with others, too: if theirs are 0.5, set %s and %s.",
            weights.source, argument("mean", MODULE), argument("std", MODULE),
        )  # fmt: skip
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, source="ImageNet's")
    return None
