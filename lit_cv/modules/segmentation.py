"""Semantic segmentation: a class for every pixel."""

from typing import Any, Literal, cast

from lit_cv.modules.task_module import TaskModule
from lit_cv.tasks import SegmentationTask

__all__ = ["SegmentationModule"]


class SegmentationModule(TaskModule):
    """Learns to predict the class of every pixel from images with masks.

    A batch has `image` (N, C, H, W) and `mask` (N, H, W) int64, classes from 0 and 255 for unknown classes, also in the
    padding of images of different sizes. The loss is the cross-entropy plus `dice_weight` times the Dice loss
    (Milletari et al. 2016), also logged separately as `ce_loss` and `dice_loss`. Validation and test log `miou`, the
    mean intersection over union of the classes, `pixel_acc`, and `iou_CLASS`.

    Prediction accepts other image sizes than training.

    Args:
        mask_classes: Names of the classes, usually the background first; `None` takes them from the data.
        head: `fcn` (Long et al. 2015, on a feature pyramid) or `deeplab` (DeepLabV3+, Chen et al. 2018).
        stride: Stride in pixels of the computed logits, which are interpolated to full size: a power of two, `None` for
            4, or for 2 with images up to 128 pixels.
        channels: Channels inside the head (256 in the papers).
        dropout: Probability of dropping a channel before the classifier.
        dice_weight: Weight of the Dice loss; 0 disables it.
        class_weight: Weights of the classes in the cross-entropy of training: `balanced` (inverse to their number of
            training pixels, mean 1), a list with one number per class, or `None` for equal weights.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import torch
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
        class_weight: Literal["balanced"] | list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def make_task(self) -> SegmentationTask:
        """Return the segmentation task built from the hyperparameters."""
        options = self.options("head", "stride", "channels", "dropout", "dice_weight", "class_weight")
        return SegmentationTask("", classes=self.hparams["mask_classes"], **options)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of pixels.

        Raises:
            ValueError: If neither the arguments nor the data define them.
        """
        return cast(SegmentationTask, self.task).names
