"""A trained network that teaches others."""

from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError, renamed
from lit_cv.nn.backbone import Backbone
from lit_cv.nn.checkpoint_weights import load_head
from lit_cv.nn.factory import create_backbone
from lit_cv.nn.heads import ClassificationHead
from lit_cv.nn.resizing import resize_images
from lit_cv.trust import is_dotted_name

__all__ = ["Teacher", "build_teacher"]


class Teacher(nn.Module):
    """A network that does not change, called without a gradient on raw images of any size.

    It is always in eval mode, so that its BatchNorm statistics are fixed and it applies no dropout. Its parameters
    require no gradient, so `parameter_groups` skips them.

    Args:
        backbone: The network, which normalizes images by its own mean and standard deviation.
        head: Network on top of it; `None` returns its features.
        size: Height and width in pixels that images are resized to; `None` keeps their size.
        trained: Whether it has trained weights; loading a state dict sets this, too.

    Shapes:
        images (N, C, H, W), uint8 or float in [0, 1] -> (N, F) float.

    Example:
        >>> teacher = Teacher(create_backbone("conv4"), size=(16, 16)).train()
        >>> teacher(torch.zeros(2, 3, 28, 28, dtype=torch.uint8)).shape, teacher.training
        (torch.Size([2, 64]), False)
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module | None = None,
        size: tuple[int, int] | None = None,
        trained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Identity() if head is None else head
        self.size = size
        self.trained = trained
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features or, with a head, its output."""
        return cast(Tensor, self.head(self.backbone(resize_images(images, self.size))))

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.trained = True


def build_teacher(
    name: str,
    weights: str | None,
    in_channels: int,
    size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    stem: Literal["standard", "small"] = "standard",
    num_classes: int | None = None,
) -> Teacher:
    """Build a teacher by the name of its network.

    Args:
        name: As for `create_backbone`.
        weights: Its weights, as for `create_backbone`; `None` if they are loaded later.
        in_channels: Channels of the images.
        size: Height and width in pixels that images are resized to; `None` takes those that the weights were trained
            on, or `image_size` if the weights do not record them.
        image_size: Height and width of the images.
        stem: As for `create_backbone`.
        num_classes: Number of classes of the linear classifier in the weights, for a teacher that returns logits;
            `None` for one that returns features.

    Raises:
        ValueError: If the name is unknown, the weights do not fit, or they have no such classifier. The message names
            arguments with the prefix `teacher`.

    Example:
        >>> build_teacher("conv4", None, in_channels=1, num_classes=5)(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 5])
    """

    def build(size: tuple[int, int] | None) -> Backbone:
        return create_backbone(name, in_channels=in_channels, image_size=size, stem=stem, weights=weights)

    with renamed(backbone="teacher", weights="teacher_weights", image_size="teacher_size", stem="teacher_stem"):
        backbone = build(size)
        size = size or backbone.preprocessing.size
        if size is None and image_size is not None:
            size, backbone = image_size, build(image_size)
        head = None if num_classes is None else ClassificationHead(backbone.num_features, num_classes)
        if head is not None and weights is not None and not load_head(head, weights):
            raise OptionError(
                None, "weights", weights, f"its classifier is not a linear layer from the features to {num_classes} "
                "classes, so its logits cannot be taught",
            )  # fmt: skip
    backbone = backbone.to(memory_format=torch.channels_last)
    return Teacher(backbone, head, size, trained=weights is not None or is_dotted_name(name))
