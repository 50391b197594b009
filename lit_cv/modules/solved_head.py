"""Solving of a linear classifier on the features of a network, before or instead of training."""

import logging
import time

import torch
from torch import Tensor, nn

from lit_cv.contracts import as_dataset, datamodule_of
from lit_cv.errors import DATA, OptionError, VoidOptionError, setting
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.optim import LogisticRegression

__all__ = ["solve_head"]

log = logging.getLogger("lit_cv")


@torch.no_grad()
def solve_head(module: ExtensionPoints, features: Tensor, dataset: object, class_weight: Tensor | None = None) -> None:
    """Set the head to a logistic regression on features, with its strength chosen by cross-validation.

    The logits are scaled to minimize the loss on held-out images, so that probabilities are calibrated and training
    does not start by growing weights that the penalty has kept small. Unlabeled images are excluded. Each rank computes
    the same result from all images.

    Args:
        module: The module, whose head ends in one linear layer.
        features: (N, num_features), of the training images in dataset order.
        dataset: The training images, with `labels` (N,) int64 or (N, K), negative if unknown.
        class_weight: Weights (K,) of the classes in the loss, or of their positives for several labels per image.

    Raises:
        ValueError: If the head has another structure, or the dataset has no labels; or if images are sampled by class,
            which has no effect on a solved classifier.
    """
    balance = getattr(datamodule_of(module.trainer), "balance", 0.0)
    if balance and module.hparams.get("strategy") == "feature_extraction":
        allowed = "it has no effect on a solved classifier (solve_head); leave it at 0 and use class_weight"
        raise VoidOptionError(DATA, "balance", balance, allowed)
    labels = as_dataset(dataset).labels
    if labels is None:
        raise ValueError(f"solve_head needs the labels of all images, which {type(dataset).__name__} does not hold.")
    labeled = labels >= 0 if labels.ndim == 1 else (labels >= 0).any(1)
    if not labeled.any():
        raise OptionError(module, "solve_head", True, "needs labels, but no training image has one")
    target = labels[labeled] if labels.ndim == 1 else torch.where(labels >= 0, labels.float(), torch.nan)[labeled]
    started = time.monotonic()
    linear = _linear_layer(module)
    chosen = features[labeled.to(features.device)].float().cpu()
    regression = LogisticRegression(chosen, target, linear.out_features, _label_weights(target, class_weight))
    search = regression.search_strength()
    weight, bias = regression.fit(search.strength)
    linear.weight.copy_(search.scale * weight)
    linear.bias.copy_(search.scale * bias)
    accuracy = search.accuracies.get(search.strength)
    log.info(
        "Classifier solved on the features of %s images in %.1f s (strength %.2g%s).",
        f"{len(chosen):,}",
        time.monotonic() - started,
        search.strength,
        "" if accuracy is None else f", accuracy {accuracy:.1%} in cross-validation",
    )


def _label_weights(target: Tensor, class_weight: Tensor | None) -> Tensor | None:
    """Return label weights, (N,) with a mean of 1, or for several labels (N, K) with a mean of 1 in each column."""
    if class_weight is None:
        return None
    class_weight = class_weight.float().cpu()
    if target.ndim == 1:
        weight = class_weight[target.cpu()]
        return weight / weight.mean()
    weight = torch.where(target > 0.5, class_weight, 1.0)
    return weight / torch.where(target.isnan(), torch.nan, weight).nanmean(0).nan_to_num(1.0).clamp(min=1e-12)


def _linear_layer(module: ExtensionPoints) -> nn.Linear:
    """Return the only layer of the head with parameters."""
    layers = [layer for layer in module.head.modules() if any(True for _ in layer.parameters(recurse=False))]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is not None:
        return layers[0]
    raise ValueError(
        f"solve_head needs a head with a single linear layer with bias, which {type(module).__name__} lacks: "
        f"set {setting('solve_head', False, module)}."
    )
