"""Backbones by name."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lit_cv.errors import OptionError, VoidOptionError, argument
from lit_cv.nn.backbone import Backbone, Network
from lit_cv.nn.compact import COMPACT, build_compact
from lit_cv.nn.installed_weights import INSTALLED, installed_names
from lit_cv.nn.own_networks import NETWORKS, build_user_network
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
    """Return the names that `create_backbone` accepts, except `timm/NAME` and `file.Class`."""
    return [*COMPACT, *VIT, *torchvision_names(), *installed_names()]


def check_backbone_name(name: str, of_file: bool = False) -> None:
    """Raise ValueError, with the nearest valid names, unless `create_backbone` knows `name`.

    Args:
        name: The name.
        of_file: Whether the name was read from a file, which must not cause imports of untrusted code.
    """
    if of_file:
        with names_of_files():
            check_backbone_name(name)
    elif (timm_model := timm_name(name)) is not None:
        check_timm_name(timm_model)
    elif is_dotted_name(name):
        resolve(name, NETWORKS, "backbone")
    elif name not in COMPACT and name not in torchvision_names() and not is_vit_name(name):
        raise unknown_name_error(name, "backbone", list_backbones(), "backbone")


def has_small_stem(name: str) -> bool:
    """Return whether `stem="small"` changes this network. The compact networks and vgg suit small images unchanged."""
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
            `vit_base_p16`, ..., see `lit_cv.nn.vit.build_vit`), `timm/NAME` if timm is installed,
            `efficientnet_lite0` to `4` (from timm, with weights from packages), or `file.Class` for a user-defined
            network, see `lit_cv.nn.own_networks`.
        in_channels: Channels of the images. Pretrained filters are summed for one channel, repeated for more.
        image_size: Height and width in pixels, or one number for square images. Vision transformers are built for
            this size (pretrained position embeddings are interpolated); every network is checked to support it.
        stem: `standard` as published; `small` keeps the resolution of images of up to about 64 pixels.
        weights: Name of torchvision weights (`DEFAULT`, `IMAGENET1K_V2`, `ResNet18_Weights.IMAGENET1K_V1`); `DEFAULT`
            for timm, and for `efficientnet_lite0` to `2` from an installed package; the path of a lit_cv checkpoint,
            state dict or safetensors file, where `PATH:teacher` selects its part `teacher`; or `Weights` that were
            read before.
        mean: Mean of each channel in [0, 1] units, for normalization. `None` uses the mean of the weights: from their
            file or the JSON file of timm or transformers next to it, else that of the network's published weights.
            Without weights, it uses the mean of the data, else ImageNet's for 3 channels and 0.5 otherwise.
        std: Standard deviation of each channel, likewise; the last default is 0.25.
        data_statistics: Mean and standard deviation of the channels of the data, for networks without weights.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        drop_path: Probability that an image skips the last residual branch in training, see
            `set_stochastic_depth`; `None` keeps the default of the network.

    Returns:
        The backbone, in training mode. Loaded, missing and unexpected keys are logged to `lit_cv`.

    Raises:
        ValueError: If the name is unknown, the network does not support such images, has no such stem, or the
            weights do not fit.
        FileNotFoundError: If there is no file of this path.

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
    if isinstance(weights, str) and not _timm_loads(name, weights):
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
    """A network, and the keys of tensors whose shape differs from the published one."""

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
    """Build a network by name, for weights that are loaded later, or with timm's pretrained weights."""
    if (timm_model := timm_name(name)) is not None:
        return _Built(build_timm(timm_model, in_channels, size, pretrained))
    if is_dotted_name(name):
        return _Built(build_user_network(name, resolve(name, NETWORKS, "backbone"), in_channels, size))
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
    """Build a vision transformer of lit_cv or a network of torchvision."""
    if is_vit_name(name):
        return _Built(build_vit(name, in_channels, size, patch_size))
    network = build_torchvision(name, size)
    replace_input(network.body, in_channels)
    family = _stem_family(name)
    if stem == "standard" or family is None:
        return _Built(network)
    return _Built(network, small_stem(family, network.body))


def _timm_loads(name: str, weights: str) -> bool:
    return name not in INSTALLED and timm_name(name) is not None and weights == "DEFAULT"


def _patch_size(name: str, loaded: Weights) -> int | None:
    """Return the patch size of the loaded weights; raise ValueError if the name asks for another one."""
    named = _PATCH.fullmatch(name)
    if named is not None and loaded.patch_size not in (None, int(named[1])):
        raise ValueError(
            f"{loaded.source}: its patch size is {loaded.patch_size} pixels, but {name} needs {named[1]}: change "
            f"{argument('backbone')} or {argument('weights')}."
        )
    return loaded.patch_size if is_vit_name(name) else None


def _check_stem(name: str, stem: str) -> None:
    """Raise ValueError unless the stem is known and the network supports it."""
    if stem not in ("standard", "small"):
        raise OptionError(None, "stem", stem, "must be 'standard' or 'small'")
    if stem == "small" and not (name in COMPACT or name.startswith("vgg") or has_small_stem(name)):
        families = ", ".join([*SMALL_STEMS, "vgg", *COMPACT])
        text = f"{name} has no stem for small images; these have one: {families}. Set stem to 'standard'."
        raise VoidOptionError(None, "stem", stem, f"{name} has no stem for small images", text=text)


def _stem_family(name: str) -> str | None:
    if name not in torchvision_names():
        return None
    return next((family for family in SMALL_STEMS if name.startswith(family)), None)


def _check_size(backbone: Backbone, size: tuple[int, int]) -> None:
    """Raise ValueError unless the backbone supports images of this size."""
    try:
        shape = run_on_meta(backbone, (1, backbone.in_channels, *size))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise size_error(backbone.name, size, error) from error
    if shape != (1, backbone.num_features):
        raise size_error(backbone.name, size, ValueError(f"its features would have the shape {shape}"))
