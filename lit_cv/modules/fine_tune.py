"""Fine-tuning of a pretrained backbone for a new task."""

from collections import OrderedDict
from typing import Any, Self

from torch import Tensor, nn

from lit_cv.contracts import datamodule_of
from lit_cv.modules.base import Batch, Stage
from lit_cv.modules.feature_cache import cache_features, check_caching, check_extraction, extract_features
from lit_cv.modules.fine_tuning_options import StrategyName, checkpoint_backbone
from lit_cv.modules.solved_head import solve_head
from lit_cv.modules.supervised import SupervisedModule
from lit_cv.nn.batch_statistics import batch_norms

__all__ = ["FineTuneModule"]


class FineTuneModule(SupervisedModule):
    """Fine-tunes a pretrained backbone for a new task: trains a new classifier and selected parts of the backbone.

    Batches, losses, metrics and the options of `strategy`, which selects what is trained at which learning rate, are
    those of `SupervisedModule`; here `strategy` always has a value.

    Args:
        strategy: See `SupervisedModule`.
        weights: Pretrained weights: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint.
        backbone: Name of the network; `None` takes that of the checkpoint `weights`, or `resnet9` without weights.
        normalize_features: Whether features are normalized to mean 0 and variance 1 before the classifier, by the
            statistics of the batch in training and by running means in evaluation, as in the linear probes of MAE (He
            et al. 2022, appendix A.1). The scales of frozen features differ, which slows the training of a classifier
            down. `None` does so for `feature_extraction`, unless the head is solved.
        cache_features: For `feature_extraction` without augmentation: run each image through the backbone once,
            and train the classifier on the features cached in memory.
        solve_head: Whether training starts from the best classifier on the pretrained features: an L2-regularized
            logistic regression, with its strength chosen by cross-validation on the training images, see
            `lit_cv.optim.fit_logistic_regression`. With `feature_extraction` this is the final classifier, and `lr` has
            no effect. With other strategies the backbone then does not adapt to a random head (Kumar et al. 2022,
            "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
        running_statistics: Whether BatchNorm of the backbone keeps its pretrained statistics and normalizes by them
            also in training, while its weights are trained. `None` does so if the head is solved, since it is solved on
            features with these statistics; those of a batch differ, and are worse for few images.
        **kwargs: Arguments of `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If options contradict each other, or a stage does not exist.

    Example:
        >>> module = FineTuneModule(strategy="freeze_backbone", backbone="resnet18", frozen_stages="layer2",
        ...                         num_classes=5)
        >>> module.configure_model()
        >>> [group["name"] for group in module.parameter_groups()]
        ['head.decay', 'head.no_decay', 'layer4.decay', 'layer4.no_decay', 'layer3.decay', 'layer3.no_decay']
    """

    def __init__(
        self,
        strategy: StrategyName = "full_finetune",
        weights: str | None = None,
        backbone: str | None = None,
        normalize_features: bool | None = None,
        cache_features: bool = False,
        solve_head: bool = False,
        running_statistics: bool | None = None,
        **kwargs: Any,
    ) -> None:
        backbone = backbone or checkpoint_backbone(weights)  # saved as a hyperparameter
        super().__init__(strategy=strategy, weights=weights, backbone=backbone, **kwargs)
        self._features: dict[str, Tensor] = {}

    @property
    def needs_images(self) -> bool:  # type: ignore[override]
        """Whether a loader has to read images, because their features are not cached."""
        return not (self.hparams["cache_features"] and self._trainer is not None and self.trainer.state.fn == "fit")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier with dropout, after a normalization of the features if configured."""
        head = super().configure_head(num_features)
        normalize, h = self.hparams["normalize_features"], self.hparams
        if normalize is False or (normalize is None and (h["solve_head"] or h["strategy"] != "feature_extraction")):
            return head
        norm = nn.BatchNorm1d(num_features, eps=1e-6, affine=False)
        return nn.Sequential(OrderedDict(norm=norm, classifier=head))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except frozen ones and BatchNorm with fixed statistics."""
        super().train(mode)
        fixed, solved = self.hparams["running_statistics"], self.hparams["solve_head"]
        if self.has_networks and (solved if fixed is None else fixed):
            for norm in batch_norms(self.backbone):
                norm.eval()
        return self

    def on_fit_start(self) -> None:
        """Start the strategy, cache the features and solve the head, as configured."""
        super().on_fit_start()
        h = self.hparams
        if h["cache_features"]:
            check_caching(self.trainer)
            self._features = cache_features(self)
        if h["solve_head"] and self.fine_tuning is not None and not self.fine_tuning.restored:
            check_extraction(self.trainer, "solve_head")
            data = datamodule_of(self.trainer).train_dataset
            features = self._features["train"] if self._features else extract_features(self, data)
            solve_head(self, features, data, self.class_weight)

    def on_fit_end(self) -> None:
        """Free the cached features."""
        self._features = {}

    def outputs(self, batch: Batch, stage: Stage) -> Any:
        """Return the logits (N, K) of a batch, computed from cached features if available."""
        if stage not in self._features:
            return super().outputs(batch, stage)
        return self.head(self._features[stage].index_select(0, batch["index"]))
