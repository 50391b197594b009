"""Domain adaptation by matching distributions: MMD, joint MMD and CORAL."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_cv.distributed import gather_with_gradient
from lit_cv.errors import OptionError
from lit_cv.losses import MMDLoss, coral
from lit_cv.modules.base import Batch, Output
from lit_cv.modules.domain_adaptation import DomainAdaptationModule, Domains
from lit_cv.nn import LayerTaps

__all__ = ["MMDModule"]

_OUTPUTS = ("features", "logits", "probabilities")


class MMDModule(DomainAdaptationModule):
    """Learns features with the same distribution in source and target.

    The adaptation loss is a distance between the features of source and target in a batch, in selected layers:

    - `mmd`: the sum over layers of the maximum mean discrepancy under a mixture of Gaussian kernels (DAN; Long et al.
      2015, "Learning Transferable Features with Deep Adaptation Networks").
    - `joint_mmd`: the maximum mean discrepancy of the layers' joint distribution (JAN; Long et al. 2017).
    - `coral`: the sum of the distances between covariances (Sun and Saenko 2016, "Deep CORAL").

    See `lit_cv.losses.MMDLoss` for the kernels and estimators. They are unbiased: once the domains match, the loss is
    around 0 and sometimes negative. With several ranks the features of all ranks are compared. Batches, the loss on
    source labels, lambda, metrics and `monitor` are those of `DomainAdaptationModule`.

    Args:
        distance: `mmd`, `joint_mmd` or `coral`.
        layers: Layers to compare: `features` (output of the backbone), `logits`, `probabilities`, or names of
            modules within the backbone, such as `blocks.2` (maps are averaged over their pixels).
        kernels: Number of Gaussian kernels.
        kernel_factor: Ratio between the scales of neighboring kernels.
        bandwidth: Scale of the middle kernel, in squared units; `None` takes the mean squared distance in the batch.
        estimator: `unbiased` over all pairs, or `linear` in the batch size.
        **kwargs: Arguments of `DomainAdaptationModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a layer does not exist, or a value is out of range.

    Example:
        >>> module = MMDModule(backbone="conv4", num_classes=5, in_channels=1, layers=["blocks.2", "features"])
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        distance: Literal["mmd", "joint_mmd", "coral"] = "mmd",
        layers: list[str] | None = None,
        kernels: int = 5,
        kernel_factor: float = 2.0,
        bandwidth: float | None = None,
        estimator: Literal["unbiased", "linear"] = "unbiased",
        **kwargs: Any,
    ) -> None:
        layers = ["features", "logits"] if layers is None else list(layers)
        super().__init__(**kwargs)
        if distance not in ("mmd", "joint_mmd", "coral"):
            raise OptionError(self, "distance", distance, "must be 'mmd', 'joint_mmd' or 'coral'")
        if not layers or len(set(layers)) < len(layers):
            raise OptionError(self, "layers", layers, "must name at least one layer, and each only once")
        self.mmd = MMDLoss(kernels, kernel_factor, bandwidth, estimator)

    def configure_adaptation(self) -> None:
        """Register hooks that record the outputs of layers within the backbone."""
        self.taps = LayerTaps(self.backbone.body, [name for name in self.hparams["layers"] if name not in _OUTPUTS])

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbone unless layers within it are compared."""
        return super().compiled_networks() if set(self.hparams["layers"]) <= set(_OUTPUTS) else []

    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return the distance between the domains."""
        layers = [
            Domains(*(gather_with_gradient(part.float()) for part in self._layer(name, features, logits)))
            for name in self.hparams["layers"]
        ]
        distance = self.hparams["distance"]
        if distance == "joint_mmd":
            return {"adaptation_loss": self.mmd([x for x, _ in layers], [y for _, y in layers])}
        compare = coral if distance == "coral" else self.mmd
        return {"adaptation_loss": torch.stack([compare(x, y) for x, y in layers]).sum()}

    def _layer(self, name: str, features: Domains, logits: Domains) -> Domains:
        if name == "features":
            return features
        if name == "logits":
            return logits
        if name == "probabilities":
            return Domains(*(part.float().softmax(1) for part in logits))
        output: Tensor = self.taps.outputs[name]
        return Domains(output[: len(features.source)], output[len(features.source) :])
