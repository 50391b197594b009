"""Adversarial domain adaptation: features from which a discriminator cannot tell the domain."""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_batches
from lit_cv.errors import OptionError
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.domain_adaptation import DomainAdaptationModule, Domains
from lit_cv.modules.target_domain import is_source
from lit_cv.nn import DomainDiscriminator, reverse_gradient

__all__ = ["DomainAdversarialModule"]


class DomainAdversarialModule(DomainAdaptationModule):
    """Learns features from which a discriminator cannot tell source from target.

    DANN (Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks"): the discriminator minimizes the binary
    cross-entropy of the domain, and its gradient is reversed and multiplied by lambda before it enters the backbone.
    With `conditioning` it is CDAN (Long et al. 2018): the discriminator sees the product of features and class
    probabilities, and so compares images that seem to have the same class. `entropy` (CDAN+E) also weights each image
    by 1 + exp(-entropy), so that confident predictions count more, with a mean weight of 1 in each domain.

    Batches, the loss on source labels, lambda, metrics and `monitor` are those of `DomainAdaptationModule`. It also
    logs `train_discriminator_acc` and `val_discriminator_acc`, the mean accuracy over both domains. A value of 0.5
    means that the domains cannot be distinguished, which is the goal of the adaptation.

    Args:
        conditioning: `none` (DANN), `multilinear` (CDAN) or `entropy` (CDAN+E).
        discriminator_hidden: Width of the discriminator's hidden layers.
        discriminator_lr: Factor between the learning rate of the discriminator and `lr`.
        **kwargs: Arguments of `DomainAdaptationModule`, `SupervisedModule` and `BaseModule`.

    Example:
        >>> module = DomainAdversarialModule(backbone="conv4", num_classes=5, in_channels=1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    weighs_gradient = True
    structural = ("source_only", "conditioning", "discriminator_hidden")

    def __init__(
        self,
        conditioning: Literal["none", "multilinear", "entropy"] = "none",
        discriminator_hidden: int = 500,
        discriminator_lr: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if conditioning not in ("none", "multilinear", "entropy"):
            raise OptionError(self, "conditioning", conditioning, "must be 'none', 'multilinear' or 'entropy'")
        if discriminator_lr <= 0:
            raise OptionError(self, "discriminator_lr", discriminator_lr, "must be positive")

    def configure_adaptation(self) -> None:
        """Build the discriminator."""
        h = self.hparams
        self.discriminator = DomainDiscriminator(
            self.backbone.num_features,
            self.num_classes,
            hidden=h["discriminator_hidden"],
            conditional=h["conditioning"] != "none",
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups, with separate groups for a discriminator with another learning rate."""
        factor = self.hparams["discriminator_lr"]
        if factor == 1 or self.hparams["source_only"]:
            return super().parameter_groups()
        discriminator = set(self.discriminator.parameters())
        groups = []
        for group in super().parameter_groups():
            inside = [p for p in group["params"] if p in discriminator]
            outside = [p for p in group["params"] if p not in discriminator]
            if outside:
                groups.append({**group, "params": outside})
            if inside:
                name = f"discriminator.{group['name']}"
                groups.append({**group, "name": name, "params": inside, "lr": group["lr"] * factor})
        return groups

    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return the discriminator's loss, with its gradient reversed for the features."""
        probabilities = torch.cat(logits).detach().float().softmax(1)
        domain_logits = self.discriminator(reverse_gradient(torch.cat(features), weight), probabilities).float()
        n = len(features.source)
        is_target = torch.zeros_like(domain_logits)
        is_target[n:] = 1
        importance = None
        if self.hparams["conditioning"] == "entropy":
            importance = _importance(probabilities, n)
        loss = F.binary_cross_entropy_with_logits(domain_logits, is_target, weight=importance)
        accuracy = ((domain_logits.detach() > 0) == is_target.bool()).float().mean()
        return {"adaptation_loss": loss, "discriminator_acc": accuracy}

    def evaluation(self, batch: Batch, features: Tensor, logits: Tensor) -> Output:
        """Return the accuracy of the discriminator on one domain."""
        if self.hparams["source_only"] or "domain" not in batch:
            return {}
        domain_logits = cast(Tensor, self.discriminator(features, logits.float().softmax(1)))
        source = is_source(batch)
        accuracy = ((domain_logits > 0) != source).float().mean()
        return {f"discriminator_{'source' if source else 'target'}": accuracy}

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the discriminator's accuracies on both domains, independent of their sizes."""
        values = super().summarize(stage, values)
        both = [values.pop(f"{stage}_discriminator_{domain}", None) for domain in ("source", "target")]
        if both[0] is not None and both[1] is not None:
            values[f"{stage}_discriminator_acc"] = (both[0] + both[1]) / 2
        return values


def _importance(probabilities: Tensor, n: int) -> Tensor:
    """Return CDAN+E's weights of images, with a mean of 1 in each domain over all ranks."""
    weight = 1 + torch.exp(-torch.special.entr(probabilities).sum(1))
    return torch.cat([part / gather_batches(part).mean() for part in (weight[:n], weight[n:])])
