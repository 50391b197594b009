"""Metrics of torchmetrics by the names under which they can be added to those of a task."""

from torchmetrics import (
    AUROC,
    Accuracy,
    AveragePrecision,
    CohenKappa,
    ExplainedVariance,
    JaccardIndex,
    MatthewsCorrCoef,
    MeanAbsolutePercentageError,
    PearsonCorrCoef,
    Precision,
    Recall,
    SpearmanCorrCoef,
    Specificity,
)

from lit_cv.metrics.chosen import METRICS

METRICS.add("auroc")(AUROC)
METRICS.add("average_precision")(AveragePrecision)
METRICS.add("balanced_acc")(Accuracy)  # the mean over the classes, which is what tasks ask for
METRICS.add("explained_variance")(ExplainedVariance)
METRICS.add("jaccard")(JaccardIndex)
METRICS.add("kappa")(CohenKappa)
METRICS.add("mape")(MeanAbsolutePercentageError)
METRICS.add("mcc")(MatthewsCorrCoef)
METRICS.add("pearson")(PearsonCorrCoef)
METRICS.add("precision")(Precision)
METRICS.add("recall")(Recall)
METRICS.add("spearman")(SpearmanCorrCoef)
METRICS.add("specificity")(Specificity)
