"""Moving averages of networks, used as teachers and target networks. Pure torch."""

import copy
import math
from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.nn.batch_statistics import batch_norms

__all__ = ["MovingAverage", "cosine_decay", "move_averages"]


class MovingAverage(nn.Module):
    """An exponential moving average of a network, called like the network but without a gradient.

    It starts as a deep copy. `update(decay)` sets every weight to `decay * average + (1 - decay) * weight`; a module
    calls it in `after_step`. Buffers other than BatchNorm's statistics are copied.

    The copy stays in eval mode, so it never applies dropout. `statistics` controls BatchNorm:

    - `own`: in training mode, the copy normalizes by the statistics of its input batches and tracks them in its running
      statistics, which updates do not touch. BYOL, MoCo and self-training need this, because their copy sees other
      images than the network.
    - `averaged`: the copy always normalizes by its running statistics, which updates average like the weights, as in
      the mean teacher.

    The average is a submodule of its owner: it follows the owner's device, memory format and dtype. Its state dict has
    the keys of the network. Its parameters require no gradient, so `parameter_groups` skips them. It holds only a
    reference to the network; if the network is replaced, create a new average. In half precision without autocast,
    updates with a decay near 1 are lost to rounding.

    Args:
        module: The network.
        statistics: Source of BatchNorm's running statistics.

    Raises:
        ValueError: If `statistics` is neither of these.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> average = MovingAverage(network)
        >>> before = float(average.module.weight)
        >>> _ = network.weight.data.add_(1)
        >>> average.update(decay=0.9)
        >>> round(float(average.module.weight) - before, 4)
        0.1
    """

    def __init__(self, module: nn.Module, statistics: Literal["own", "averaged"] = "own") -> None:
        super().__init__()
        if statistics not in ("own", "averaged"):
            raise OptionError(self, "statistics", statistics, "must be 'own' or 'averaged'")
        self.statistics = statistics
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._network = (module,)  # in a tuple, so that it is not a submodule: its owner saves it
        self.train(module.training)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the averaged network."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average toward the current weights of the network.

        Args:
            decay: Weight of the old average, from 0 to 1.

        Raises:
            ValueError: If it is out of range, or the shapes of the network's weights have changed since the copy.
        """
        if not 0 <= decay <= 1:
            raise OptionError(self, "decay", decay, "must be a number from 0 to 1")
        averages, values = (self._averaged(network) for network in (self.module, self._network[0]))
        if [average.shape for average in averages] != [value.shape for value in values]:
            raise ValueError(
                f"the weights of {type(self._network[0]).__name__} have other shapes than when its moving average was "
                "created, or a strategy has sharded them: create the average when the network is complete."
            )
        move_averages(averages, values, decay)
        for average, value in zip(
            *(_fixed_buffers(network) for network in (self.module, self._network[0])), strict=True
        ):
            average.copy_(value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of BatchNorm layers if `statistics` is `own`; everything else stays in eval mode."""
        super().train(False)
        if self.statistics == "own":
            for norm in batch_norms(self.module):
                norm.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the average under the keys of the network."""
        return self.module.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}module.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _averaged(self, network: nn.Module) -> list[Tensor]:
        """Return the tensors that updates average, each once."""
        norms = batch_norms(network) if self.statistics == "averaged" else []
        return [*network.parameters(), *(buffer for norm in norms for buffer in norm.buffers(recurse=False))]


def _fixed_buffers(network: nn.Module) -> list[Tensor]:
    """Return the buffers that are no statistics of BatchNorm, each once."""
    statistics = {id(buffer) for norm in batch_norms(network) for buffer in norm.buffers(recurse=False)}
    return [buffer for buffer in network.buffers() if id(buffer) not in statistics]


@torch.no_grad()
def move_averages(averages: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Set averages in place to `decay * average + (1 - decay) * value`; integers, such as counters, are copied.

    Args:
        averages: The averages.
        values: The new values, with the same shapes.
        decay: Weight of the old averages.
    """
    moved: list[Tensor] = []
    targets: list[Tensor] = []
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            moved.append(average)
            targets.append(value)
        else:
            average.copy_(value)
    if moved:
        torch._foreach_lerp_(moved, targets, 1 - decay)


def cosine_decay(base: float, step: int, total_steps: float) -> float:
    """Return the decay of a step, which rises from `base` to 1 along a cosine, as in BYOL (Grill et al. 2020).

    Args:
        base: Decay of the first step, such as 0.996.
        step: Index of the step, from 0.
        total_steps: Number of training steps, after which the decay stays 1; infinity keeps it at `base`.

    Example:
        >>> [cosine_decay(0.9, step, 100) for step in (0, 50, 100)]
        [0.9, 0.95, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * min(step / total_steps, 1.0)) + 1) / 2
