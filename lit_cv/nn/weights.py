"""Weights to start from: torchvision's by name, or a file."""

import logging
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from lit_cv.checkpoint_file import load_tensors
from lit_cv.nn.backbone import Backbone
from lit_cv.nn.stems import adapt_channels, first_convolution
from lit_cv.nn.torchvision_networks import torchvision_names
from lit_cv.nn.vit import VisionTransformer, is_vit_name
from lit_cv.nn.vit_layouts import fit_vit_weights, from_other_layout, vit_image_size
from lit_cv.suggest import nearest

__all__ = ["Weights", "checkpoint_options", "load_head", "load_weights", "read_weights"]

_LOGGER = logging.getLogger("lit_cv")
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_POSITIONS = "encoder.pos_embedding"
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_CLASSIFIER = re.compile(
    r"(?P<name>fc|classifier(\.\d+)?|heads?(\.(head|fc|linear|classifier\.linear))?)\.(weight|bias)"
)
# What reading a file that is no checkpoint can end in.
_UNREADABLE = (
    pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError,
    TypeError, OSError,
)  # fmt: skip
# torchvision's published files of these networks are older than its code.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


class Weights(NamedTuple):
    """Weights of a network without a prefix, and how its images were normalised."""

    source: str
    state: dict[str, Tensor]
    mean: list[float] | None = None
    std: list[float] | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the position embeddings of a vision transformer were trained for."""
        if (own := vit_image_size(self.state)) is not None:
            return own
        if _POSITIONS not in self.state or "conv_proj.weight" not in self.state:
            return None
        patches = math.isqrt(self.state[_POSITIONS].shape[1] - 1)
        side = patches * self.state["conv_proj.weight"].shape[-1]
        return side, side

    @property
    def patch_size(self) -> int | None:
        """Side of the patches of a vision transformer of this project."""
        return self.state["patch_embed.proj.weight"].shape[-1] if "patch_embed.proj.weight" in self.state else None


def read_weights(name: str, weights: str) -> Weights:
    """Read weights for the backbone `name`.

    Args:
        name: Name of the backbone.
        weights: Name of torchvision weights, or the path of a checkpoint of this project, of a state dict in the
            layout of `Backbone` or of torchvision, pickled or as safetensors.

    Raises:
        ValueError: If there are no such weights or the file holds none.
        FileNotFoundError: If the path leads nowhere.
    """
    path = Path(weights).expanduser()
    if _is_path(weights, path):
        loaded = _from_file(path)
        return loaded._replace(state=from_other_layout(loaded.source, loaded.state)) if is_vit_name(name) else loaded
    if name not in torchvision_names():
        raise ValueError(
            f"weights={weights!r}: {name} has no published weights of this name; give the path of a checkpoint."
        )
    enum = models.get_model_weights(name)
    holder, _, member = weights.rpartition(".")
    if (holder and holder != enum.__name__) or member not in enum.__members__:
        names = [*enum.__members__, *(["DEFAULT"] if len(enum) else [])]
        raise ValueError(
            f"weights={weights!r}: {name} has {', '.join(dict.fromkeys(names))}{nearest(weights, names)} "
            f"Otherwise give the path of a file ending in {', '.join(_SUFFIXES)}."
        )
    chosen = enum[member]
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"weights={weights!r}: {enum.__name__}.{chosen.name} could not be downloaded ({error}): try again with a "
            "network, or give the path of a file."
        ) from None
    mean, std = list(chosen.transforms().mean), list(chosen.transforms().std)
    if name in ("googlenet", "inception_v3"):
        mean = std = [0.5, 0.5, 0.5]  # they were trained so; torchvision's network converts from ImageNet's
    return Weights(f"{enum.__name__}.{chosen.name}", _rename(state), mean, std)


def checkpoint_options(weights: str) -> Mapping[str, Any]:
    """Return the hyperparameters in a checkpoint of this project; nothing for other weights.

    Args:
        weights: As for `read_weights`.

    Raises:
        ValueError: If it is the path of a file that cannot be read as weights.
        FileNotFoundError: If the path leads nowhere.
    """
    path = Path(weights).expanduser()
    if not _is_path(weights, path):
        return {}
    content = _read(path)
    found = content.get("hyper_parameters") if isinstance(content, Mapping) and "lit_cv" in content else None
    return found if isinstance(found, Mapping) else {}


def load_head(head: nn.Module, weights: str) -> bool:
    """Copy the classifier of a checkpoint of this project into a head, in place, if it has one like it.

    Args:
        head: The head, whose tensors stand under `head.` in checkpoints.
        weights: As for `read_weights`.

    Returns:
        Whether it was loaded; the log says so, too.
    """
    path = Path(weights).expanduser()
    content = _read(path) if _is_path(weights, path) else {}
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    state = state if isinstance(state, Mapping) else {}
    own = head.state_dict()
    given = {key: state[f"head.{key}"] for key in own if isinstance(state.get(f"head.{key}"), Tensor)}
    if not own or given.keys() != own.keys() or any(given[key].shape != own[key].shape for key in own):
        _LOGGER.warning("%s: no classifier of this shape is in it; the classifier starts from random weights.", weights)
        return False
    head.load_state_dict(given)
    _LOGGER.info("%s: the classifier was loaded, too.", weights)
    return True


def load_weights(backbone: Backbone, weights: Weights, fresh: frozenset[str] = frozenset()) -> None:
    """Copy weights into a backbone, in place, and log what was loaded, what is missing and what was left over.

    A first convolution for another number of channels is adapted, position embeddings of torchvision's vision
    transformer are interpolated to another image size.

    Args:
        backbone: The backbone.
        weights: From `read_weights`.
        fresh: Keys of layers that were given another shape on purpose, and may keep their random weights.

    Raises:
        ValueError: If no key fits, or a shape does not.
    """
    own = backbone.body.state_dict()
    given = _resize_positions(backbone, weights)
    stem = f"{first_convolution(backbone.body)[0]}.weight"
    loaded: list[str] = []
    for key in own.keys() & given.keys():
        value = given[key]
        if key == stem and value.ndim == 4 and value.shape[1] != own[key].shape[1]:
            groups_fit = value.shape[:1] + value.shape[2:] == own[key].shape[:1] + own[key].shape[2:]
            value = adapt_channels(value, own[key].shape[1]) if groups_fit else value
        if value.shape == own[key].shape:
            own[key].copy_(value)
            loaded.append(key)
        elif key not in fresh:
            raise ValueError(
                f"{weights.source}: {key} has the shape {tuple(value.shape)}, but {backbone.name} needs "
                f"{tuple(own[key].shape)}: are backbone, stem and image_size those of the weights?"
            )
    # The counter of batches is missing in older files; only a momentum of None would read it.
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in loaded]
    if len(missing) == len(wanted):
        raise ValueError(
            f"{weights.source}: none of its {len(given)} tensors belongs to {backbone.name}; it holds {_some(given)}."
        )
    left = [key for key in given if key not in loaded]
    _check_match(backbone, weights.source, loaded, missing, left)
    _LOGGER.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors of %s; missing (random): %s; left over: %s%s",
        weights.source,
        len(wanted) - len(missing),
        len(wanted),
        backbone.name,
        _some(missing),
        _some(left),
        _classifier(given, left),
    )


def _check_match(backbone: Backbone, source: str, loaded: list[str], missing: list[str], left: list[str]) -> None:
    """Refuse the weights of another network that has some layers of the same names and shapes."""
    if len(missing) > len(loaded):
        raise ValueError(
            f"{source}: only {len(loaded)} tensors fit, {len(missing)} of {backbone.name} are missing "
            f"({_some(missing)}): these are weights of another network, change --model.backbone or --model.weights."
        )
    parts = {key.partition(".")[0] for key in loaded}
    deeper = [key for key in left if key.partition(".")[0] in parts and not _CLASSIFIER.fullmatch(key)]
    deeper = [key for key in deeper if not key.endswith("num_batches_tracked")]
    if len(deeper) > 0.1 * len(loaded):
        raise ValueError(
            f"{source}: {len(deeper)} tensors are left over that {backbone.name} has no layers for ({_some(deeper)}): "
            "these are weights of another network, change --model.backbone or --model.weights."
        )


def _classifier(given: Mapping[str, Tensor], left: list[str]) -> str:
    """Say that the classifier is among what is left over, and how many classes it has."""
    for key in left:
        match = _CLASSIFIER.fullmatch(key)
        if match and key.endswith("weight") and given[key].ndim in (2, 4):
            return f" (the classifier {match['name']} of {len(given[key])} classes is not taken over)"
    return ""


def _resize_positions(backbone: Backbone, weights: Weights) -> Mapping[str, Tensor]:
    body = backbone.body
    if isinstance(body, VisionTransformer):
        return fit_vit_weights(body, weights.state)
    if not isinstance(body, models.VisionTransformer) or weights.image_size is None:
        return weights.state
    if weights.image_size[0] == body.image_size:
        return weights.state
    resized = interpolate_embeddings(body.image_size, body.patch_size, dict(weights.state))
    return {str(key): value for key, value in resized.items()}


def _is_path(weights: str, path: Path) -> bool:
    return path.suffix in _SUFFIXES or "/" in weights or path.is_file()


def _from_file(path: Path) -> Weights:
    content = _read(path)
    if isinstance(content, Mapping):
        content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights.")
    tensors = {_unwrapped(str(key)): value for key, value in content.items() if isinstance(value, Tensor)}
    if any(key.startswith("backbone.") for key in tensors):
        tensors = {key.removeprefix("backbone."): value for key, value in tensors.items()}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name.")
    if not any(key.startswith("body.") for key in tensors):
        return Weights(str(path), _rename(tensors))
    mean, std = (tensors.pop(key).flatten().tolist() if key in tensors else None for key in ("mean", "std"))
    state = {key.removeprefix("body."): value for key, value in tensors.items()}
    return Weights(str(path), state, mean, std)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return load_tensors(path)
    except _UNREADABLE as error:
        refused = re.search(r"(?:GLOBAL|global|class|function) [`']?([\w.]+)", str(error))
        if "Weights only load failed" in str(error) and "nsupported" in str(error) and refused:
            raise ValueError(
                f"{path} holds Python objects beside the weights ({refused[1]}), which could run code when loaded: "
                "save its state_dict() alone."
            ) from error
        raise ValueError(f"{path} cannot be read as weights; it is damaged or of another format.") from error


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    return key.replace("._orig_mod.", ".")


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, new in _RENAMED:
            key = pattern.sub(new, key)
        renamed[key] = value
    return renamed


def _some(names: Iterable[str], most: int = 4) -> str:
    """Return the first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
