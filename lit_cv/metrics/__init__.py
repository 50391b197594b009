"""Metrics in addition to torchmetrics', as subclasses of its `Metric`, and functions that evaluate an embedding.

The functions are `knn_predictions`, `nearest_neighbors`, `propagate_labels`, `propagated_predictions`,
`centroid_predictions`, `certainty`, `alignment`, `uniformity`, `effective_rank`, and the scores of a classifier without
labels, `reverse_validation` and those in `lit_cv.metrics.adaptation_scores`.
"""

from lit_cv.metrics.adaptation import AnswerInformation, PseudoLabelQuality
from lit_cv.metrics.adaptation_scores import (
    cluster_agreement,
    embedded_validation_risk,
    nuclear_norm,
    prediction_silhouette,
    soft_neighborhood_density,
)
from lit_cv.metrics.centroid import centroid_predictions
from lit_cv.metrics.classes import ClassAccuracy, MacroF1
from lit_cv.metrics.detection import DetectionAP
from lit_cv.metrics.embedding import alignment, effective_rank, spread, uniformity
from lit_cv.metrics.episodes import EpisodeAccuracy
from lit_cv.metrics.knn import knn_predictions, nearest_neighbors
from lit_cv.metrics.label_propagation import certainty, propagate_labels, propagated_predictions
from lit_cv.metrics.multi_label import KnownAveragePrecision, KnownF1
from lit_cv.metrics.r2 import KnownR2Score
from lit_cv.metrics.reverse_validation import ReverseScores, reverse_validation
from lit_cv.metrics.segmentation import SegmentationIoU

__all__ = [
    "AnswerInformation",
    "ClassAccuracy",
    "DetectionAP",
    "EpisodeAccuracy",
    "KnownAveragePrecision",
    "KnownF1",
    "KnownR2Score",
    "MacroF1",
    "PseudoLabelQuality",
    "ReverseScores",
    "SegmentationIoU",
    "alignment",
    "centroid_predictions",
    "certainty",
    "cluster_agreement",
    "effective_rank",
    "embedded_validation_risk",
    "knn_predictions",
    "nearest_neighbors",
    "nuclear_norm",
    "prediction_silhouette",
    "propagate_labels",
    "propagated_predictions",
    "reverse_validation",
    "soft_neighborhood_density",
    "spread",
    "uniformity",
]
