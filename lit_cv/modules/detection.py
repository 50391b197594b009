"""Object detection: boxes around the objects in images, and their classes."""

from typing import Any, Literal, cast

from torch import Tensor

from lit_cv.modules.task_module import TaskModule
from lit_cv.nn.detection import Detections
from lit_cv.tasks import DetectionTask

__all__ = ["DetectionModule"]


class DetectionModule(TaskModule):
    """Learns to find objects from images with boxes: FCOS, RetinaNet or Faster R-CNN on any backbone.

    A batch has `image` (N, C, H, W), `boxes`, a list of (n, 4) float, xyxy in pixels of the batch's images, and
    `box_labels`, a list of (n,) int64 from 0; n may be 0. Images of different sizes are padded at the right and at
    the bottom, `size` (N, 2) then holds their heights and widths. Boxes that `iscrowd` marks are not learnt.

    The loss is the sum of the detector's own losses, which are logged apart: `class_loss`, `box_loss`, and
    `centerness_loss` (FCOS, Tian et al. 2019) or `objectness_loss` and `rpn_box_loss` (Faster R-CNN, Ren et al.
    2015); RetinaNet (Lin et al. 2017) has the first two. Validation and test log COCO's `map`, `map50`, `map75`,
    `mar`, and `ap_CLASS` and `ap50_CLASS`; without any object there is no such score, and the four are NaN.

    The feature pyramid takes the backbone's maps of several resolutions; a vision transformer has one, of which the
    others are made. Images may have other sizes in prediction than in training.

    Args:
        box_classes: Names of the classes; `None` takes them from the data.
        detector: `fcos`, `retinanet` or `faster_rcnn`.
        strides: Strides of the pyramid's maps, powers of two in a row. `None` takes 8, 16, ... up to 128 or a
            quarter of the image, and starts at 4 for images up to 128 pixels.
        channels: Channels of the pyramid's maps, a multiple of 32 (256 in the papers).
        num_convs: Convolutions in each branch of the head (4 in the papers).
        score_threshold: Objects of a lower score are not reported.
        iou_threshold: Of two boxes of one class that overlap more than this only the better one is reported.
        max_detections: Objects reported for an image, at most.
        class_weight: Weights of the classes of objects in the class loss of training: `balanced` (inverse to their
            number of training objects, with a mean of 1 over these), a list of a number for each, or `None` for equal
            weights. The background keeps the weight 1.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import torch
        >>> module = DetectionModule(backbone="resnet9_small", box_classes=["cell"], channels=32).eval()
        >>> found = module.detect(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))
        >>> len(found), found[0].boxes.shape[1], found[0]._fields
        (2, 4, ('boxes', 'scores', 'labels'))
    """

    monitor = "val_map50"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        box_classes: list[str] | None = None,
        detector: Literal["fcos", "retinanet", "faster_rcnn"] = "fcos",
        strides: list[int] | None = None,
        channels: int = 128,
        num_convs: int = 2,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        class_weight: Literal["balanced"] | list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def make_task(self) -> DetectionTask:
        """Return the task."""
        limits = self.options("score_threshold", "iou_threshold", "max_detections")
        options = self.options("detector", "strides", "channels", "num_convs", "class_weight")
        return DetectionTask("", classes=self.hparams["box_classes"], **options, **limits)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes.

        Raises:
            ValueError: If neither the arguments nor the data tell.
        """
        return cast(DetectionTask, self.task).names

    def detect(self, images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Return the objects in raw images.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            sizes: Heights and widths (N, 2) of images that are padded.
        """
        output = self(images)  # builds the task
        return cast(DetectionTask, self.task).detect(output, len(images), sizes)
