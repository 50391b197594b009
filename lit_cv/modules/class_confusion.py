"""Domain adaptation by less confusion between the classes predicted for the target (MCC)."""

from typing import Any

from lit_cv.distributed import gather_with_gradient
from lit_cv.errors import OptionError
from lit_cv.losses import class_confusion
from lit_cv.modules.base import Batch, Output
from lit_cv.modules.domain_adaptation import DomainAdaptationModule, Domains

__all__ = ["ClassConfusionModule"]


class ClassConfusionModule(DomainAdaptationModule):
    """Learns the source labels, and predictions for the target that confuse as few classes as possible.

    The adaptation loss is `lit_cv.losses.class_confusion` of the target's logits (Jin et al. 2020, "Minimum Class
    Confusion for Versatile Domain Adaptation"). Domains are not aligned. With several ranks the predictions of all
    ranks are taken together. Batches, the loss on source labels, lambda, metrics and `monitor` are those of
    `DomainAdaptationModule`.

    Args:
        temperature: Divides the target's logits.
        **kwargs: Arguments of `DomainAdaptationModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> module = ClassConfusionModule(backbone="conv4", num_classes=5, in_channels=1, temperature=2.0)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    def __init__(self, temperature: float = 2.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise OptionError(self, "temperature", temperature, "must be positive")

    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return the confusion of the target's predictions."""
        target = gather_with_gradient(logits.target.float())
        return {"adaptation_loss": class_confusion(target, self.hparams["temperature"])}
