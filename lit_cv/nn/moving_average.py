"""Moving averages of networks: the teachers and targets that a network learns from. Pure torch."""

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
    """An exponential moving average of a network, called in its place and without a gradient.

    It starts as a deep copy. `update(decay)` moves every weight to `decay * average + (1 - decay) * weight`; a module
    calls it in `after_step`. Buffers are averaged, too, and those of whole numbers copied.

    The copy stays in eval mode: it drops nothing, whatever the network drops in training. `statistics` decides about
    BatchNorm:

    - `own`: in training mode it normalizes by the batch that it is called with, and its running statistics are those
      of these batches. Updates leave them alone. This is what BYOL, MoCo and self-training need, whose copy sees
      other images than the network.
    - `averaged`: it always normalizes by its running statistics, which updates move as they move weights. This is
      the mean teacher's way.

    The average is a part of the module that holds it: it moves to devices, memory formats and dtypes with it, and its
    state dict has the keys of the network. Its parameters require no gradient, so `parameter_groups` leaves them out.
    The network itself is only referred to. A module that replaces it by another one needs a new average. In half
    precision without autocast, steps of a decay near 1 are lost to rounding.

    Args:
        module: The network.
        statistics: Where BatchNorm's running statistics come from.

    Raises:
        ValueError: If `statistics` is neither.

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
            raise OptionError(self, "statistics", statistics, "give 'own' or 'averaged'")
        self.statistics = statistics
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._network = (module,)  # no submodule: whoever made it holds and saves it
        self.train(module.training)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the average makes of the network's input."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the network.

        Args:
            decay: Share of the average that stays, from 0 to 1.

        Raises:
            ValueError: If it is out of range, or the network has other weights than when it was copied.
        """
        if not 0 <= decay <= 1:
            raise OptionError(self, "decay", decay, "give a share from 0 to 1")
        averages, values = (self._averaged(network) for network in (self.module, self._network[0]))
        if [average.shape for average in averages] != [value.shape for value in values]:
            raise ValueError(
                f"{type(self._network[0]).__name__} has other weights than when its moving average was made, or a "
                "strategy has taken them to pieces: make the average when the network is complete."
            )
        move_averages(averages, values, decay)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of BatchNorm if its statistics are `own`; all else stays in eval mode."""
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
        """Return the tensors that updates move, each once."""
        own = batch_norms(network) if self.statistics == "own" else []
        left_out = {id(buffer) for norm in own for buffer in norm.buffers(recurse=False)}
        return [tensor for tensor in (*network.parameters(), *network.buffers()) if id(tensor) not in left_out]


@torch.no_grad()
def move_averages(averages: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Move averages in place to `decay * average + (1 - decay) * value`; whole numbers, such as counters, are copied.

    Args:
        averages: The averages.
        values: What they are of, with the same shapes.
        decay: Share of the averages that stays.
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
    """Return the decay of a step: it rises from `base` to 1 along a cosine, as in BYOL (Grill et al. 2020).

    Args:
        base: Decay of the first step, such as 0.996.
        step: Number of the step, from 0.
        total_steps: Steps of the training, beyond which it stays 1; infinity keeps it at `base`.

    Example:
        >>> [cosine_decay(0.9, step, 100) for step in (0, 50, 100)]
        [0.9, 0.95, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * min(step / total_steps, 1.0)) + 1) / 2
