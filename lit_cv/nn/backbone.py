"""The network that turns raw images into features, whatever its architecture."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.nn.feature_maps import Level, collect, find_levels, pad_to, probe_sizes
from lit_cv.nn.heads import SpatialDropout
from lit_cv.nn.preprocessing import Preprocessing

__all__ = ["Backbone", "Network"]


class Network(NamedTuple):
    """A network without its classifier, and how to run its two halves.

    Attributes:
        body: Holds every parameter.
        features: Maps the body and normalised images to its last feature map or tokens.
        pool: Maps the body and what `features` gave to pooled features of shape (N, num_features).
        num_features: Size of the pooled features.
        has_feature_map: Whether `features` gives a map of shape (N, C, h, w), on which channels can be dropped.
        preprocessing: How its images are to be prepared, where the network itself says so.
    """

    body: nn.Module
    features: Callable[[nn.Module, Tensor], Tensor]
    pool: Callable[[nn.Module, Tensor], Tensor]
    num_features: int
    has_feature_map: bool = True
    preprocessing: Preprocessing | None = None


class Backbone(nn.Module):
    """Maps raw images to pooled features. Usually built by `create_backbone`.

    The normalisation is part of the model: `mean` and `std` are buffers, saved with the weights, so that a
    checkpoint takes the images as they are read. The keys of the state dict are `mean`, `std` and `body.*`.

    Args:
        name: Name of the network.
        network: The network without its classifier.
        in_channels: Channels of the images.
        mean: Mean of each channel of the training images, scaled to [0, 1].
        std: Standard deviation of each channel, in the same unit.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        trained_on: How the images of its weights were prepared, where that is known.

    Attributes:
        multiple: For feature maps, images are padded with zeros to sides that this number divides, once normalized.

    Shapes:
        images (N, in_channels, H, W), uint8 or float in [0, 1] -> features (N, num_features), float.

    Raises:
        ValueError: If `spatial_dropout` is set for a network without a feature map, or a value is out of range.

    Example:
        >>> import torch
        >>> from lit_cv.nn import create_backbone
        >>> backbone = create_backbone("conv4", in_channels=1)
        >>> backbone(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 64])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        network: Network,
        in_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        spatial_dropout: float = 0.0,
        trained_on: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != in_channels or len(std) != in_channels:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values for images of {in_channels} channels: "
                "give one of each per channel."
            )
        if min(std) <= 0:
            raise OptionError(self, "std", list(std), "every standard deviation must be positive")
        if spatial_dropout and not network.has_feature_map:
            raise ValueError(f"{name} has no feature map whose channels could be dropped: set spatial_dropout to 0.")
        self.name = name
        self.body = network.body
        self.num_features = network.num_features
        self.in_channels = in_channels
        self.has_feature_map = network.has_feature_map
        self.trained_on = trained_on or Preprocessing()
        self.spatial_dropout = SpatialDropout(spatial_dropout)
        self._features = network.features
        self._pool = network.pool
        self.multiple = 1
        self._levels: dict[int, Level] | None = None
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1))

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared: `mean` and `std` as they are now, the rest as for its weights where it is known."""
        mean, std = (tuple(values.flatten().tolist()) for values in (self.mean, self.std))
        return replace(self.trained_on, mean=mean, std=std)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale uint8 images to [0, 1], subtract the mean and divide by the standard deviation.

        Args:
            images: (N, in_channels, H, W), uint8 or float in [0, 1]; the range of floats is not checked.

        Returns:
            Images of the same shape and memory format, in the dtype of the buffers.

        Raises:
            ValueError: If the shape does not fit.
            TypeError: If the images are integers of another type than uint8.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images of shape {tuple(images.shape)}: {self.name} takes (N, {self.in_channels}, H, W).")
        if images.dtype == torch.uint8:
            scale = 1 / (255 * self.std)
        elif images.is_floating_point():
            scale = 1 / self.std
        else:
            raise TypeError(f"images of {images.dtype}: give uint8 in [0, 255] or float in [0, 1].")
        # In the dtype of the weights, for a float32 image may meet a model in bfloat16. In place where the cast has
        # made a new tensor: 3.5 times faster on a CPU than addcmul, which is slow when it broadcasts.
        converted = images.to(self.mean.dtype)
        scaled = converted * scale if converted is images else converted.mul_(scale)
        return scaled.add_(-self.mean / self.std)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, (N, C, h, w), before any dropout and pooling.

        Raises:
            ValueError: If the network has none, such as a vision transformer.
        """
        if not self.has_feature_map:
            raise ValueError(f"{self.name} has no feature map: call it for pooled features.")
        return self._features(self.body, self.normalize(images))

    def feature_levels(self, image_size: tuple[int, int] | None = None) -> dict[int, int]:
        """Return the channels of the feature maps that the network has, by their stride, finest first.

        The stride, a power of two, is the number of pixels of the image that one step in the map is.

        Args:
            image_size: Height and width of an image that it takes, needed by networks built for one size.

        Raises:
            ValueError: If no feature maps are found.

        Example:
            >>> from lit_cv.nn import create_backbone
            >>> create_backbone("resnet18").feature_levels()
            {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
            >>> create_backbone("vit_tiny_p16", image_size=224).feature_levels()
            {16: 192}
        """
        if self._levels is None:
            self._levels = find_levels(self.body, self._features, image_size)
        return {stride: level.channels for stride, level in self._levels.items()}

    def add_level(self, key: int, path: str, channels: int, image_size: tuple[int, int] | None = None) -> None:
        """Have the feature maps include the output of a further layer, a map (N, channels, h, w).

        Args:
            key: What the map is called in place of a stride, a negative number.
            path: The layer.
            channels: Channels of its output.
            image_size: As for `feature_levels`.
        """
        self.feature_levels(image_size)
        self._levels = {**(self._levels or {}), key: Level(path, channels)}

    def forward_maps(self, images: Tensor, strides: Collection[int] | None = None) -> dict[int, Tensor]:
        """Return the deepest feature map of each resolution, for dense tasks; layers that none needs are not run.

        Args:
            images: Raw images (N, in_channels, H, W), uint8 or float in [0, 1]. For vision transformers they are
                padded to a multiple of the patch.
            strides: Which maps, out of `feature_levels`; all by default.

        Returns:
            By its stride s each map, (N, channels, about H / s, about W / s).
        """
        return self._run(images, strides, whole=False)[1]

    def forward_both(self, images: Tensor, strides: Collection[int] | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the pooled features that calling the backbone gives, and those of `forward_maps`, from one pass."""
        features, maps = self._run(images, strides, whole=True)
        return self._pool(self.body, self.spatial_dropout(cast(Tensor, features))), maps

    def freeze_unused(self, strides: Collection[int], image_size: tuple[int, int] | None = None) -> None:
        """Freeze the parameters that no map of these strides depends on.

        A loss on the maps alone gives them no gradient, which training on several devices takes for a mistake.

        Args:
            strides: Strides of the maps that are used.
            image_size: Height and width of an image that it takes, needed by networks built for one size.
        """
        training = self.training
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.eval()  # no statistics change, and nothing is drawn
        for size in probe_sizes(image_size):
            with torch.enable_grad(), suppress(RuntimeError, ValueError, AssertionError):
                image = torch.zeros(1, self.in_channels, *size, device=self.mean.device)
                total = torch.stack([own.sum() for own in self.forward_maps(image, strides).values()]).sum()
                gradients = torch.autograd.grad(total, learning, allow_unused=True)
                for parameter, gradient in zip(learning, gradients, strict=True):
                    parameter.requires_grad_(gradient is not None)
                break
        self.train(training)

    def _run(
        self, images: Tensor, strides: Collection[int] | None, whole: bool
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        self.feature_levels((images.shape[2], images.shape[3]))
        levels = {s: level for s, level in (self._levels or {}).items() if strides is None or s in strides}
        size = (images.shape[2], images.shape[3])
        if patches := [level.patch for level in levels.values() if level.kind == "tokens"]:
            images = pad_to(images, patches[0])
        padded = pad_to(self.normalize(images), self.multiple)
        return collect(self.body, self._features, padded, levels, whole, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features (N, num_features) of raw images."""
        return self.forward_normalized(self.normalize(images))

    def forward_normalized(self, x: Tensor) -> Tensor:
        """Return pooled features (N, num_features) of what `normalize` gave."""
        return self._pool(self.body, self.spatial_dropout(self._features(self.body, x)))

    def extra_repr(self) -> str:
        """Name the network and its sizes."""
        return f"{self.name!r}, in_channels={self.in_channels}, num_features={self.num_features}"
