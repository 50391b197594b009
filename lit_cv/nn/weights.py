"""Weights to start from: torchvision's by name, or a file."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from lit_cv.class_matching import match_classes
from lit_cv.errors import OptionError, argument
from lit_cv.nn.backbone import Backbone
from lit_cv.nn.stems import adapt_channels
from lit_cv.nn.torchvision_networks import torchvision_names
from lit_cv.nn.vit import VisionTransformer, is_vit_name
from lit_cv.nn.vit_layouts import fit_vit_weights, from_other_layout, vit_image_size, vit_patch_side
from lit_cv.nn.weight_files import SUFFIXES, WeightFile, find_file, listed
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["Weights", "checkpoint_options", "errors_named", "load_head", "load_weights", "read_weights"]

_LOGGER = logging.getLogger("lit_cv")
_POSITIONS = "encoder.pos_embedding"
_CLASSIFIER = re.compile(
    r"(?P<name>fc|classifier(\.\d+)?|heads?(\.(head|fc|linear|classifier\.linear))?)\.(weight|bias)"
)
_MOST_MESSAGE = 1000  # characters; a name in a file may have any number
_MOST_NAME = 100
_MOST_CHANNELS = 1 << 16
_MOST_SIDE = 256  # patches, or pixels of one, along a side: no memory is given for more because a file says so
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
        shape = self.state[_POSITIONS].shape
        patches = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
        if not 0 < patches <= _MOST_SIDE:
            raise ValueError(f"its {_POSITIONS} has the shape {tuple(shape)}, which is of no grid of patches.")
        side = patches * vit_patch_side(self.state["conv_proj.weight"])
        return side, side

    @property
    def patch_size(self) -> int | None:
        """Side of the patches of a vision transformer."""
        found = (key for key in ("patch_embed.proj.weight", "conv_proj.weight") if key in self.state)
        key = next(found, None)
        return None if key is None else vit_patch_side(self.state[key])


@contextmanager
def errors_named(source: str) -> Iterator[None]:
    """Turn whatever reading and using weights ends in into one ValueError that names them.

    Args:
        source: The file, or the published weights.

    Raises:
        OSError: As it comes.
        ValueError: For all else; one that names the source and fits a line is left as it is.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # torch raises all kinds of errors for tensors that do not fit
        said = str(error) or type(error).__name__
        if not isinstance(error, ValueError):
            said = f"{source} holds no weights for this network ({' '.join(said.split())[:300]})."
        text = printable(said if source in said else f"{source}: {said}", lines=False)
        if isinstance(error, ValueError) and text == said and len(text) <= _MOST_MESSAGE:
            raise
        raise ValueError(text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]} ...") from error


def read_weights(name: str, weights: str) -> Weights:
    """Read weights for the backbone `name`.

    Args:
        name: Name of the backbone.
        weights: Name of torchvision weights, or the path of a checkpoint of this project, of a state dict in the
            layout of `Backbone` or of torchvision, pickled or as safetensors; `PATH:teacher` takes its part `teacher`.

    Raises:
        ValueError: If there are no such weights or the file holds none.
        FileNotFoundError: If the path leads nowhere.
    """
    if (file := find_file(weights)) is not None:
        with errors_named(str(file.path)):
            return _from_file(file, is_vit_name(name))
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
    if (file := find_file(weights)) is None:
        return {}
    with errors_named(str(file.path)):
        content = file.read()
        found = content.get("hyper_parameters") if isinstance(content, Mapping) and "lit_cv" in content else None
        found = found if isinstance(found, Mapping) else {}
        for key in ("backbone", "stem"):
            if not isinstance(found.get(key), str | None) or len(found.get(key) or "") > _MOST_NAME:
                raise ValueError(f"{file.path} is damaged: its hyperparameter {key} is no name.")
    return found


