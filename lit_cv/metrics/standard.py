"""torchmetrics' metrics that a user can add to a task, by name."""

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
METRICS.add("balanced_acc")(Accuracy)  # tasks request the mean over the classes
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
