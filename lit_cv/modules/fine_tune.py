"""Fine-tuning: a pretrained backbone learns a new task."""

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
    """Takes a pretrained backbone to a new task: a new classifier learns, and as much of the backbone as is wanted.

    Batches, losses and metrics are those of `SupervisedModule`, and so is the `strategy`, which tells what learns, and
    how fast; here it always has one.

    Args:
        strategy: See `SupervisedModule`.
        weights: Pretrained weights: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint.
        backbone: Name of the network; `None` takes that of the checkpoint `weights`, `resnet9` without weights.
        normalize_features: Whether the classifier gets features of mean 0 and variance 1 in each batch, and in
            evaluation by running means, as the linear probes of MAE do (He et al. 2022, appendix A.1): features of
            a frozen backbone differ in scale, which makes the classifier slow to learn. `None`: where all of it is
            frozen, for `feature_extraction`.
        cache_features: For `feature_extraction` without augmentation: run each image through the backbone once,
            and train the classifier on the features kept in memory.
        solve_head: Whether training starts from the classifier that is best on the features of the pretrained
            backbone: an L2-regularized logistic regression, its strength chosen by cross-validation on the training
            images, see `lit_cv.optim.fit_logistic_regression`. With `feature_extraction` that is the result, and
            `lr` is without effect; with the others, the head is not random while the backbone adapts to it (Kumar
            et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
        running_statistics: Whether BatchNorm of the backbone normalizes by its pretrained statistics in training, too,
            and leaves them as they are, while its weights learn. `None`: where the head is solved, which is on features
            that are normalized so; those of a batch's own statistics are others, and worse from few images.
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
        backbone = backbone or checkpoint_backbone(weights)  # the name is what the hyperparameters hold
        super().__init__(strategy=strategy, weights=weights, backbone=backbone, **kwargs)
        self._features: dict[str, Tensor] = {}

    @property
    def needs_images(self) -> bool:  # type: ignore[override]
        """Whether a loader has to read images, or their features are kept in memory."""
        return not (self.hparams["cache_features"] and self._trainer is not None and self.trainer.state.fn == "fit")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier behind dropout, and behind a normalization of the features if that is wanted."""
        head = super().configure_head(num_features)
        wanted, h = self.hparams["normalize_features"], self.hparams
        if wanted is False or (wanted is None and (h["solve_head"] or h["strategy"] != "feature_extraction")):
            return head
        norm = nn.BatchNorm1d(num_features, eps=1e-6, affine=False)
        return nn.Sequential(OrderedDict(norm=norm, classifier=head))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but what keeps its statistics, or is frozen."""
        super().train(mode)
        kept, solved = self.hparams["running_statistics"], self.hparams["solve_head"]
        if self.has_networks and (solved if kept is None else kept):
            for norm in batch_norms(self.backbone):
                norm.eval()
        return self

    def on_fit_start(self) -> None:
        """Begin what the strategy does; compute the features that are kept, and solve the head."""
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
        """Return the logits (N, K) of a batch, from the kept features where there are some."""
        if stage not in self._features:
            return super().outputs(batch, stage)
        return self.head(self._features[stage].index_select(0, batch["index"]))
