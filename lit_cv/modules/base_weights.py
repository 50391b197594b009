"""Checkpoints of low-rank updates, which name the weights of the backbone in place of holding them."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_cv.errors import argument
from lit_cv.modules.base import BaseModule
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.nn import absolute_weights

__all__ = ["complete_state", "frozen_digest", "leave_out_base", "restore_base"]

_STATES = (("state_dict",), ("current_model_state",), ("ema", "weights"))  # where callbacks of averages put theirs


def leave_out_base(module: ExtensionPoints, checkpoint: dict[str, Any], digest: str) -> None:
    """Take the frozen weights of the backbone out of a checkpoint, in place, and name where they came from.

    Args:
        module: The module, whose `weights` they are.
        checkpoint: The checkpoint.
        digest: From `frozen_digest`.
    """
    frozen = set(_frozen_keys(module.state_dict()))
    for holder, name in _states(checkpoint):
        holder[name] = {key: value for key, value in holder[name].items() if key not in frozen}
    checkpoint["lit_cv"]["base"] = digest
    checkpoint["hyper_parameters"]["weights"] = absolute_weights(module.hparams["weights"])


def restore_base(module: BaseModule, checkpoint: dict[str, Any]) -> None:
    """Put the frozen weights of the module's backbone into a checkpoint that names them, in place.

    Raises:
        ValueError: If they are not to be had, or are other ones.
    """
    digest = checkpoint.get("lit_cv", {}).get("base")
    if digest is None:
        return
    base = _require_base(module, digest, checkpoint["hyper_parameters"].get("weights"))
    for holder, name in _states(checkpoint):
        holder[name] = {**base, **holder[name]}


def complete_state(
    module: BaseModule, state: Mapping[str, Tensor], digest: str, weights: str | None
) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint with the frozen weights of the module's backbone.

    Args:
        module: The module, which takes up the weights unless it has some.
        state: The state dict.
        digest: From `frozen_digest`.
        weights: The weights that the checkpoint names.

    Raises:
        ValueError: If the weights are not to be had, or are not those that the digest is of.
    """
    return {**_require_base(module, digest, weights), **state}


@torch.no_grad()
def frozen_digest(module: ExtensionPoints) -> str:
    """Return a digest (SHA-256) of the names, shapes and numbers of the backbone's frozen weights."""
    state, digest = module.state_dict(), hashlib.sha256()
    for key in sorted(_frozen_keys(state)):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_base(module: BaseModule, digest: str, weights: str | None) -> dict[str, Tensor]:
    """Return the frozen weights of the module's backbone, which takes them up unless it has some."""
    module.configure_model()
    given = module.hparams["weights"]
    found = frozen_digest(module)
    if given is None and weights is not None and found != digest:
        given = weights
        try:
            body = module.build_backbone(weights).body
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the checkpoint holds low-rank updates of weights={weights!r}, which cannot be read: {error} If they "
                f"lie elsewhere now, give {argument('weights', module)}."
            ) from error
        module.backbone.body.load_state_dict(body.state_dict(), strict=False)
        module.hparams["weights"] = weights
        found = frozen_digest(module)
    if found != digest:
        raise ValueError(
            f"the checkpoint holds low-rank updates of other weights than weights={given!r}: give those that its "
            f"training started from ({argument('weights', module)})."
        )
    own = module.state_dict()
    return {key: own[key] for key in _frozen_keys(own)}


def _states(checkpoint: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each state dict of a checkpoint as the dict that holds it, and its name there."""
    for *path, name in _STATES:
        holder: Any = checkpoint
        for part in path:
            holder = holder.get(part, {})
        if name in holder:
            yield holder, name


def _frozen_keys(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if key.startswith("backbone.body.") and not key.rpartition(".")[2].startswith("lora_")]
