"""timm's networks, if timm is installed."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from lit_cv.errors import OptionError, argument
from lit_cv.nn.backbone import Network
from lit_cv.nn.installed_weights import INSTALLED
from lit_cv.nn.preprocessing import Preprocessing, shared_values
from lit_cv.nn.sizes import run_on_meta
from lit_cv.nn.weight_files import listed
from lit_cv.suggest import nearest

__all__ = ["build_timm", "check_timm_name", "fit_timm_weights", "timm_name", "timm_preprocessing"]

_PREFIX = "timm/"
_LOGGER = logging.getLogger("lit_cv")
_MAX_TAGS = 6  # that a warning lists


def timm_name(name: str) -> str | None:
    """Return timm's name of a backbone, `None` if the backbone is not from timm.

    Example:
        >>> timm_name("timm/resnet18.a1_in1k"), timm_name("efficientnet_lite0"), timm_name("resnet18")
        ('resnet18.a1_in1k', 'tf_efficientnet_lite0', None)
    """
    if name in INSTALLED:
        return INSTALLED[name].timm_name
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def check_timm_name(name: str) -> None:
    """Raise ValueError unless timm is installed and knows the model `name` (without `timm/`)."""
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"backbone='timm/{name}': timm has no model {name!r}{nearest(name, timm.list_models())}")
    architecture, _, tag = name.partition(".")
    tags = [key.partition(".")[2] for key in timm.models.get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        raise ValueError(
            f"backbone='timm/{name}': timm has no weights {tag!r} of {architecture}{nearest(tag, tags)} "
            f"It has {listed(tags, _MAX_TAGS)}."
        )


def build_timm(name: str, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool) -> Network:
    """Build a timm model without its classifier.

    Args:
        name: timm's name of the model, optionally with a tag of its weights (`resnet18.a1_in1k`).
        in_channels: Channels of the images; timm adapts pretrained weights itself.
        image_size: Height and width in pixels, for models built for a single size. Vision transformers also accept
            other sizes and interpolate their position embeddings.
        pretrained: Whether to download timm's weights.
    """
    check_timm_name(name)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels, "pretrained": pretrained}
    sized: dict[str, Any] = {"img_size": image_size} if image_size else {}
    body = _first_built(name, options, ({**sized, "dynamic_img_size": True}, sized, {}))
    num_features = int(getattr(body, "head_hidden_size", None) or body.num_features)
    return Network(body, _timm_features, _timm_pool, num_features, _has_feature_map(body))


def fit_timm_weights(body: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Convert weights for a network by timm's own filter, unless they fit already.

    The filter renames keys of the authors' files, and interpolates position and patch embeddings to another size.

    Args:
        body: The network.
        state: Weights under the names of timm or the authors.
    """
    current = body.state_dict()
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    if convert is None or all(key in state and state[key].shape == value.shape for key, value in current.items()):
        return state
    converted: Mapping[str, Tensor] = convert(dict(state), body)
    return converted


def timm_preprocessing(name: str, of_file: bool) -> Preprocessing | None:
    """Return the preprocessing of timm's weights for a network, `None` if timm does not specify it.

    Args:
        name: timm's name of the model; without a tag, timm's default weights.
        of_file: Whether the weights are from a file and may be of any tag: a warning lists tags that differ.
    """
    check_timm_name(name)
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if (config := get_pretrained_cfg(name, allow_unregistered=True)) is None:
        return None
    chosen = _preprocessing(config)
    if tag or not of_file:
        return chosen
    configs = {key: config for key, config in get_arch_pretrained_cfgs(architecture).items() if config.has_weights}
    records = {key: _preprocessing(config) for key, config in configs.items()}
    others = [key for key, each in records.items() if (each.mean, each.std) != (chosen.mean, chosen.std)]
    if others:
        more = f" and {len(others) - _MAX_TAGS} more" if len(others) > _MAX_TAGS else ""
        _LOGGER.warning(
            "timm has weights of %s with different normalizations, and the file does not record which these are: using "
            "those of %s. Weights with other values: %s%s. To use one of these, give %s with the tag, or %s and %s.",
            architecture, chosen.source, ", ".join(others[:_MAX_TAGS]), more,
            argument("backbone"), argument("mean"), argument("std"),
        )  # fmt: skip
    return shared_values([chosen, *records.values()], chosen.source)


def _preprocessing(config: Any) -> Preprocessing:
    mean, std = (tuple(map(float, values)) for values in (config.mean, config.std))
    height, width = config.input_size[1:]
    name = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    crop = float(config.crop_pct) if config.crop_pct else None
    return Preprocessing(mean, std, config.interpolation, crop, (height, width), f"timm's {name}")


def _first_built(name: str, options: dict[str, Any], choices: Sequence[dict[str, Any]]) -> Any:
    """Build a model with the first additional options that it accepts; networks for any image size accept none."""
    for additional in choices[:-1]:
        try:
            return _create(name, additional | options)
        except TypeError:
            continue
    return _create(name, choices[-1] | options)


def _create(name: str, options: dict[str, Any]) -> Any:
    try:
        return _timm().create_model(name, **options)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"weights='DEFAULT': timm's weights of {name} could not be downloaded ({reason}): check the internet "
            "connection, or give the path of a file."
        ) from None
    except RuntimeError as error:
        if not options["pretrained"] or "pretrained weights" not in str(error):
            raise
        raise OptionError(
            None, "weights", "DEFAULT", f"timm has no weights of {name}; give the path of a file"
        ) from None


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            'backbones named timm/NAME, and efficientnet_lite0 to 4, need timm: pip install "lit_cv[timm]"'
        ) from error
    return timm


def _timm_features(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body).forward_features(x))


def _timm_pool(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body).forward_head(x))


class _Features(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return _timm_features(self.body, x)


def _has_feature_map(body: nn.Module) -> bool:
    """Return whether the features have the layout (N, C, h, w), by a forward pass on the meta device."""
    size = cast(Any, body).pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    if hasattr(body, "patch_embed") and hasattr(cast(Any, body).patch_embed, "img_size"):
        size = cast(Any, body).patch_embed.img_size or size
    channels = next(m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d))
    try:
        features = run_on_meta(_Features(body), (1, channels, *size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return len(features) == 4 and getattr(body, "output_fmt", "NCHW") == "NCHW"
