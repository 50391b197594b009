"""Backbones by name."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lit_cv.errors import OptionError, VoidOptionError, argument
from lit_cv.nn.backbone import Backbone, Network
from lit_cv.nn.compact import COMPACT, build_compact
from lit_cv.nn.installed_weights import INSTALLED, installed_names
from lit_cv.nn.own_networks import NETWORKS, build_own
from lit_cv.nn.preprocessing_choice import Statistics, choose_preprocessing, given_preprocessing, log_preprocessing
from lit_cv.nn.sizes import run_on_meta, size_error
from lit_cv.nn.stems import SMALL_STEMS, replace_input, small_stem
from lit_cv.nn.stochastic_depth import set_stochastic_depth
from lit_cv.nn.timm_networks import build_timm, check_timm_name, timm_name
from lit_cv.nn.torchvision_networks import build_torchvision, torchvision_names
from lit_cv.nn.vit import VIT, build_vit, is_vit_name
from lit_cv.nn.weight_errors import errors_named
from lit_cv.nn.weight_loading import load_weights
from lit_cv.nn.weights import Weights, read_weights
from lit_cv.registry import resolve, unknown_name_error
from lit_cv.trust import is_dotted_name, names_of_files

__all__ = ["check_backbone_name", "create_backbone", "has_small_stem", "list_backbones"]

_PATCH = re.compile(r"vit_[a-z]+_p?(\d+)(?:_\w+)?")


def list_backbones() -> list[str]:
    """Return the names that `create_backbone` takes, besides `timm/NAME`."""
    return [*COMPACT, *VIT, *torchvision_names(), *installed_names()]


def check_backbone_name(name: str, of_file: bool = False) -> None:
    """Raise ValueError, with the nearest valid names, unless `create_backbone` knows `name`.

    Args:
        name: The name.
        of_file: Whether it stands in a file, which may not have code of just anybody imported.
    """
    if of_file:
        with names_of_files():
            check_backbone_name(name)
    elif (theirs := timm_name(name)) is not None:
        check_timm_name(theirs)
    elif is_dotted_name(name):
        resolve(name, NETWORKS, "backbone")
    elif name not in COMPACT and name not in torchvision_names() and not is_vit_name(name):
        raise unknown_name_error(name, "backbone", list_backbones(), "backbone")


def has_small_stem(name: str) -> bool:
    """Whether `stem="small"` changes this network. The compact ones and vgg suit small images as they are."""
    return _stem_family(name) is not None


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    image_size: int | tuple[int, int] | None = None,
    stem: Literal["standard", "small"] = "standard",
    weights: str | Weights | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data_statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    spatial_dropout: float = 0.0,
    drop_path: float | None = None,
) -> Backbone:
    """Build a network that turns raw images into pooled features.

    Args:
        name: A torchvision classification model (`resnet18`, `vit_b_16`, ...; its classifier is removed), a
            compact network (`conv4`, `resnet9`, ...), a vision transformer for any image size (`vit_tiny`,
            `vit_base_p16`, ..., see `lit_cv.nn.vit.build_vit`), `timm/NAME` where timm is installed,
            `efficientnet_lite0` to `4` (timm's, their weights from packages), or `file.Class` for a network of your
            own, see `lit_cv.nn.own_networks`.
        in_channels: Channels of the images. Pretrained filters are summed for one channel, repeated for more.
        image_size: Height and width in pixels, one number for squares. Vision transformers are built for it
            (pretrained positions are interpolated); for all networks it is checked that they can take it.
        stem: `standard` as published; `small` keeps the resolution of images up to about 64 pixels.
        weights: Name of torchvision weights (`DEFAULT`, `IMAGENET1K_V2`, `ResNet18_Weights.IMAGENET1K_V1`), for timm
            `DEFAULT`, for `efficientnet_lite0` to `2` `DEFAULT` from an installed package; or the path of a checkpoint
            of this project, a state dict or a safetensors file; `PATH:teacher` takes its part `teacher`. Or weights
            that were read already.
        mean: Mean of each channel in [0, 1] units, to normalize by. `None` takes that of the weights: what their file
            or the JSON of timm or transformers beside it says, else that of the published weights of the network;
            without weights that of the data, else ImageNet's for 3 channels and 0.5 for others.
        std: Standard deviation of each channel, likewise; 0.25 where the channels are not 3.
        data_statistics: Mean and standard deviation of the channels of the data, for networks without weights.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        drop_path: Probability that an image skips the last residual branch in training, see
            `set_stochastic_depth`; `None` keeps the network's own.

    Returns:
        The backbone, in training mode. What was loaded is logged to `lit_cv`.

    Raises:
        ValueError: If the name is unknown, the network cannot take such images, has no such stem, or the
            weights do not fit.
        FileNotFoundError: If the weights are a path to nothing.

    Example:
        >>> create_backbone("resnet18", image_size=32, stem="small").num_features
        512
    """
    check_backbone_name(name)
    if in_channels < 1:
        raise OptionError(None, "in_channels", in_channels, "an image has at least one channel")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check_stem(name, stem)
    given = given_preprocessing(mean, std, in_channels)
    loaded = weights if isinstance(weights, Weights) else None
    if isinstance(weights, str) and not _is_timms_own(name, weights):
        loaded = read_weights(name, weights, look_beside=given is None)
    pretrained = weights is not None and loaded is None
    built = _build(name, in_channels, size, stem, loaded, pretrained)
    prepared = choose_preprocessing(
        name,
        in_channels,
        given=given,
        weights=loaded,
        pretrained=pretrained,
        of_network=built.network.preprocessing,
        data=None if data_statistics is None else Statistics(*data_statistics),
    )
    means, deviations = prepared.mean or (), prepared.std or ()
    backbone = Backbone(name, built.network, in_channels, means, deviations, spatial_dropout, prepared)
    if loaded is not None:
        with errors_named(loaded.source):
            load_weights(backbone, loaded, built.fresh)
    if weights is not None:
        log_preprocessing(name, prepared, size)
    if drop_path is not None:
        set_stochastic_depth(backbone.body, drop_path)
    if size is not None and not is_dotted_name(name):
        _check_size(backbone, size)
    return backbone


class _Built(NamedTuple):
    """A network, and the keys of its layers whose shape is not the published one."""

    network: Network
    fresh: frozenset[str] = frozenset()


def _build(
    name: str,
    in_channels: int,
    size: tuple[int, int] | None,
    stem: str,
    loaded: Weights | None,
    pretrained: bool,
) -> _Built:
    """Build the network of a name, for the weights that are loaded into it later, or with those of timm."""
    if (theirs := timm_name(name)) is not None:
        return _Built(build_timm(theirs, in_channels, size, pretrained))
    if is_dotted_name(name):
        return _Built(build_own(name, resolve(name, NETWORKS, "backbone"), in_channels, size))
    if name in COMPACT:
        return _Built(build_compact(name, in_channels))
    if loaded is None:
        return _build_sized(name, in_channels, size, stem)
    with errors_named(loaded.source):
        patch = _patch_size(name, loaded)
        return _build_sized(name, in_channels, size or loaded.image_size, stem, patch)


def _build_sized(
    name: str, in_channels: int, size: tuple[int, int] | None, stem: str, patch_size: int | None = None
) -> _Built:
    """Build a vision transformer of our own or a network of torchvision's."""
    if is_vit_name(name):
        return _Built(build_vit(name, in_channels, size, patch_size))
    network = build_torchvision(name, size)
    replace_input(network.body, in_channels)
    family = _stem_family(name)
    if stem == "standard" or family is None:
        return _Built(network)
    return _Built(network, small_stem(family, network.body))


def _is_timms_own(name: str, weights: str) -> bool:
    return name not in INSTALLED and timm_name(name) is not None and weights == "DEFAULT"


def _patch_size(name: str, loaded: Weights) -> int | None:
    """Return the side of the patches in a file, which must be that of the name: the network grows with their ratio."""
    named = _PATCH.fullmatch(name)
    if named is not None and loaded.patch_size not in (None, int(named[1])):
        raise ValueError(
            f"{loaded.source}: it is for patches of {loaded.patch_size} pixels, but {name} needs {named[1]}: change "
            f"{argument('backbone')} or {argument('weights')}."
        )
    return loaded.patch_size if is_vit_name(name) else None


def _check_stem(name: str, stem: str) -> None:
    """Raise ValueError unless there is such a stem, and the network has it."""
    if stem not in ("standard", "small"):
        raise OptionError(None, "stem", stem, "give 'standard' or 'small'")
    if stem == "small" and not (name in COMPACT or name.startswith("vgg") or has_small_stem(name)):
        families = ", ".join([*SMALL_STEMS, "vgg", *COMPACT])
        text = f"{name} has no stem for small images; these have one: {families}. Set stem to 'standard'."
        raise VoidOptionError(None, "stem", stem, f"{name} has no stem for small images", text=text)


def _stem_family(name: str) -> str | None:
    if name not in torchvision_names():
        return None
    return next((family for family in SMALL_STEMS if name.startswith(family)), None)


def _check_size(backbone: Backbone, size: tuple[int, int]) -> None:
    """Raise ValueError unless the backbone can take images of this size."""
    try:
        shape = run_on_meta(backbone, (1, backbone.in_channels, *size))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise size_error(backbone.name, size, error) from error
    if shape != (1, backbone.num_features):
        raise size_error(backbone.name, size, ValueError(f"its features would have the shape {shape}"))
