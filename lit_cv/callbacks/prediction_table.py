"""Table rows of predicted classes."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["ClassTable"]

_ALL = 20  # maximum number of classes for which all probabilities are written
_TOP = 5  # number of probabilities written for more classes


class ClassTable:
    """Formats probabilities as rows: of all classes if there are few, otherwise of the most probable ones.

    Args:
        classes: Number of classes.
        names: Names of the classes; `None` uses their numbers.
        several: Whether images have several labels.
        least: Minimum probability of a predicted class; `None` means 0.5 for several labels, no minimum otherwise.
        shown: Function that converts names for the table.

    Example:
        >>> table = ClassTable(2, ["cat", "dog"])
        >>> table.columns("image")
        ['image', 'predicted', 'probability', 'p_cat', 'p_dog']
        >>> table.rows(torch.tensor([[0.25, 0.75]]), ["a.jpg"])
        ([['a.jpg', 'dog', '0.750000', '0.250000', '0.750000']], [0.75])
    """

    def __init__(
        self,
        classes: int,
        names: Sequence[str] | None = None,
        several: bool = False,
        least: float | None = None,
        shown: Callable[[str], str] = str,
    ) -> None:
        self.classes = classes
        self.names = names or [str(number) for number in range(classes)]
        self.several = several
        self.least = (0.5 if several else 0.0) if least is None else least
        self.shown = shown

    def columns(self, head: str) -> list[str]:
        """Return the column names, starting with `head`."""
        if self.classes <= _ALL:
            others = [f"p_{name}" for name in self.names]
        else:
            others = [column for k in range(2, _TOP + 1) for column in (f"top{k}", f"top{k}_probability")]
        return [head, "predicted", "probability", *others]

    def rows(self, probabilities: Tensor, samples: Sequence[str]) -> tuple[list[list[str]], list[float]]:
        """Return the rows of a batch and the certainty of each prediction.

        Args:
            probabilities: (N, K).
            samples: Names of the images.
        """
        everything = self.several or self.classes <= _ALL  # an image may have any number of labels
        highest, indices = probabilities.float().topk(self.classes if everything else _TOP)
        highest = highest.cpu()
        rows = [
            [self.shown(sample), *self._cells(values, classes)]
            for sample, values, classes in zip(samples, highest.tolist(), indices.tolist(), strict=True)
        ]
        return rows, [_certainty(values, self.several) for values in highest]

    def _cells(self, values: list[float], classes: list[int]) -> Iterator[str]:
        chosen = [self.names[c] for v, c in zip(values, classes, strict=True) if v >= self.least]
        yield self.shown("|".join(chosen if self.several else chosen[:1]))
        yield f"{values[0]:.6f}"
        if self.classes <= _ALL:
            by_class = dict(zip(classes, values, strict=True))
            yield from (f"{by_class[index]:.6f}" for index in range(self.classes))
        else:
            for value, index in zip(values[1:_TOP], classes[1:_TOP], strict=True):
                yield self.shown(self.names[index])
                yield f"{value:.6f}"


def _certainty(values: Tensor, several: bool) -> float:
    """Return the certainty of a prediction: its probability, or for several labels the smallest distance to 0.5."""
    return float(torch.abs(values - 0.5).min()) if several else float(values[0])