def load_head(head: nn.Module, weights: str, class_names: Sequence[str] = ()) -> bool:
    """Copy the classifier of a checkpoint of this project into a head, in place, if it has one like it.

    Its rows are those of the classes of the same names; a classifier of other classes is left out.

    Args:
        head: The head, whose tensors stand under `head.` in checkpoints.
        weights: As for `read_weights`.
        class_names: Names of the head's classes; rows are copied as they stand if they are unknown.

    Returns:
        Whether it was loaded; the log says so, too.
    """
    file = find_file(weights)
    with errors_named(weights if file is None else str(file.path)):
        content = {} if file is None else file.read()
        stored = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
        state = file.entries(content) if file is not None and stored else {}
        own = head.state_dict()
        given = {key: state[f"head.{key}"] for key in own if isinstance(state.get(f"head.{key}"), Tensor)}
        try:
            given = _ordered_rows(given, content, class_names)
        except ValueError as error:
            _LOGGER.warning("%s: %s The classifier starts from random weights.", weights, error)
            return False
        fits = bool(own) and given.keys() == own.keys() and all(given[key].shape == own[key].shape for key in own)
        if fits:
            _require_real(str(file), given)
            head.load_state_dict(given)
    if not fits:
        _LOGGER.warning("%s: no classifier of this shape is in it; the classifier starts from random weights.", weights)
        return False
    _LOGGER.info("%s: the classifier was loaded, too.", weights)
    return True


def _ordered_rows(given: dict[str, Tensor], content: Any, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a classifier with their rows in the order of `class_names`."""
    extra = content.get("lit_cv") if isinstance(content, Mapping) else None
    names = extra.get("class_names") if isinstance(extra, Mapping) else None
    if not given or not class_names or not isinstance(names, list) or not names:
        return given
    rows = torch.argsort(torch.tensor(match_classes(class_names, names)))
    return {key: value[rows] if value.shape[:1] == rows.shape else value for key, value in given.items()}


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
    convolutions = (f"{path}.weight" for path, m in backbone.body.named_modules() if isinstance(m, nn.Conv2d))
    stem = next(convolutions, None)
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
            f"{weights.source}: none of its {len(given)} tensors belongs to {backbone.name}; it holds {listed(given)}."
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
        listed(missing),
        listed(left),
        _classifier(given, left),
    )


def _check_match(backbone: Backbone, source: str, loaded: list[str], missing: list[str], left: list[str]) -> None:
    """Refuse the weights of another network that has some layers of the same names and shapes."""
    if len(missing) > len(loaded):
        raise ValueError(
            f"{source}: only {len(loaded)} tensors fit, {len(missing)} of {backbone.name} are missing "
            f"({listed(missing)}): these are weights of another network, change {argument('backbone')} or "
            f"{argument('weights')}."
        )
    parts = {key.partition(".")[0] for key in loaded}
    deeper = [key for key in left if key.partition(".")[0] in parts and not _CLASSIFIER.fullmatch(key)]
    deeper = [key for key in deeper if not key.endswith("num_batches_tracked")]
    if len(deeper) > 0.1 * len(loaded):
        raise ValueError(
            f"{source}: {len(deeper)} tensors are left over that {backbone.name} has no layers for ({listed(deeper)}): "
            f"these are weights of another network, change {argument('backbone')} or {argument('weights')}."
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


def _from_file(file: WeightFile, vit: bool) -> Weights:
    named = file.entries(file.read())
    if any(key.startswith("backbone.") and isinstance(value, Tensor) for key, value in named.items()):
        named = {key.removeprefix("backbone."): value for key, value in named.items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no tensors by name.")
    _require_real(str(file), tensors)
    mean = std = None
    if any(key.startswith("body.") for key in tensors):
        mean, std = (_channel_values(key, named.get(key)) for key in ("mean", "std"))
        tensors = {key.removeprefix("body."): value for key, value in tensors.items() if key not in ("mean", "std")}
    else:
        tensors = _rename(tensors)
    return Weights(str(file), from_other_layout(str(file), tensors) if vit else tensors, mean, std)


def _require_real(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse complex numbers: torch would drop their imaginary parts."""
    for key, value in tensors.items():
        if value.is_complex():
            raise ValueError(f"{source}: {key[:_MOST_NAME]} holds complex numbers, where real ones are allowed.")


def _channel_values(key: str, value: Any) -> list[float] | None:
    """Return the mean or standard deviation of each channel, `None` if there is none."""
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"its {key} is no tensor of real numbers, one for each channel.")
    if value.shape not in ((value.numel(),), (value.numel(), 1, 1)) or not 0 < value.numel() <= _MOST_CHANNELS:
        raise ValueError(f"its {key} has the shape {tuple(value.shape)}, where one number for each channel is allowed.")
    values = [float(number) for number in value.flatten().tolist()]
    if not all(map(math.isfinite, values)) or (key == "std" and min(values) <= 0):
        raise ValueError(f"its {key} is not finite{' and positive' if key == 'std' else ''} for each channel.")
    return values


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, new in _RENAMED:
            key = pattern.sub(new, key)
        renamed[key] = value
    return renamed
