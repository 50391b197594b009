"""Semantic segmentation: the class of every pixel."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.losses import dice_loss, pixel_cross_entropy
from lit_cv.metrics import SegmentationIoU
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.modules.data_classes import ClassLists, class_lists
from lit_cv.nn.segmentation import SegmentationHead, build_segmenter, default_stride

__all__ = ["SegmentationModule"]


class SegmentationModule(BaseModule):
    """Learns to tell the class of every pixel, from images with masks.

    A batch has `image` (N, C, H, W) and `mask` (N, H, W) int64, classes from 0 and 255 where the class is unknown,
    as in the padding of images of different sizes. The loss is the cross-entropy plus `dice_weight` times the Dice
    loss (Milletari et al. 2016), logged apart as `ce_loss` and `dice_loss`; validation and test log `miou`, the mean
    intersection over union of the classes, `pixel_acc`, and `iou_CLASS`.

    Images may have other sizes in prediction than in training.

    Args:
        mask_classes: Names of the classes, usually the background first; `None` takes them from the data.
        head: `fcn` (Long et al. 2015, on a feature pyramid) or `deeplab` (DeepLabV3+, Chen et al. 2018).
        stride: The logits are computed for squares of so many pixels and interpolated in between: a power of two,
            `None` for 4, or 2 for images up to 128 pixels.
        channels: Channels inside the head (256 in the papers).
        dropout: Probability of dropping a channel before the classifier.
        dice_weight: Weight of the Dice loss; 0 leaves it out.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> module = SegmentationModule(backbone="resnet9_small", mask_classes=["ground", "cell"], channels=32)
        >>> module(torch.zeros(2, 3, 60, 64, dtype=torch.uint8)).shape
        torch.Size([2, 2, 60, 64])
    """

    monitor = "val_miou"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        mask_classes: list[str] | None = None,
        head: Literal["fcn", "deeplab"] = "fcn",
        stride: int | None = None,
        channels: int = 128,
        dropout: float = 0.1,
        dice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dice_weight < 0:
            raise ValueError(f"dice_weight={dice_weight}: give 0 or more.")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of pixels.

        Raises:
            ValueError: If neither the arguments nor the data tell.
        """
        names = self.hparams["mask_classes"]
        if not names:
            raise ValueError(
                "the classes of the pixels are unknown: give mask_classes (--model.mask_classes), or train on data "
                "with masks (AnnotatedImagesDataModule, or ShapesDataModule with --data.targets mask)."
            )
        return list(names)

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes of pixels."""
        return class_lists(datamodule, "mask_classes")

    def compiled_networks(self) -> list[nn.Module]:
        """Return none: feature maps are taken from within the backbone."""
        return []

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the head on the backbone's feature maps."""
        h = self.hparams
        size = (h["image_size"],) * 2 if isinstance(h["image_size"], int) else h["image_size"]
        if h["stride"] is None:
            h["stride"] = default_stride(size)
        head = build_segmenter(
            h["head"],
            self.backbone.feature_levels(size),
            len(self.class_names),
            h["stride"],
            h["channels"],
            h["dropout"],
        )
        self.backbone.freeze_unused(head.strides, size)
        return head.to(memory_format=torch.channels_last)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the intersection over union."""
        return {"iou": SegmentationIoU(self.class_names)}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K, H, W) of the pixels of raw images, (N, C, H, W) uint8 or float in [0, 1]."""
        self.configure_model()
        head = cast(SegmentationHead, self.head)
        maps = self.backbone.forward_maps(images, head.strides)
        return head.upsample(head(maps), (images.shape[2], images.shape[3]))

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Classify the pixels of a batch and compare with the mask."""
        if "mask" not in batch:
            raise ValueError(
                f"segmentation learns from batches with a `mask`, but this one has {', '.join(batch)}: take data with "
                "masks (--data AnnotatedImagesDataModule, or --data.targets mask of ShapesDataModule)."
            )
        target: Tensor = batch["mask"].long()
        logits = self(batch["image"])
        gather = stage == "train"
        ce_loss = pixel_cross_entropy(logits, target, gather=gather)
        dice = dice_loss(logits, target, gather=gather)
        output: Output = {
            "loss": ce_loss + self.hparams["dice_weight"] * dice,
            "ce_loss": ce_loss.detach(),
            "dice_loss": dice.detach(),
        }
        if stage != "train":
            output |= {"masks": logits.argmax(1), "target": target}
        return output

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Feed one batch to the metrics."""
        metrics.update(output["masks"], output["target"])

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `masks` (N, H, W), the mean probability of their classes as `confidence` (N,), and `index`."""
        images: Tensor = batch["image"]
        highest, masks = self(images).softmax(1).max(1)
        valid = torch.ones_like(masks, dtype=torch.bool)
        if "size" in batch:
            height, width = batch["size"].to(masks.device).T[..., None, None]
            y = torch.arange(images.shape[2], device=masks.device)[:, None]
            valid = (y < height) & (torch.arange(images.shape[3], device=masks.device) < width)
        confidence = (highest * valid).sum((1, 2)) / valid.sum((1, 2))
        return {"masks": masks, "confidence": confidence, **{k: batch[k] for k in ("index",) if k in batch}}
