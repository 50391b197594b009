"""Checkpoints of low-rank updates, which refer to the backbone's pretrained weights instead of containing them."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_cv.errors import argument
from lit_cv.modules.base import BaseModule
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.nn import absolute_weights

__all__ = ["add_base_weights", "frozen_digest", "remove_base_weights", "restore_base_weights"]

_STATES = (("state_dict",), ("current_model_state",), ("ema", "weights"))  # also those of averaging callbacks


def remove_base_weights(module: ExtensionPoints, checkpoint: dict[str, Any], digest: str) -> None:
    """Remove the frozen backbone weights from a checkpoint in place, and record where they came from.

    Args:
        module: The module; its `weights` name the source.
        checkpoint: The checkpoint.
        digest: Result of `frozen_digest`.
    """
    frozen = set(_frozen_keys(module.state_dict()))
    for holder, name in _states(checkpoint):
        holder[name] = {key: value for key, value in holder[name].items() if key not in frozen}
    checkpoint["lit_cv"]["base"] = digest
    checkpoint["hyper_parameters"]["weights"] = absolute_weights(module.hparams["weights"])


def restore_base_weights(module: BaseModule, checkpoint: dict[str, Any]) -> None:
    """Add the module's frozen backbone weights in place to a checkpoint that only refers to them.

    Raises:
        ValueError: If the weights are not available, or differ from those of the training.
    """
    digest = checkpoint.get("lit_cv", {}).get("base")
    if digest is None:
        return
    base = _require_base(module, digest, checkpoint["hyper_parameters"].get("weights"))
    for holder, name in _states(checkpoint):
        holder[name] = {**base, **holder[name]}


def add_base_weights(
    module: BaseModule, state: Mapping[str, Tensor], digest: str, weights: str | None
) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint completed with the module's frozen backbone weights.

    Args:
        module: The module, into which the weights are loaded unless it has some.
        state: The state dict.
        digest: Result of `frozen_digest` at the training.
        weights: The pretrained weights that the checkpoint names.

    Raises:
        ValueError: If the weights are not available, or their digest differs.
    """
    return {**_require_base(module, digest, weights), **state}


@torch.no_grad()
def frozen_digest(module: ExtensionPoints) -> str:
    """Return a SHA-256 digest of the names, shapes and values of the backbone's frozen weights."""
    state, digest = module.state_dict(), hashlib.sha256()
    for key in sorted(_frozen_keys(state)):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_base(module: BaseModule, digest: str, weights: str | None) -> dict[str, Tensor]:
    """Return the module's frozen backbone weights, after loading them unless it has some."""
    module.configure_model()
    source = module.hparams["weights"]
    current = frozen_digest(module)
    if source is None and weights is not None and current != digest:
        source = weights
        try:
            body = module.build_backbone(weights).body
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the checkpoint holds low-rank updates of weights={weights!r}, which cannot be read: {error} If they "
                f"have moved, set {argument('weights', module)}."
            ) from error
        module.backbone.body.load_state_dict(body.state_dict(), strict=False)
        module.hparams["weights"] = weights
        current = frozen_digest(module)
    if current != digest:
        raise ValueError(
            f"the checkpoint holds low-rank updates of other weights than weights={source!r}: use those that its "
            f"training started from ({argument('weights', module)})."
        )
    state = module.state_dict()
    return {key: state[key] for key in _frozen_keys(state)}


def _states(checkpoint: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the location of each state dict in a checkpoint: the dict that contains it, and its key."""
    for *path, name in _STATES:
        holder: Any = checkpoint
        for part in path:
            holder = holder.get(part, {})
        if name in holder:
            yield holder, name


def _frozen_keys(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if key.startswith("backbone.body.") and not key.rpartition(".")[2].startswith("lora_")]
