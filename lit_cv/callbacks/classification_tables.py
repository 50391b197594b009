"""Tables of a classifier's errors."""

import math
from collections.abc import Sequence

from torch import Tensor

from lit_cv.callbacks.error_counts import WorstImages
from lit_cv.callbacks.table_log import Cell, Table

__all__ = ["class_table", "confusion_table", "loss_table"]


def confusion_table(matrix: Tensor, names: Sequence[str] | None = None) -> Table:
    """Return a confusion matrix as a table with a row for each true class and a column for each prediction.

    Args:
        matrix: (K, K) counts; row = true class, column = predicted class.
        names: Names of the K classes; `None` uses their numbers.
    """
    classes = [_name(number, names) for number in range(len(matrix))]
    rows: list[list[Cell]] = [[name, *row] for name, row in zip(classes, matrix.tolist(), strict=True)]
    return Table(["true / predicted", *classes], rows)


def class_table(counts: Tensor, names: Sequence[str] | None = None) -> Table:
    """Return recall, precision and F1 score of each class; those without images have none.

    Args:
        counts: (3, K) int64: true positives, predictions, true labels.
        names: Names of the K classes; `None` uses their numbers.

    Example:
        >>> import torch
        >>> class_table(torch.tensor([[1, 0], [2, 0], [1, 1]]), ["cat", "dog"]).rows
        [['cat', 1, 2, 1, 1.0, 0.5, 0.666667], ['dog', 1, 0, 0, 0.0, None, 0.0]]
    """
    rows: list[list[Cell]] = []
    for number, (right, predicted, true) in enumerate(counts.T.tolist()):
        scores = (_ratio(right, true), _ratio(right, predicted), _ratio(2 * right, true + predicted))
        rows.append([_name(number, names), true, predicted, right, *scores])
    return Table(["class", "images", "predicted", "correct", "recall", "precision", "f1"], rows)


def loss_table(worst: WorstImages, images: Sequence[str | None], names: Sequence[str] | None = None) -> Table:
    """Return the images with the highest losses, with true label, prediction, its probability, and loss.

    Several labels are separated by `|`, and have no probability.

    Args:
        worst: The images.
        images: Their names.
        names: Names of the classes; `None` uses their numbers.
    """
    rows: list[list[Cell]] = []
    content = (worst.targets.tolist(), worst.scores.tolist(), worst.losses.tolist())
    for image, target, scores, loss in zip(images, *content, strict=True):
        if isinstance(target, list):
            labels: list[Cell] = [
                "|".join(_name(k, names) for k, x in enumerate(v) if x > 0.5) for v in (target, scores)
            ]
            probability = None
        else:
            probability = max(scores)
            labels = [_name(target, names) if target >= 0 else None, _name(scores.index(probability), names)]
        rows.append([image, *labels, *(_rounded(value) for value in (probability, loss))])
    return Table(["image", "true", "predicted", "probability", "loss"], rows)


def _name(number: int, names: Sequence[str] | None) -> str:
    return names[number] if names else str(number)


def _ratio(part: int, total: int) -> float | None:
    return round(part / total, 6) if total else None


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None
