"""Loading of weights into a backbone, with a report of missing and unexpected keys."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from lit_cv.errors import argument
from lit_cv.nn.backbone import Backbone
from lit_cv.nn.efficientnet_layout import from_efficientnet_pytorch, is_efficientnet_pytorch
from lit_cv.nn.stems import adapt_channels
from lit_cv.nn.timm_networks import fit_timm_weights, timm_name
from lit_cv.nn.vit import VisionTransformer
from lit_cv.nn.vit_layouts import fit_vit_weights
from lit_cv.nn.weight_files import find_file, listed
from lit_cv.nn.weights import Weights

__all__ = ["load_weights"]

_LOGGER = logging.getLogger("lit_cv")
_CLASSIFIER = re.compile(
    r"(?P<name>fc|classifier(\.\d+)?|heads?(\.(head|fc|linear|classifier\.linear))?)\.(weight|bias)"
)


def load_weights(backbone: Backbone, weights: Weights, fresh: frozenset[str] = frozenset()) -> None:
    """Copy weights into a backbone, in place, and log loaded, missing and unexpected keys.

    A first convolution for another number of channels is adapted, and the position embeddings of a vision transformer
    are interpolated to another image size.

    Args:
        backbone: The backbone.
        weights: From `read_weights`.
        fresh: Keys of tensors whose shape was changed on purpose and that may keep their random weights.

    Raises:
        ValueError: If no key fits, or a shape does not.
    """
    current = backbone.body.state_dict()
    state = _fitted(backbone, weights)
    convolutions = (f"{path}.weight" for path, m in backbone.body.named_modules() if isinstance(m, nn.Conv2d))
    stem = next(convolutions, None)
    loaded: list[str] = []
    for key in current.keys() & state.keys():
        value = state[key]
        if key == stem and value.ndim == 4 and value.shape[1] != current[key].shape[1]:
            groups_fit = value.shape[:1] + value.shape[2:] == current[key].shape[:1] + current[key].shape[2:]
            value = adapt_channels(value, current[key].shape[1]) if groups_fit else value
        if value.shape == current[key].shape:
            current[key].copy_(value)
            loaded.append(key)
        elif key not in fresh:
            raise ValueError(
                f"{weights.source}: {key} has the shape {tuple(value.shape)}, but {backbone.name} needs "
                f"{tuple(current[key].shape)}: do backbone, stem and image_size match the weights?"
            )
    # Older files lack the counter of batches; only BatchNorm with a momentum of None reads it.
    required = [key for key in current if not key.endswith("num_batches_tracked")]
    missing = [key for key in required if key not in loaded]
    if len(missing) == len(required):
        file, parts = find_file(weights.source), _parts_with(state, required)
        hint = ""
        if file is not None and parts:
            part = parts[0] if file.part is None else f"{file.part}.{parts[0]}"
            hint = f" Name the part that holds the network: {file._replace(part=part)}."
        raise ValueError(
            f"{weights.source}: none of its {len(state)} tensors belongs to {backbone.name}; it holds {listed(state)}."
            f"{hint}"
        )
    unexpected = [key for key in state if key not in loaded]
    _check_match(backbone, weights.source, loaded, missing, unexpected)
    _LOGGER.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors of %s; missing (random): %s; unexpected: %s%s",
        weights.source,
        len(required) - len(missing),
        len(required),
        backbone.name,
        listed(missing),
        listed(unexpected),
        _classifier_note(state, unexpected),
    )


def _parts_with(state: Mapping[str, Tensor], keys: list[str]) -> list[str]:
    """Return the prefixes under which a state dict holds all keys, such as `model` or `encoder_q`."""
    prefixes = [key.removesuffix(f".{keys[0]}") for key in state if key.endswith(f".{keys[0]}")]
    return [prefix for prefix in prefixes if prefix.isidentifier() and all(f"{prefix}.{key}" in state for key in keys)]


def _check_match(backbone: Backbone, source: str, loaded: list[str], missing: list[str], unexpected: list[str]) -> None:
    """Refuse the weights of another network that shares some names and shapes with this one."""
    if len(missing) > len(loaded):
        raise ValueError(
            f"{source}: only {len(loaded)} tensors fit, {len(missing)} of {backbone.name} are missing "
            f"({listed(missing)}): these are weights of another network, change {argument('backbone')} or "
            f"{argument('weights')}."
        )
    parts = {key.partition(".")[0] for key in loaded}
    deeper = [key for key in unexpected if key.partition(".")[0] in parts and not _CLASSIFIER.fullmatch(key)]
    deeper = [key for key in deeper if not key.endswith("num_batches_tracked")]
    if len(deeper) > 0.1 * len(loaded):
        raise ValueError(
            f"{source}: {backbone.name} has no layers for {len(deeper)} of its tensors ({listed(deeper)}): "
            f"these are weights of another network, change {argument('backbone')} or {argument('weights')}."
        )


def _classifier_note(state: Mapping[str, Tensor], unexpected: list[str]) -> str:
    """Return a note for the log if a classifier was not loaded, with its number of classes."""
    for key in unexpected:
        match = _CLASSIFIER.fullmatch(key)
        if match and key.endswith("weight") and state[key].ndim in (2, 4):
            return f" (the classifier {match['name']} of {len(state[key])} classes is not used)"
    return ""


def _fitted(backbone: Backbone, weights: Weights) -> Mapping[str, Tensor]:
    """Convert weights to the names of the network and the positions of its image size."""
    body = backbone.body
    if is_efficientnet_pytorch(weights.state):
        return from_efficientnet_pytorch(weights.source, weights.state, body)
    if timm_name(backbone.name) is not None:
        return fit_timm_weights(body, weights.state)
    if isinstance(body, VisionTransformer):
        return fit_vit_weights(body, weights.state)
    if not isinstance(body, models.VisionTransformer) or weights.image_size is None:
        return weights.state
    if weights.image_size[0] == body.image_size:
        return weights.state
    resized = interpolate_embeddings(body.image_size, body.patch_size, dict(weights.state))
    return {str(key): value for key, value in resized.items()}
