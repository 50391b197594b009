"""Pretrained weights: torchvision's by name, or a file."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torchvision import models
from torchvision.models import WeightsEnum

from lit_cv.errors import OptionError
from lit_cv.nn.convnext_layout import convnext_to_torchvision
from lit_cv.nn.installed_weights import installed_weights
from lit_cv.nn.lora import merge_lora_state
from lit_cv.nn.preprocessing import Preprocessing, channel_values
from lit_cv.nn.preprocessing_files import preprocessing_beside, preprocessing_inside, require_activation
from lit_cv.nn.torchvision_networks import torchvision_names, torchvision_preprocessing
from lit_cv.nn.transformers_layouts import from_transformers
from lit_cv.nn.vit import is_vit_name
from lit_cv.nn.vit_layouts import from_other_layout, to_torchvision_layout, vit_image_size, vit_patch_side
from lit_cv.nn.weight_errors import errors_named, require_real
from lit_cv.nn.weight_files import SUFFIXES, WeightFile, find_file
from lit_cv.suggest import nearest

__all__ = ["Weights", "download_weights", "read_weights"]

_POSITIONS = "encoder.pos_embedding"
_MAX_CHANNELS = 1 << 16
_MAX_SIDE = 256  # patches along a side; limits the memory that a file can request
# Some of torchvision's published files use older names than its code.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


class Weights(NamedTuple):
    """Weights of a network, without a prefix in their keys.

    Attributes:
        source: The file, or the name of the published weights.
        state: The tensors by layer name.
        preprocessing: Preprocessing of the training images, if the source records it.
        of_backbone: Whether lit_cv saved them from a `Backbone`, or they are a detector's backbone; the preprocessing
            of the network's published weights then does not apply.
    """

    source: str
    state: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    of_backbone: bool = False

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Image height and width of the position embeddings of a vision transformer, `None` for other networks."""
        if (size := vit_image_size(self.state)) is not None:
            return size
        if _POSITIONS not in self.state or "conv_proj.weight" not in self.state:
            return None
        shape = self.state[_POSITIONS].shape
        patches = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
        if not 0 < patches <= _MAX_SIDE:
            raise ValueError(f"its {_POSITIONS} has the shape {tuple(shape)}, which matches no grid of patches.")
        side = patches * vit_patch_side(self.state["conv_proj.weight"])
        return side, side

    @property
    def patch_size(self) -> int | None:
        """Patch size of a vision transformer, `None` for other networks."""
        key = next((key for key in ("patch_embed.proj.weight", "conv_proj.weight") if key in self.state), None)
        return None if key is None else vit_patch_side(self.state[key])


def read_weights(name: str, weights: str, look_beside: bool = True) -> Weights:
    """Read weights for the backbone `name`.

    Args:
        name: Name of the backbone.
        weights: Name of torchvision weights, or the path of a lit_cv checkpoint or of a state dict in the layout of
            `Backbone`, torchvision, timm or transformers, pickled or as safetensors; `PATH:teacher` selects its part
            `teacher`.
        look_beside: Whether to read the preprocessing from the JSON file next to the weights.

    Raises:
        ValueError: If there are no such weights, or the file holds none.
        FileNotFoundError: If there is no such file.
    """
    installed = installed_weights(name, weights)
    if (file := find_file(weights) if installed is None else WeightFile(installed)) is not None:
        with errors_named(str(file.path)):
            return _from_file(file, name, look_beside)
    if name not in torchvision_names():
        raise OptionError(
            None, "weights", weights, f"{name} has no published weights of this name; give the path of a checkpoint"
        )
    enum = models.get_model_weights(name)
    holder, _, member = weights.rpartition(".")
    if (holder and holder != enum.__name__) or member not in enum.__members__:
        names = [*enum.__members__, *(["DEFAULT"] if len(enum) else [])]
        raise OptionError(
            None,
            "weights",
            weights,
            f"{name} has {', '.join(dict.fromkeys(names))}{nearest(weights, names)} "
            f"Otherwise give the path of a file ending in {', '.join(SUFFIXES)}",
        )
    chosen = enum[member]
    state = download_weights(weights, chosen)
    return Weights(str(chosen), _rename(state), torchvision_preprocessing(name, chosen.name))


def download_weights(weights: str, chosen: WeightsEnum) -> Mapping[str, Tensor]:
    """Return the state dict of published torchvision weights, downloaded unless it is cached.

    Args:
        weights: Value of the option `weights`, for error messages.
        chosen: The published weights.

    Raises:
        OSError: If they cannot be downloaded.
    """
    try:
        state: Mapping[str, Tensor] = chosen.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"weights={weights!r}: {chosen} could not be downloaded ({error}): check the internet connection, or give "
            "the path of a file."
        ) from None
    return state


def _from_file(file: WeightFile, name: str, look_beside: bool) -> Weights:
    content = file.read()
    extra = content.get("lit_cv") if isinstance(content, Mapping) else None
    if isinstance(extra, Mapping) and "base" in extra:
        raise ValueError(f"{file} holds only low-rank updates of other weights: export it, and use the exported file.")
    entries = file.entries(content)
    if any(key.startswith("backbone.") and isinstance(value, Tensor) for key, value in entries.items()):
        entries = {key.removeprefix("backbone."): value for key, value in entries.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no named tensors.")
    require_real(str(file), tensors)
    tensors = merge_lora_state(tensors)
    of_backbone = any(key.startswith("body.") for key in tensors)
    inside = preprocessing_inside(file, content)
    if of_backbone:
        mean, std = (_buffer(key, entries.get(key)) for key in ("mean", "std"))
        buffers = Preprocessing(mean, std, source=str(file)) if mean and std else Preprocessing()
        preprocessing: Preprocessing | None = buffers.completed_by(inside)
        tensors = {key.removeprefix("body."): value for key, value in tensors.items() if key not in ("mean", "std")}
    else:
        preprocessing = inside or (preprocessing_beside(file.path) if look_beside else None)
        tensors = _rename(tensors)
        if (translated := from_transformers(tensors)) is not None:
            require_activation(file, name, translated)
            tensors = translated
    if is_vit_name(name):
        tensors = from_other_layout(str(file), tensors)
    elif name.startswith("vit_"):
        tensors = to_torchvision_layout(tensors)
    elif name.startswith("convnext_"):
        tensors = convnext_to_torchvision(tensors)
    return Weights(str(file), tensors, preprocessing, of_backbone)


def _buffer(key: str, value: Any) -> tuple[float, ...] | None:
    """Return the buffer `mean` or `std` as numbers, `None` if there is none."""
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"its {key} is not a floating-point tensor with one number per channel.")
    if value.shape not in ((value.numel(),), (value.numel(), 1, 1)) or not 0 < value.numel() <= _MAX_CHANNELS:
        raise ValueError(f"its {key} has the shape {tuple(value.shape)}: one number per channel is allowed.")
    return channel_values(key, value.flatten().tolist())


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, new in _RENAMED:
            key = pattern.sub(new, key)
        renamed[key] = value
    return renamed
