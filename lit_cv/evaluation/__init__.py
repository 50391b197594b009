"""What a trained model is worth. Its measures are functions of tensors, in pure torch."""

from lit_cv.evaluation.embedding import alignment, effective_rank, uniformity
from lit_cv.evaluation.knn import knn_predictions

__all__ = ["alignment", "effective_rank", "knn_predictions", "uniformity"]
