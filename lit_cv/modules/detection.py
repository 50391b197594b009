"""Object detection: boxes of the objects in images, and their classes."""

import logging
from typing import Any, Literal, cast

from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.modules.task_module import TaskModule
from lit_cv.nn import Backbone, Weights
from lit_cv.nn.detection import (
    LAYOUTS,
    Detections,
    Detector,
    DetectorWeights,
    LayoutName,
    layout_named,
    load_detector,
    prepare_norms,
    read_detector,
)
from lit_cv.signatures import parameters
from lit_cv.tasks import DetectionTask

__all__ = ["DetectionModule"]

log = logging.getLogger("lit_cv")


class DetectionModule(TaskModule):
    """Learns to detect objects from images with boxes: FCOS, RetinaNet, Faster R-CNN or Mask R-CNN on any backbone.

    A batch has `image` (N, C, H, W), `boxes`, a list of (n, 4) float, xyxy in pixels of the batch's images, and
    `box_labels`, a list of (n,) int64 from 0; n may be 0. Images of different sizes are padded on the right and at
    the bottom; `size` (N, 2) then holds their heights and widths. Boxes marked by `iscrowd` are excluded from training.

    The loss is the sum of the detector's losses, which are also logged separately: `class_loss`, `box_loss`, and
    `centerness_loss` (FCOS, Tian et al. 2019) or `objectness_loss` and `rpn_box_loss` (Faster R-CNN, Ren et al.
    2015); RetinaNet (Lin et al. 2017) has the first two. Validation and test log COCO's `map`, `map50`, `map75`,
    `mar`, and `ap_CLASS` and `ap50_CLASS`. Without any object the scores per class are missing, the four others NaN.

    Mask R-CNN (He et al. 2017) also predicts the pixels of each object. Its batches need `masks`, a list of (n, H, W)
    bool; an object with an empty mask trains only its box. It has the losses of Faster R-CNN and `mask_loss`, and
    also logs the scores of its masks: `mask_map`, `mask_map50`, `mask_ap_CLASS` and so on.

    The feature pyramid uses the backbone's feature maps of several resolutions. A vision transformer has one map, from
    which the others are computed. Prediction accepts other image sizes than training.

    Args:
        box_classes: Names of the classes; `None` takes them from the data.
        detector: `fcos`, `retinanet`, `faster_rcnn` or `mask_rcnn`, which also predicts masks.
        strides: Strides of the pyramid's maps, consecutive powers of two. `None` means 8, 16, ... up to 128 or a
            quarter of the image, starting at 4 for images up to 128 pixels.
        channels: Channels of the pyramid's maps, a multiple of 32 (256 in the papers).
        num_convs: Convolutions in each branch of the head (4 in the papers).
        score_threshold: Minimum score of a reported object.
        iou_threshold: Maximum overlap (IoU) of reported boxes of one class; of two, the one with the lower score is
            dropped.
        max_detections: Maximum number of objects reported per image.
        class_weight: Weights of the object classes in the class loss of training: `balanced` (inverse to their
            number of training objects, with a mean of 1 over these), a list with one number per class, or `None` for
            equal weights. The background keeps the weight 1.
        keep_classes: Whether classes that also occur in the detector's weights start from their pretrained outputs.
            Otherwise the classifier starts from random weights.
        layout: Structure of the network: `None` for that of this project; the others are those published by
            torchvision, which determine `backbone`, `detector`, `strides`, `channels` and `num_convs`. Detector weights
            set it.
        frozen_norm: Whether BatchNorm of the backbone is frozen, both weights and statistics. `None` follows the
            training of the detector's weights; without such weights BatchNorm is trained.
        other_classes: Number of outputs of Faster R-CNN and Mask R-CNN for classes that count as background.
            `keep_classes` sets it to the number of pretrained classes that do not occur in the data.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import torch
        >>> module = DetectionModule(backbone="resnet9_small", box_classes=["cell"], channels=32).eval()
        >>> detections = module.detect(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))
        >>> len(detections), detections[0].boxes.shape[1], detections[0]._fields
        (2, 4, ('boxes', 'scores', 'labels', 'masks'))
    """

    monitor = "val_map50"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        box_classes: list[str] | None = None,
        detector: Literal["fcos", "retinanet", "faster_rcnn", "mask_rcnn"] = "fcos",
        strides: list[int] | None = None,
        channels: int = 128,
        num_convs: int = 2,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        class_weight: Literal["balanced"] | list[float] | None = None,
        keep_classes: bool = False,
        layout: LayoutName | None = None,
        frozen_norm: bool | None = None,
        other_classes: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._published: DetectorWeights | None = None

    def configure_networks(self) -> None:
        """Build the networks, with the structure of a detector's weights if given."""
        h = self.hparams
        if h["weights"] is not None:
            self._published = read_detector(h["weights"], h["detector"], h["backbone"])
            if self._published is not None:
                self._follow(self._published)
            elif h["keep_classes"]:
                raise OptionError(self, "keep_classes", True, "needs the weights of one of torchvision's detectors")
        if (layout := layout_named(h["layout"])) is not None:
            h["backbone"] = layout.backbone
        super().configure_networks()
        self._published = None  # its tensors have been copied

    def build_backbone(self, weights: str | Weights | None) -> Backbone:
        """Return a backbone built from the hyperparameters, with initial weights, possibly from a detector."""
        h, published = self.hparams, self._published
        if published is None and isinstance(weights, str):
            published = read_detector(weights, h["detector"], h["backbone"])
        backbone = super().build_backbone(weights if published is None else published.of_backbone())
        layout = layout_named(h["layout"])
        if layout is not None or h["frozen_norm"]:
            frozen = bool(h["frozen_norm"])
            prepare_norms(backbone.body, frozen, None if layout is None else layout.norm_eps(frozen))
        return backbone

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the detector, with published weights if given."""
        h, published = self.hparams, self._published
        if published is not None:
            if h["box_classes"] is None and published.classes:
                names = [name for name in published.classes if name]
                h["box_classes"], h["keep_classes"] = names, True
                self.trained_classes["box_classes"] = names
            kept = h["keep_classes"] and h["box_classes"] and published.classes
            if kept and published.structure.two_stage:
                h["other_classes"] = len(published.others(h["box_classes"]))
        head = super().configure_head(num_features)
        if published is not None:
            task = cast(DetectionTask, self._tasks[""])
            load_detector(cast(Detector, head), published, task.names, h["keep_classes"])
        return head

    def _follow(self, published: DetectorWeights) -> None:
        """Set the structure that a detector's weights need, and log which options it replaces."""
        h, layout = self.hparams, published.structure
        if h["layout"] is None:
            h["layout"] = published.layout
        elif not LAYOUTS[h["layout"]].has_tensors_of(layout):
            raise OptionError(self, "layout", h["layout"], f"must be {published.layout} for {published.source}")
        if h["frozen_norm"] is None:
            h["frozen_norm"] = published.frozen
        defaults = {name: parameter.default for name, parameter in parameters(type(self)).items()}
        settled = {"backbone": layout.backbone, **layout.settled}
        changed = [f"{name}={h[name]}" for name, value in settled.items() if h[name] not in (value, defaults[name])]
        replaced = f", replacing {', '.join(changed)}" if changed else ""
        log.info("%s: using the structure of torchvision's %s%s.", published.source, h["layout"], replaced)

    def make_task(self) -> DetectionTask:
        """Return the detection task built from the hyperparameters."""
        limits = self.options("score_threshold", "iou_threshold", "max_detections")
        names = ("detector", "strides", "channels", "num_convs", "class_weight", "layout", "other_classes")
        options = self.options(*names)
        return DetectionTask("", classes=self.hparams["box_classes"], **options, **limits)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes.

        Raises:
            ValueError: If neither the arguments nor the data define them.
        """
        return cast(DetectionTask, self.task).names

    def detect(self, images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Return the objects in raw images.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            sizes: Heights and widths (N, 2) of the images without padding.
        """
        output = self(images)  # builds the task
        return cast(DetectionTask, self.task).detect(output, len(images), sizes)
