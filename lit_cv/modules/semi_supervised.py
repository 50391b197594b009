"""Semi-supervised learning: a few images with labels, and many without."""

import logging
import math
import time
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn

from lit_cv.contracts import as_data, datamodule_of
from lit_cv.distributed import gather_rows, is_distributed, joined_mean
from lit_cv.errors import TRAINER, OptionError, argument, setting
from lit_cv.ignore_index import unlabeled_rows
from lit_cv.losses import DistributionAlignment, ThresholdName, build_threshold, fairness_loss, pseudo_labels
from lit_cv.losses.confidence_thresholds import FreeThreshold
from lit_cv.losses.pseudo_labels import predicted_classes
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.feature_cache import check_extraction, extract_features
from lit_cv.modules.fine_tune import FineTuneModule
from lit_cv.modules.fine_tuning_options import StrategyName
from lit_cv.modules.propagated_labels import PropagatedLabels
from lit_cv.nn.batch_statistics import batch_norms

__all__ = ["SemiSupervisedModule"]

log = logging.getLogger("lit_cv")

_SHARE_DECAY = 0.99  # of the moving average of predicted classes
_OF_SEVERAL_LABELS = {
    "threshold": "fixed",
    "distribution_alignment": False,
    "targets": "hard",
    "propagation_epochs": None,
}
"""The only values that images with several labels allow."""

_FEWEST_CLASSES = 0.5  # share of the classes that predictions may shrink to without a warning


