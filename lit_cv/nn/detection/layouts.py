"""How torchvision's published detectors are put together, where they differ from those here."""

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
]
"""Names of torchvision's published detectors."""

_MULTIPLE = 32  # images are padded to sides that it divides
_TAP = -1  # what a map beside those that are found by stride is called


class Layout(NamedTuple):
    """The structure of a published detector.

    Attributes:
        detector: Its kind, one of `DETECTORS`.
        backbone: Name of its backbone.
        sources: The backbone's maps that the pyramid starts from, by stride; -1 stands for `tap`.
        strides: Strides of the pyramid's maps.
        extra: What coarser maps are made of: convolutions of the coarsest source (`source`) or of its map in the
            pyramid (`pyramid`), or every second row and column of that (`subsampled`).
        sides: Square roots of the anchors' areas in pixels, for each map.
        num_convs: Convolutions in each branch of the head, or in the region proposal network.
        normalized: Whether the layers behind the backbone have norms: GroupNorm in the head of RetinaNet, BatchNorm
            in the pyramid and the box head of Faster R-CNN. FCOS always has GroupNorm.
        box_loss: Loss of RetinaNet's boxes.
        frozen_eps: What its frozen BatchNorm adds to variances; `None` for a backbone whose BatchNorm is not frozen.
        proposals: Boxes that the region proposal network hands on in evaluation, from each map and in all.
        proposal_score: Least score of these.
        tap: Layer of the backbone that gives a further map, and its channels.
        channels: Channels of the pyramid's maps.
    """

    detector: Literal["fcos", "retinanet", "faster_rcnn"]
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
    def settled(self) -> dict[str, Any]:
        """Options of a detector that the structure settles, by name."""
        return {
            "detector": self.detector,
            "strides": list(self.strides),
            "channels": self.channels,
            "num_convs": self.num_convs,
        }

    def has_tensors_of(self, other: "Layout") -> bool:
        """Whether networks of this structure take the weights of another one."""
        return self._replace(proposals=0) == other._replace(proposals=0)

    def norm_eps(self, frozen: bool) -> float:
        """Return what BatchNorm of the backbone adds to variances."""
        return self.frozen_eps if frozen and self.frozen_eps is not None else 1e-5

    def levels(self, backbone: Backbone, image_size: tuple[int, int] | None = None) -> dict[int, int]:
        """Have a backbone give the maps that the pyramid starts from, and return the channels of all that it has.

        Raises:
            ValueError: If the backbone lacks one that the pyramid starts from.
        """
        backbone.multiple = _MULTIPLE
        if self.tap is not None:
            backbone.add_level(_TAP, *self.tap, image_size)
        levels = backbone.feature_levels(image_size)
        if missing := [stride for stride in self.sources if stride not in levels]:
            allowed = f"the detector needs feature maps of strides {missing}; give {self.backbone}"
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
}
"""The layouts by torchvision's names; of those for one detector and backbone the most accurate comes first."""


def layout_named(name: str | None) -> Layout | None:
    """Return a layout by its name, `None` for that of this project.

    Raises:
        ValueError: If there is none of this name.
    """
    if name is not None and name not in LAYOUTS:
        raise OptionError(None, "layout", name, f"give one of {', '.join(LAYOUTS)}")
    return None if name is None else LAYOUTS[name]


class PublishedPyramid(nn.Module):
    """The feature pyramid of a published detector, with torchvision's names of its weights.

    Args:
        levels: Channels of the backbone's maps, `Layout.levels`.
        layout: The structure.

    Shapes:
        by stride (N, C_s, h_s, w_s) -> by position (N, channels, h, w), finest first.
    """

    def __init__(self, levels: Mapping[int, int], layout: Layout) -> None:
        super().__init__()
        self.strides = list(layout.strides)
        self.sources = dict(enumerate(layout.sources))
        given = [levels[source] for source in layout.sources]
        start = given[-1] if layout.extra == "source" else layout.channels
        extra = LastLevelMaxPool() if layout.extra == "subsampled" else LastLevelP6P7(start, layout.channels)
        normalized = layout.normalized and layout.detector == "faster_rcnn"
        self.fpn = FeaturePyramidNetwork(given, layout.channels, extra, nn.BatchNorm2d if normalized else None)

    def forward(self, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the pyramid of a backbone's maps; those that it does not need may be missing."""
        outputs = self.fpn({str(i): maps[source] for i, source in self.sources.items()})
        return dict(enumerate(outputs.values()))
