"""Source-free adaptation: a trained classifier learns in a target domain from images without labels alone."""

import logging
import time
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from lit_cv.contracts import as_data, datamodule_of
from lit_cv.errors import OptionError, setting
from lit_cv.ignore_index import UNLABELED
from lit_cv.losses import centroid_labels, information_loss
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.data_classes import checkpoint_classes
from lit_cv.modules.feature_cache import check_extraction, extract_features
from lit_cv.modules.target_domain import TargetDomainModule
from lit_cv.nn.buffers import resize_buffers

__all__ = ["SourceFreeModule"]

log = logging.getLogger("lit_cv")


class SourceFreeModule(TargetDomainModule):
    """Adapts a trained classifier to a target domain, for which it needs neither labels nor images of the source.

    As in SHOT (Liang et al. 2020, "Do We Really Need to Access the Source Data?"), the classifier stays frozen, and the
    backbone learns features of target images that it classifies with confidence and in all classes: the loss is
    `lit_cv.losses.information_loss` of the predictions, plus `pseudo_label_weight` times the cross-entropy with
    pseudo-labels. These are the classes of the nearest centroids in the features of all images, computed at the start
    of each epoch (`lit_cv.losses.centroid_labels`). BatchNorm tracks the statistics of target images.

    `weights` is a checkpoint of any classifier with the same classes, such as `SupervisedModule`. A batch has `image`
    (N, C, H, W); a `label` is hidden before callbacks or the module see it. With the callback `WeakStrongAugmentation`
    the cross-entropy is that of the strong views, `strong`. Data may be any DataModule, also one without classes, or a
    `DomainAdaptationDataModule`, of which only the target is used. Validation is that of `TargetDomainModule`.

    Training logs `train_information_loss` and `train_pseudo_label_loss`.

    Args:
        pseudo_label_weight: Weight of the cross-entropy with pseudo-labels; 0 for the information loss alone.
        diversity_weight: Weight of the diversity in the information loss. Lower it if the target's classes are uneven.
        weights: Checkpoint of the trained classifier.
        **kwargs: Arguments of `TargetDomainModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a value is out of range, or training begins without a trained classifier.

    Example:
        >>> module = SourceFreeModule(backbone="conv4", num_classes=5, in_channels=1, pseudo_label_weight=0.1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    uses_unlabeled: ClassVar[bool] = True
    adapts: ClassVar[bool] = True
    pseudo_labels: Tensor

    def __init__(
        self,
        pseudo_label_weight: float = 0.3,
        diversity_weight: float = 1.0,
        weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(weights=weights, **kwargs)
        for name in ("pseudo_label_weight", "diversity_weight"):
            if not self.hparams[name] >= 0:
                raise OptionError(self, name, self.hparams[name], "must be at least 0")

    def configure_networks(self) -> None:
        """Build the networks, freeze the classifier, and prepare a pseudo-label for each image."""
        data = as_data(datamodule_of(self._trainer))
        if self.hparams["num_classes"] is None and not data.num_classes:
            self.trained_classes |= checkpoint_classes(self.hparams["weights"])
            self.hparams["num_classes"] = len(self.trained_classes.get("class_names", ())) or None
        super().configure_networks()
        self.head.requires_grad_(False)
        images = len(data.unlabeled_dataset) if data.unlabeled_dataset is not None else 0
        self.register_buffer("pseudo_labels", torch.zeros(images, dtype=torch.int64))

    def train(self, mode: bool = True) -> "SourceFreeModule":
        """Set the mode of all networks except the classifier, which stays in eval mode."""
        super().train(mode)
        if self.has_networks and isinstance(self.head, nn.Module):
            self.head.eval()
        return self

    def on_fit_start(self) -> None:
        """Require a trained classifier."""
        super().on_fit_start()
        if not self.starts_trained and self.trainer.ckpt_path is None:
            raise OptionError(
                self,
                "weights",
                self.hparams["weights"],
                "must be a checkpoint of a classifier with the same classes, which source-free adaptation starts from",
            )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Hide the labels of training images."""
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        if self.trainer.training and isinstance(batch.get("image"), Tensor):
            batch = {**batch, "label": torch.full((len(batch["image"]),), UNLABELED)}
        return batch

    def on_train_epoch_start(self) -> None:
        """Compute the pseudo-labels of all images."""
        super().on_train_epoch_start()
        if not self.hparams["pseudo_label_weight"]:
            return
        check_extraction(self.trainer, "pseudo_label_weight")
        started = time.monotonic()
        features = extract_features(self, datamodule_of(self.trainer).unlabeled_dataset)
        before = self.pseudo_labels.clone()
        with torch.no_grad():
            probabilities = self.head(features.float()).softmax(1)
        self.pseudo_labels.copy_(centroid_labels(features, probabilities))
        changed = float((self.pseudo_labels != before).float().mean())
        change = f", {changed:.1%} of them changed" if self.current_epoch else ""
        rank_zero_only(log.info)(f"Pseudo-labels computed in {time.monotonic() - started:.1f} s{change}.")

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Learn from images without labels; in evaluation, classify them."""
        if stage != "train":
            output = self.evaluate(batch, stage)
            output["counts"]["loss"] = output["counts"]["target_loss"]
            return output | {"loss": output["target_loss"]}
        self.configure_model()
        images, weight = batch["image"], self.hparams["pseudo_label_weight"]
        strong: Tensor | None = batch.get("strong") if weight else None
        views = images if strong is None else torch.cat([images, strong])
        logits = self.head(self.backbone(views)).float()
        n = len(images)
        information = information_loss(logits[:n], self.hparams["diversity_weight"], gather=True)
        output = {"loss": information, "information_loss": information.detach()}
        if weight:
            if "index" not in batch:
                raise ValueError(
                    f"{type(self).__name__} needs an `index` (N,) in each batch, the positions of images in the "
                    f"dataset: use a subclass of datamodules.BaseDataModule, or set "
                    f"{setting('pseudo_label_weight', 0, self)}."
                )
            loss = F.cross_entropy(logits[-n:], self.pseudo_labels[batch["index"]])
            output["loss"] = information + weight * loss
            output["pseudo_label_loss"] = loss.detach()
        return output

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.has_networks:
            resize_buffers(self, state_dict, prefix, "pseudo_labels")
        super()._load_from_state_dict(state_dict, prefix, *args)
