"""What a trained model is worth, and which to train.

Measures are functions of tensors, in pure torch, and found here. Cross-validation (`kfold`), comparisons
(`comparison`) and the runs that they are made of (`study`) train models, and are imported from their files.
"""

from lit_cv.evaluation.centroid import centroid_predictions
from lit_cv.evaluation.embedding import alignment, effective_rank, uniformity
from lit_cv.evaluation.knn import knn_predictions

__all__ = ["alignment", "centroid_predictions", "effective_rank", "knn_predictions", "uniformity"]