class SemiSupervisedModule(FineTuneModule):
    """Learns from a few labeled images and from its own confident predictions for many without a label.

    As in FixMatch (Sohn et al. 2020), it predicts the class of a weakly augmented view of an unlabeled image; where
    the probability reaches a threshold, the prediction becomes the label of a strongly augmented view. The loss is the
    cross-entropy of the labeled images plus `unlabeled_weight` times that of the strong views, which is averaged over
    all unlabeled images, those below the threshold counting 0.

    A batch has `image` (N, C, H, W) and `label` (N,) int64, -1 for images without a label, or (N, K) for several labels
    an image; DataModules put `batch_size` labeled and `unlabeled_ratio` times as many unlabeled images in it. The
    callback `WeakStrongAugmentation` replaces `image` by weak views and adds `strong` (M, C, H, W), strong views of
    the M unlabeled images; without it both views are the image itself.

    In a network with BatchNorm all views pass through it together: BatchNorm normalizes labeled, weak and strong views
    by the statistics of all of them, and its running statistics are those. With `running_statistics`, or where layers
    are frozen, it uses its pretrained statistics and leaves them as they are. Pseudo-labels carry no gradient.

    With a few labels no validation set is worth choosing by: there is no `monitor`, and the newest weights are kept,
    which `ema` should average. Validation reports accuracy where labels exist, and at the end of training the log
    compares the last weights with the best validation, which is what the choice has cost.

    Logs `train_unlabeled_loss`, `train_coverage` (share of unlabeled images above the threshold), `train_threshold`
    (its mean over the classes; with `per_class_metrics` also `train_threshold_CLASS`), and in validation
    `val_pseudo_coverage` and `val_pseudo_precision`, the share of predictions above the threshold and how many of those
    are right. A warning says when predictions have collapsed onto less than half of the classes.

    With `propagation_epochs`, pseudo-labels come from the neighbors of an image rather than from its own prediction:
    labels are propagated along the graph of nearest neighbors in the features of all training images, and again after
    so many epochs (Iscen et al. 2019). In the first epoch a propagated label counts by its certainty, then only where
    the network predicts the same class. It needs features that are worth comparing: with `weights` it begins in the
    first epoch, otherwise after `propagation_epochs`, and follows the threshold until then.

    With several labels an image, each class gets a pseudo-label of its own: 1 above `confidence`, 0 below
    `1 - confidence`, none in between.

    Args:
        unlabeled_ratio: Unlabeled images in a batch for each labeled one.
        threshold: `fixed` for `confidence`; `flex` lowers it for classes that are learned less (FlexMatch, Zhang et
            al. 2021); `free` follows the confidence of the network and adds a fairness loss (FreeMatch, Wang et al.
            2023). See `lit_cv.nn.confidence_thresholds`.
        confidence: Probability that a pseudo-label needs, for `fixed` and, at most, for `flex`.
        unlabeled_weight: Weight of the loss of unlabeled images.
        targets: `hard` pseudo-labels, or `soft` ones: the class probabilities, sharpened by `temperature`.
        temperature: Divides the logits of soft pseudo-labels; 1 leaves them unchanged.
        distribution_alignment: Whether predictions are scaled so that their class shares become those of the labels.
        fairness_weight: Weight of the fairness loss of `free`.
        average_decay: Share of the moving averages of `free` and of distribution alignment that stays at each step.
        propagation_epochs: Epochs between propagations of labels, which then replace the threshold; `None` for none.
        strategy: See `SupervisedModule`; `None` trains everything at `lr`.
        weights: See `FineTuneModule`.
        **kwargs: Arguments of `FineTuneModule`.

    Raises:
        ValueError: If a value is out of range, or options contradict each other.

    Example:
        >>> import torch
        >>> module = SemiSupervisedModule(backbone="conv4", num_classes=10, in_channels=1, threshold="free")
        >>> batch = {"image": torch.zeros(8, 1, 28, 28, dtype=torch.uint8), "label": torch.tensor([3] + 7 * [-1])}
        >>> output = module.step(batch, "train")
        >>> [name for name in sorted(output) if name.endswith("loss")]
        ['fairness_loss', 'loss', 'supervised_loss', 'unlabeled_loss']
    """

    monitor = None
    displayed = "val_acc"
    class_share: Tensor

    def __init__(
        self,
        unlabeled_ratio: int = 7,
        threshold: ThresholdName = "fixed",
        confidence: float = 0.95,
        unlabeled_weight: float = 1.0,
        targets: Literal["hard", "soft"] = "hard",
        temperature: float = 0.5,
        distribution_alignment: bool = False,
        fairness_weight: float = 0.001,
        average_decay: float = 0.999,
        propagation_epochs: int | None = None,
        strategy: StrategyName | None = None,
        weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(strategy=strategy, weights=weights, **kwargs)  # type: ignore[arg-type]
        cached, renewed = self.hparams["cache_features"], propagation_epochs is None or propagation_epochs >= 1
        checks = (
            ("cache_features", cached, not cached, "must be false: views of unlabeled images differ in each epoch"),
            ("unlabeled_ratio", unlabeled_ratio, unlabeled_ratio >= 1, "must be at least 1"),
            ("confidence", confidence, 0 < confidence <= 1, "must be a probability in (0, 1]"),
            ("unlabeled_weight", unlabeled_weight, unlabeled_weight >= 0, "must be at least 0"),
            ("temperature", temperature, temperature > 0, "must be positive"),
            ("fairness_weight", fairness_weight, fairness_weight >= 0, "must be at least 0"),
            ("average_decay", average_decay, 0 <= average_decay < 1, "must be in [0, 1)"),
            ("propagation_epochs", propagation_epochs, renewed, "must be at least 1, or null for no propagation"),
        )
        for name, value, valid, allowed in checks:
            if not valid:
                raise OptionError(self, name, value, allowed)
        self.unlabeled_ratio = unlabeled_ratio
        self._best: float | None = None  # of all validations
        self._last: float | None = None
        self._warned = False

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier, and keep to the newest weights."""
        head = super().configure_head(num_features)
        self.monitor = None
        if self.hparams["multi_label"]:
            self.displayed = "val_map"
        return head

    def configure_networks(self) -> None:
        """Build the networks and what follows their predictions."""
        super().configure_networks()
        h, data, count = self.hparams, as_data(datamodule_of(self._trainer)), self.num_classes
        if h["multi_label"]:
            for name, allowed in _OF_SEVERAL_LABELS.items():
                if h[name] != allowed:
                    raise OptionError(
                        self, name, h[name], f"images have several labels, which need {setting(name, allowed, self)}"
                    )
        images = len(data.unlabeled_dataset) if data.unlabeled_dataset is not None else 0
        self.threshold = build_threshold(h["threshold"], count, images, h["confidence"], h["average_decay"])
        self.register_buffer("class_share", torch.full((count,), 1 / count))
        self.alignment = None
        if h["distribution_alignment"]:
            counts = torch.ones(count) if data.class_counts is None else data.class_counts().float()
            self.alignment = DistributionAlignment(counts / counts.sum(), h["average_decay"])
        self.propagated = PropagatedLabels(images, count) if h["propagation_epochs"] else None

    def on_train_epoch_start(self) -> None:
        """Propagate labels if they are due."""
        super().on_train_epoch_start()
        epoch, every = self.current_epoch, self.hparams["propagation_epochs"]
        if self.propagated is None or epoch % every:
            return
        if epoch or self.hparams["weights"] is not None:
            check_extraction(self.trainer, "propagation_epochs")
            started, data = time.monotonic(), datamodule_of(self.trainer).unlabeled_dataset
            self.propagated.update(extract_features(self, data), data.labels, epoch)
            seconds, share = time.monotonic() - started, self.propagated.certainties.mean()
            rank_zero_only(log.info)(f"Labels propagated in {seconds:.1f} s (mean certainty {float(share):.2f}).")

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Learn from a batch of labeled and unlabeled images, or classify one."""
        if stage != "train":
            output = super().step(batch, stage)
            if self.hparams["multi_label"] or output.get("target") is None:
                return output
            quality = self.pseudo_label_quality(output["logits"], output["target"])
            return output | quality | {"counts": output["counts"] | quality["counts"]}
        self.configure_model()
        if "label" not in batch:
            raise ValueError(
                f"{type(self).__name__} learns from batches with `image` and `label` (-1 where unknown), but this one "
                f"has {', '.join(batch)}: use a DataModule with labels."
            )
        weak, label, strong = batch["image"], batch["label"], batch.get("strong")
        unlabeled = unlabeled_rows(label)
        if strong is None:
            self._warn_of_equal_views()
            strong = weak[unlabeled]
        order = unlabeled.byte().argsort(stable=True)  # labeled images first; how many is known without waiting
        first, rest = order[: len(weak) - len(strong)], order[len(weak) - len(strong) :]
        labeled, learned, predicted = self._logits(weak[first], strong, weak[rest])
        output = self.losses(labeled, label[first], stage)
        output["supervised_loss"] = output["loss"].detach()
        output["counts"] |= {"supervised_loss": output["counts"]["loss"]}
        if not len(strong) and not is_distributed():
            return output
        index = batch["index"][rest] if "index" in batch else rest[:0]
        losses, mask = self.unlabeled_losses(predicted.float(), learned.float(), index)
        weights = {"unlabeled_loss": self.hparams["unlabeled_weight"], "fairness_loss": self.hparams["fairness_weight"]}
        for name, loss in losses.items():
            output["loss"] = output["loss"] + weights[name] * loss
            output[name] = loss.detach()
        thresholds = self.threshold()
        means = {"coverage": mask.sum() / max(mask.numel(), 1), "threshold": thresholds.mean()}
        if self.hparams["per_class_metrics"]:
            means |= {f"threshold_{n}": v for n, v in zip(self.classes_task.names, thresholds, strict=True)}
        output |= means
        output["counts"] |= dict.fromkeys((*losses, *means), len(strong))
        return output

    def _logits(self, labeled: Tensor, strong: Tensor, weak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of labeled images and of strong and weak views, the last without a gradient.

        Only BatchNorm makes an image's logits depend on the others: without it weak views pass through the network
        on their own, as recording and backpropagating them would take a third of the step's time for nothing.
        """
        sizes = [len(labeled), len(strong), len(weak)]
        if any(norm.training for norm in batch_norms(self)):
            first, second, last = self(torch.cat([labeled, strong, weak])).split(sizes)
        else:
            first, second = self(torch.cat([labeled, strong])).split(sizes[:2])
            with torch.no_grad():
                last = self(weak)
        return first, second, last.detach()

    def unlabeled_losses(self, predicted: Tensor, learned: Tensor, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of strong views, by name, and the mask of those with a pseudo-label, (M,) or (M, K).

        Args:
            predicted: Logits (M, K) of the weak views, without a gradient.
            learned: Logits (M, K) of the strong views.
            index: Positions (M,) of the images in the dataset.
        """
        h = self.hparams
        if h["multi_label"]:
            probabilities = predicted.sigmoid()
            mask = (probabilities - 0.5).abs() >= h["confidence"] - 0.5
            loss = F.binary_cross_entropy_with_logits(learned, (probabilities > 0.5).float(), reduction="none")
            return {"unlabeled_loss": _joined_mean(loss * mask)}, mask
        probabilities = predicted.softmax(1)
        seen = gather_rows(probabilities)
        if self.alignment is not None:
            self.alignment.update(seen)
            probabilities, seen = self.alignment(probabilities), self.alignment(seen)
        thresholds = self.threshold.observe(seen, gather_rows(index))
        self.class_share.lerp_(predicted_classes(seen).mean(0), 1 - _SHARE_DECAY)
        labels, mask = pseudo_labels(probabilities, thresholds)
        target = labels if h["targets"] == "hard" else _sharpened(probabilities, h["temperature"])
        if self.propagated is not None and self.propagated.epoch >= 0:
            target, mask = self.propagated(index, labels if self.current_epoch else None)
        losses = {"unlabeled_loss": _joined_mean(F.cross_entropy(learned, target, reduction="none") * mask)}
        if isinstance(self.threshold, FreeThreshold) and h["fairness_weight"]:
            rule = self.threshold
            losses["fairness_loss"] = fairness_loss(learned, mask, rule.probabilities, rule.histogram, gather=True)
        return losses, mask

    def pseudo_label_quality(self, logits: Tensor, target: Tensor) -> Output:
        """Return which share of images (N,) would get a pseudo-label, and which share of those would be right."""
        labels, mask = pseudo_labels(logits.float().softmax(1), self.threshold())
        known = mask & ~unlabeled_rows(target)
        right = (known & (labels == target)).sum()
        return {
            "pseudo_coverage": mask.float().mean(),
            "pseudo_precision": right / known.sum().clamp_min(1),
            "counts": {"pseudo_coverage": len(mask), "pseudo_precision": known.sum()},
        }

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the means and metrics, and keep the accuracy of each validation for the comparison at the end."""
        name = self.displayed
        if stage == "val" and name in values and not self.trainer.sanity_checking:
            self._last = float(values[name])
            self._best = max(self._last, self._best or 0.0)
        return super().summarize(stage, values)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch, and warn of predictions that have collapsed."""
        super().on_train_epoch_end()
        remaining = math.exp(float(torch.special.entr(self.class_share).sum()))
        if remaining < _FEWEST_CLASSES * self.num_classes and not self.hparams["multi_label"] and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"Predictions for unlabeled images have collapsed onto about {remaining:.1f} of {self.num_classes} "
                f"classes. Unless the classes are that uneven, raise {argument('confidence', self)}, lower "
                f"{argument('lr', self)}, or set {argument('distribution_alignment', self)}."
            )

    def on_fit_end(self) -> None:
        """Log what keeping the newest weights has cost."""
        super().on_fit_end()
        if self._best is None or self._last is None:
            return
        rank_zero_only(log.info)(
            f"The newest weights are kept, without a choice by validation labels: {self.displayed} {self._last:.4f}; "
            f"the best of all validations was {self._best:.4f}."
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best accuracy so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["semi_supervised"] = {"best": self._best}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the best accuracy so far."""
        super().on_load_checkpoint(checkpoint)
        self._best = checkpoint.get("semi_supervised", {}).get("best")

    def _warn_of_equal_views(self) -> None:
        if not self._warned_of_views:
            self._warned_of_views = True
            rank_zero_warn(
                "Weak and strong views of unlabeled images are the same, so that there is little to learn from them: "
                f"add the callback WeakStrongAugmentation ({argument('callbacks', TRAINER)})."
            )

    _warned_of_views = False


def _joined_mean(losses: Tensor) -> Tensor:
    """Return the mean over the entries of all ranks."""
    count = torch.tensor(losses.numel(), dtype=losses.dtype, device=losses.device)
    return joined_mean(losses.sum(), count, gather=True)[0]


def _sharpened(probabilities: Tensor, temperature: float) -> Tensor:
    """Return probabilities (M, K) of logits divided by a temperature."""
    return (probabilities.clamp_min(1e-12).log() / temperature).softmax(1)
