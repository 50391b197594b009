"""Classifiers of a comparison that learn no weights: they compare the features of images."""

import time
from typing import Any

import torch
from torch import Tensor

from lit_cv.metrics import centroid_predictions, propagated_predictions
from lit_cv.studies.study_files import Row

__all__ = ["classify"]


def classify(classifier: str, module: Any, data: Any) -> Row:
    """Classify the test images by the features of labeled training images.

    Args:
        classifier: `nearest_centroid`, or `label_propagation`, which uses the training images without labels, too.
        module: Module whose features are compared.
        data: DataModule after its setup.

    Returns:
        The values of the run: `test_acc`, `seconds`, `parameters` of the backbone and the steps `taken`, none.

    Raises:
        ValueError: If the images have several labels each, or no test image has one.
    """
    propagates = classifier == "label_propagation"
    start = time.monotonic()
    bank, labels = _embed(module, data, data.unlabeled_dataset if propagates else data.train_dataset)
    seconds = time.monotonic() - start
    queries, truth = _embed(module, data, data.test_dataset)
    if labels.ndim != 1:
        raise ValueError(f"{classifier} needs images with exactly one label each.")
    labeled = truth >= 0
    if not labeled.any():
        raise ValueError(f"{classifier} needs labeled test images: none has a label.")
    start = time.monotonic()
    if propagates:
        predictions = propagated_predictions(queries[labeled], bank, labels, data.num_classes)
    else:
        known = labels >= 0
        predictions = centroid_predictions(queries[labeled], bank[known], labels[known], data.num_classes)
    seconds += time.monotonic() - start
    accuracy = float((predictions == truth[labeled]).float().mean())
    parameters = sum(p.numel() for p in module.backbone.parameters())
    return {"taken": 0, "seconds": round(seconds, 3), "parameters": parameters, "test_acc": round(accuracy, 6)}


@torch.no_grad()
def _embed(module: Any, data: Any, dataset: Any) -> tuple[Tensor, Tensor]:
    """Return the features (N, D) and labels of a dataset, in its order."""
    features = [module.embed(batch["image"].to(module.device)).float().cpu() for batch in data.ordered_loader(dataset)]
    return torch.cat(features), dataset.labels
