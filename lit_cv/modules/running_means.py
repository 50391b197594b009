"""Means over an epoch of scalars that arrive batch by batch, kept on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["RunningMeans"]


class RunningMeans:
    """Averages named scalars over batches, weighted by their size, without waiting for the device.

    Two operations a scalar and step: `LightningModule.log(on_epoch=True)` takes 0.25 to 0.4 ms for the same,
    which shows on steps of a few milliseconds. Over several processes the sums are added up, so that the
    mean is that over all samples even when the ranks hold different numbers of them.

    Example:
        >>> means = RunningMeans()
        >>> means.update({"loss": torch.tensor(1.0)}, size=3)
        >>> means.update({"loss": torch.tensor(5.0)}, size=1)
        >>> means.compute()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._sizes: dict[str, float] = {}

    def update(self, scalars: Mapping[str, Tensor], size: int) -> None:
        """Add one batch of `size` samples, each scalar being the mean over that batch."""
        for name, value in scalars.items():
            # A new tensor each time would do, but in place keeps one buffer alive on the device.
            if name in self._sums:
                self._sums[name].add_(value.detach(), alpha=size)
                self._sizes[name] += size
            else:
                self._sums[name] = value.detach().float() * size
                self._sizes[name] = float(size)

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all samples of all processes so far, of those scalars that any sample had."""
        return {name: total[0] / total[1] for name, total in self._totals().items() if total[1] > 0}

    def copy(self) -> "RunningMeans":
        """Return means that go on from here on their own."""
        other = RunningMeans()
        other._sums = {name: value.clone() for name, value in self._sums.items()}
        other._sizes = dict(self._sizes)
        return other

    def reset(self) -> None:
        """Forget everything, as at the start of an epoch."""
        self._sums, self._sizes = {}, {}

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """Return the sums and sizes of this process's share, equal on every process."""
        ranks = torch.distributed.get_world_size() if _distributed() else 1
        return {name: (float(t[0]) / ranks, float(t[1]) / ranks) for name, t in self._totals().items()}

    def load_state_dict(self, state: Mapping[str, tuple[float, float]], device: torch.device) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        for name, pair in state.items():
            numbers = isinstance(pair, list | tuple) and all(isinstance(value, int | float) for value in pair)
            if not numbers or len(pair) != 2:
                raise ValueError(f"the checkpoint is damaged: the mean of {str(name)[:40]!r} is not a sum and a size.")
        self._sums = {name: torch.tensor(total, device=device) for name, (total, _) in state.items()}
        self._sizes = {name: size for name, (_, size) in state.items()}

    def _totals(self) -> dict[str, Tensor]:
        totals = {}
        for name, value in self._sums.items():
            total = torch.stack([value, value.new_tensor(self._sizes[name])])
            if _distributed():
                torch.distributed.all_reduce(total)
            totals[name] = total
        return totals


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
