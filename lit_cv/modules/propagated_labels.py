"""Pseudo-labels that are propagated from labeled images to their neighbors, and renewed during training."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_cv.metrics import certainty, propagate_labels
from lit_cv.nn.buffers import resize_buffers

__all__ = ["PropagatedLabels"]


class PropagatedLabels(nn.Module):
    """A class for each image of a dataset, from the graph of nearest neighbors in a network's features.

    Args:
        num_images: Number of images in the dataset.
        num_classes: Number of classes K.

    Attributes:
        classes: The propagated classes, (N,) int64.
        certainties: 1 for an image that only one class reaches, 0 where all do alike, (N,) float.
        epoch: The epoch in which labels were propagated last, -1 before the first time.

    Example:
        >>> propagated = PropagatedLabels(num_images=3, num_classes=2)
        >>> propagated.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([0, 1, -1]), epoch=0)
        >>> propagated.classes
        tensor([0, 1, 1])
        >>> propagated(torch.tensor([2, 2]), torch.tensor([0, 1]))
        (tensor([1, 1]), tensor([0., 1.]))
    """

    classes: Tensor
    certainties: Tensor
    epoch: Tensor

    def __init__(self, num_images: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("classes", torch.zeros(num_images, dtype=torch.int64))
        self.register_buffer("certainties", torch.zeros(num_images))
        self.register_buffer("epoch", torch.tensor(-1))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, epoch: int) -> None:
        """Propagate labels anew.

        Args:
            features: (N, D) of all images.
            labels: (N,) int64, negative where unknown.
            epoch: The current epoch, from 0.
        """
        probabilities = propagate_labels(features, labels.to(features.device), self.num_classes)
        self.classes.copy_(probabilities.argmax(1))
        self.certainties.copy_(certainty(probabilities))
        self.epoch.fill_(epoch)

    def forward(self, index: Tensor, predicted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the classes of images, and the weights (N,) of their losses.

        Args:
            index: (N,) int64, positions of the images in the dataset.
            predicted: The classes (N,) that the network predicts. An image on which network and graph agree has the
                weight 1, others 0: two answers with different errors are rarely wrong together. `None` weights by the
                certainty, while predictions are not worth comparing.
        """
        classes = self.classes[index]
        return classes, self.certainties[index] if predicted is None else (classes == predicted).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        resize_buffers(self, state_dict, prefix, "classes", "certainties")
        super()._load_from_state_dict(state_dict, prefix, *args)
