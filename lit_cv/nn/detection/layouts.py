"""The structures of torchvision's published detectors, as far as they differ from lit_cv's."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from lit_cv.errors import OptionError
from lit_cv.nn.backbone import Backbone

__all__ = ["LAYOUTS", "Layout", "LayoutName", "PublishedPyramid", "layout_named"]

LayoutName = Literal[
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
]
"""Names of torchvision's published detectors."""

_MULTIPLE = 32  # images are padded to a multiple of this side
_TAP = -1  # key of an additional map, in place of its stride


class Layout(NamedTuple):
    """The structure of a published detector.

    Attributes:
        detector: Kind of detector, one of `DETECTORS`.
        backbone: Name of the backbone.
        sources: Strides of the backbone's maps that the pyramid is computed from; -1 stands for `tap`.
        strides: Strides of the pyramid's maps.
        extra: Source of the coarser maps: convolutions of the coarsest backbone map (`source`) or of the coarsest
            pyramid map (`pyramid`), or every second row and column of the latter (`subsampled`).
        sides: Square roots of the anchors' areas in pixels, for each map.
        num_convs: Convolutions in each branch of the head, or in the region proposal network.
        normalized: Whether the layers behind the backbone have norms: GroupNorm in the head of RetinaNet, BatchNorm
            in the pyramid and the heads of Faster R-CNN and Mask R-CNN. FCOS always has GroupNorm.
        box_loss: Box loss of RetinaNet.
        frozen_eps: Epsilon of the backbone's frozen BatchNorm; `None` if its BatchNorm is not frozen.
        proposals: Number of proposals of the region proposal network in evaluation, per map and in total.
        proposal_score: Minimum score of the proposals.
        tap: Path and channels of a backbone layer that returns an additional map.
        channels: Channels of the pyramid's maps.
    """

    detector: Literal["fcos", "retinanet", "faster_rcnn", "mask_rcnn"]
    backbone: str
    sources: tuple[int, ...]
    strides: tuple[int, ...]
    extra: Literal["source", "pyramid", "subsampled"]
    sides: tuple[tuple[int, ...], ...]
    num_convs: int
    normalized: bool = False
    box_loss: Literal["l1", "giou"] = "l1"
    frozen_eps: float | None = None
    proposals: int = 1000
    proposal_score: float = 0.0
    tap: tuple[str, int] | None = None
    channels: int = 256

    @property
    def two_stage(self) -> bool:
        """Whether a second network classifies proposals, with an output for the background."""
        return self.detector in ("faster_rcnn", "mask_rcnn")

    @property
    def settled(self) -> dict[str, Any]:
        """Options of a detector that the structure determines, by name."""
        return {
            "detector": self.detector,
            "strides": list(self.strides),
            "channels": self.channels,
            "num_convs": self.num_convs,
        }

    def has_tensors_of(self, other: "Layout") -> bool:
        """Return whether the weights of another structure fit networks of this one."""
        return self._replace(proposals=0) == other._replace(proposals=0)

    def norm_eps(self, frozen: bool) -> float:
        """Return the epsilon of the backbone's BatchNorm."""
        return self.frozen_eps if frozen and self.frozen_eps is not None else 1e-5

    def levels(self, backbone: Backbone, image_size: tuple[int, int] | None = None) -> dict[int, int]:
        """Prepare a backbone for this pyramid and return the channels of its maps by stride.

        Raises:
            ValueError: If the backbone lacks a map that the pyramid needs.
        """
        backbone.multiple = _MULTIPLE
        if self.tap is not None:
            backbone.add_level(_TAP, *self.tap, image_size)
        levels = backbone.feature_levels(image_size)
        if missing := [stride for stride in self.sources if stride not in levels]:
            allowed = f"the detector needs feature maps of strides {missing}; use {self.backbone}"
            raise OptionError(None, "backbone", backbone.name, allowed)
        return levels


_OCTAVES = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
_SINGLE = ((32,), (64,), (128,), (256,), (512,))
_ALL = ((32, 64, 128, 256, 512),) * 3
_RETINANET = Layout(
    "retinanet", "resnet50", (8, 16, 32), (8, 16, 32, 64, 128), "pyramid", _OCTAVES, num_convs=4, frozen_eps=0.0
)
_FASTER_RCNN = Layout(
    "faster_rcnn", "resnet50", (4, 8, 16, 32), (4, 8, 16, 32, 64), "subsampled", _SINGLE, num_convs=1, frozen_eps=0.0
)
_MOBILE = Layout(
    "faster_rcnn",
    "mobilenet_v3_large",
    (_TAP, 32),
    (32, 32, 64),
    "subsampled",
    _ALL,
    num_convs=1,
    frozen_eps=1e-5,
    proposal_score=0.05,
    tap=("features.13", 160),
)

LAYOUTS: dict[str, Layout] = {
    "fcos_resnet50_fpn": _RETINANET._replace(detector="fcos", sides=(), frozen_eps=1e-5),
    "retinanet_resnet50_fpn_v2": _RETINANET._replace(extra="source", normalized=True, box_loss="giou", frozen_eps=None),
    "retinanet_resnet50_fpn": _RETINANET,
    "fasterrcnn_resnet50_fpn_v2": _FASTER_RCNN._replace(num_convs=2, normalized=True, frozen_eps=None),
    "fasterrcnn_resnet50_fpn": _FASTER_RCNN,
    "fasterrcnn_mobilenet_v3_large_fpn": _MOBILE,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _MOBILE._replace(proposals=150),
    "maskrcnn_resnet50_fpn_v2": _FASTER_RCNN._replace(
        detector="mask_rcnn", num_convs=2, normalized=True, frozen_eps=None
    ),
    "maskrcnn_resnet50_fpn": _FASTER_RCNN._replace(detector="mask_rcnn"),
}
"""The layouts by torchvision's names; for each detector and backbone, the most accurate one comes first."""


def layout_named(name: str | None) -> Layout | None:
    """Return a layout by name, `None` for `None` (lit_cv's structure).

    Raises:
        ValueError: If the name is unknown.
    """
    if name is not None and name not in LAYOUTS:
        raise OptionError(None, "layout", name, f"must be one of {', '.join(LAYOUTS)}")
    return None if name is None else LAYOUTS[name]


class PublishedPyramid(nn.Module):
    """The feature pyramid of a published detector, with torchvision's weight names.

    Args:
        levels: Channels of the backbone's maps, from `Layout.levels`.
        layout: Structure of the detector.

    Shapes:
        by stride (N, C_s, h_s, w_s) -> by position (N, channels, h, w), finest first.
    """

    def __init__(self, levels: Mapping[int, int], layout: Layout) -> None:
        super().__init__()
        self.strides = list(layout.strides)
        self.sources = dict(enumerate(layout.sources))
        source_channels = [levels[source] for source in layout.sources]
        start = source_channels[-1] if layout.extra == "source" else layout.channels
        extra = LastLevelMaxPool() if layout.extra == "subsampled" else LastLevelP6P7(start, layout.channels)
        normalized = layout.normalized and layout.two_stage
        norm = nn.BatchNorm2d if normalized else None
        self.fpn = FeaturePyramidNetwork(source_channels, layout.channels, extra, norm)

    def forward(self, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the pyramid of a backbone's maps; maps that it does not use may be missing."""
        outputs = self.fpn({str(i): maps[source] for i, source in self.sources.items()})
        return dict(enumerate(outputs.values()))
