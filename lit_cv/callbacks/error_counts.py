"""Counts of a classifier's errors, gathered on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.losses import label_cross_entropy

__all__ = ["ErrorCounts", "MultiLabelCounts", "WorstImages"]


class ErrorCounts:
    """Confusion matrix of a classifier, accumulated without device synchronization.

    Args:
        classes: Number of classes K.
        device: Device of the batches.

    Example:
        >>> counts = ErrorCounts(2, torch.device("cpu"))
        >>> counts.update(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), torch.tensor([0, 0, -1]))
        >>> counts.matrix
        tensor([[1, 1],
                [0, 0]])
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self._counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=device)

    @property
    def matrix(self) -> Tensor:
        """Counts (K, K) int64; row = true class, column = predicted class."""
        return self._counts[:-1].view(self.classes, self.classes)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch of logits (N, K) against classes (N,), -1 for unlabeled images."""
        cells = target * self.classes + logits.argmax(-1)
        # Unlabeled images are counted in an extra cell: selecting the others would synchronize with the device.
        cells = torch.where(target >= 0, cells, self.classes * self.classes)
        self._counts.index_put_((cells,), torch.ones_like(cells), accumulate=True)

    def reduce(self) -> None:
        """Sum the counts over all ranks."""
        _all_reduce(self._counts)


class MultiLabelCounts:
    """Counts of predicted labels, true labels and both, for images with several labels.

    Args:
        classes: Number of classes K.
        device: Device of the batches.

    Attributes:
        table: (3, K) int64: true positives, predicted labels, true labels.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.table = torch.zeros(3, classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch of logits (N, K), positive if predicted, against targets (N, K), 0 or 1, or -1 if unknown."""
        predicted, true = (logits > 0) & (target >= 0), target > 0.5
        self.table += torch.stack([(predicted & true).sum(0), predicted.sum(0), true.sum(0)])

    def reduce(self) -> None:
        """Sum the counts over all ranks."""
        _all_reduce(self.table)


class WorstImages:
    """Images with the highest losses so far.

    Args:
        n: Number of images to keep.

    Attributes:
        images: (M, C, H, W) with M <= n, highest loss first.
        losses: (M,) float32, -inf for unlabeled images.
        targets: (M,) int64, or (M, K) for several labels per image.
        scores: (M, K) float32 probabilities.
        positions: (M,) int64 positions in the dataset, -1 if unknown.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.images: Tensor | None = None
        self.losses = torch.empty(0)
        self.targets = torch.empty(0)
        self.scores = torch.empty(0)
        self.positions = torch.empty(0, dtype=torch.int64)

    def update(self, images: Tensor, logits: Tensor, target: Tensor, positions: Tensor | None = None) -> None:
        """Keep the images with the highest losses among the previous ones and this batch, without copies to the host.

        Args:
            images: (N, C, H, W). Images of another size than the previous ones are skipped.
            logits: (N, K).
            target: (N,) int64, -1 for unlabeled images, or (N, K) for several labels per image, 0 or 1, negative
                if unknown.
            positions: (N,) int64, positions of the images in the dataset.
        """
        logits = logits.float()
        if target.ndim == 1:
            losses = F.cross_entropy(logits, target.clamp(min=0), reduction="none")
            losses = torch.where(target >= 0, losses, -torch.inf)
        else:
            losses = torch.where((target >= 0).any(1), label_cross_entropy(logits, target), -torch.inf)
        if positions is None:
            positions = torch.full_like(losses, -1, dtype=torch.int64)
        # topk treats NaN as the greatest value, and an image with a NaN loss is worth a look.
        losses, chosen = losses.topk(min(self.n, len(losses)))
        scores = logits[chosen].softmax(-1) if target.ndim == 1 else logits[chosen].sigmoid()
        parts = [images[chosen], target[chosen], scores, positions[chosen]]
        if self.images is not None:
            if images.shape[1:] != self.images.shape[1:]:
                return
            earlier = (self.images, self.targets, self.scores, self.positions)
            losses, chosen = torch.cat([self.losses, losses]).topk(min(self.n, len(self.losses) + len(losses)))
            parts = [torch.cat([old, new])[chosen] for old, new in zip(earlier, parts, strict=True)]
        self.losses = losses
        self.images, self.targets, self.scores, self.positions = parts


def _all_reduce(counts: Tensor) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
