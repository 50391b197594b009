"""A backbone of any architecture: raw images in, features out."""

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
    """A network without its classifier, and functions that run its two halves.

    Attributes:
        body: The module that holds every parameter.
        features: Maps the body and normalized images to the last feature map or tokens.
        pool: Maps the body and the output of `features` to pooled features of shape (N, num_features).
        num_features: Size of the pooled features.
        has_feature_map: Whether `features` returns a map (N, C, h, w), from which channels can be dropped.
        preprocessing: The preprocessing that the network itself declares, if any.
    """

    body: nn.Module
    features: Callable[[nn.Module, Tensor], Tensor]
    pool: Callable[[nn.Module, Tensor], Tensor]
    num_features: int
    has_feature_map: bool = True
    preprocessing: Preprocessing | None = None


class Backbone(nn.Module):
    """A network from raw images to pooled features. Usually built by `create_backbone`.

    Normalization is part of the model: `mean` and `std` are buffers, saved with the weights, so a model loaded from a
    checkpoint takes raw images. The keys of the state dict are `mean`, `std` and `body.*`.

    Args:
        name: Name of the network.
        network: The network without its classifier.
        in_channels: Channels of the images.
        mean: Mean of each channel of the training images, scaled to [0, 1].
        std: Standard deviation of each channel, in the same unit.
        spatial_dropout: Probability of dropping a whole channel of the last feature map.
        trained_on: Preprocessing of the images that the weights were trained on, if known.

    Attributes:
        multiple: Before feature maps are computed, normalized images are zero-padded to multiples of this number.

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
                f"mean has {len(mean)} and std {len(std)} values, but the images have {in_channels} channels: "
                "give one of each per channel."
            )
        if min(std) <= 0:
            raise OptionError(self, "std", list(std), "every standard deviation must be positive")
        if spatial_dropout and not network.has_feature_map:
            raise ValueError(f"{name} has no feature map to drop channels from: set spatial_dropout to 0.")
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
        """The preprocessing of its images: the current `mean` and `std`; all else is that of the weights, if known."""
        mean, std = (tuple(values.flatten().tolist()) for values in (self.mean, self.std))
        return replace(self.trained_on, mean=mean, std=std)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale uint8 images to [0, 1], subtract the mean and divide by the standard deviation.

        Args:
            images: (N, in_channels, H, W), uint8 or float in [0, 1]; the range of floats is not checked.

        Returns:
            Images of the same shape and memory format, in the dtype of the buffers.

        Raises:
            ValueError: If the shape is wrong.
            TypeError: If the images are integers other than uint8.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: {self.name} expects (N, {self.in_channels}, H, W)."
            )
        if images.dtype == torch.uint8:
            scale = 1 / (255 * self.std)
        elif images.is_floating_point():
            scale = 1 / self.std
        else:
            raise TypeError(f"images of {images.dtype}: give uint8 in [0, 255] or float in [0, 1].")
        # Cast to the dtype of the weights: float32 images may be passed to a bfloat16 model. If the cast made a new
        # tensor, work in place: on a CPU this is 3.5 times faster than addcmul, which is slow when it broadcasts.
        converted = images.to(self.mean.dtype)
        scaled = converted * scale if converted is images else converted.mul_(scale)
        return scaled.add_(-self.mean / self.std)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, (N, C, h, w), before any dropout and pooling.

        Raises:
            ValueError: If the network has no feature map, such as a vision transformer.
        """
        if not self.has_feature_map:
            raise ValueError(f"{self.name} has no feature map: call the backbone itself for pooled features.")
        return self._features(self.body, self.normalize(images))

    def feature_levels(self, image_size: tuple[int, int] | None = None) -> dict[int, int]:
        """Return the number of channels of each feature map of the network by stride, finest first.

        The stride, a power of two, is the number of image pixels per step in the map.

        Args:
            image_size: Height and width of a supported image; needed for networks built for a single size.

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
        """Add the output of a layer, a map (N, channels, h, w), to the feature maps.

        Args:
            key: Negative number that identifies the map in place of a stride.
            path: Path of the layer in the body.
            channels: Channels of its output.
            image_size: As for `feature_levels`.
        """
        self.feature_levels(image_size)
        self._levels = {**(self._levels or {}), key: Level(path, channels)}

    def forward_maps(self, images: Tensor, strides: Collection[int] | None = None) -> dict[int, Tensor]:
        """Return the deepest feature map of each resolution, for dense tasks. Layers behind the last map are skipped.

        Args:
            images: Raw images (N, in_channels, H, W), uint8 or float in [0, 1]. For vision transformers they are
                padded to a multiple of the patch size.
            strides: Strides of the maps, among those of `feature_levels`; all by default.

        Returns:
            Maps by stride s, each (N, channels, about H / s, about W / s).
        """
        return self._run(images, strides, complete=False)[1]

    def forward_both(self, images: Tensor, strides: Collection[int] | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the pooled features of `forward` and the maps of `forward_maps`, computed in one pass."""
        features, maps = self._run(images, strides, complete=True)
        return self._pool(self.body, self.spatial_dropout(cast(Tensor, features))), maps

    def freeze_unused(self, strides: Collection[int], image_size: tuple[int, int] | None = None) -> None:
        """Freeze the parameters that no map of these strides depends on.

        A loss on the maps alone gives them no gradient, and DistributedDataParallel treats that as an error.

        Args:
            strides: Strides of the maps that are used.
            image_size: Height and width of a supported image; needed for networks built for a single size.
        """
        training = self.training
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.eval()  # no running statistics change, and no random numbers are drawn
        for size in probe_sizes(image_size):
            with torch.enable_grad(), suppress(RuntimeError, ValueError, AssertionError):
                image = torch.zeros(1, self.in_channels, *size, device=self.mean.device)
                maps = self.forward_maps(image, strides).values()
                total = torch.stack([feature_map.sum() for feature_map in maps]).sum()
                gradients = torch.autograd.grad(total, trainable, allow_unused=True)
                for parameter, gradient in zip(trainable, gradients, strict=True):
                    parameter.requires_grad_(gradient is not None)
                break
        self.train(training)

    def _run(
        self, images: Tensor, strides: Collection[int] | None, complete: bool
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        self.feature_levels((images.shape[2], images.shape[3]))
        levels = {s: level for s, level in (self._levels or {}).items() if strides is None or s in strides}
        size = (images.shape[2], images.shape[3])
        if patches := [level.patch for level in levels.values() if level.kind == "tokens"]:
            images = pad_to(images, patches[0])
        padded = pad_to(self.normalize(images), self.multiple)
        return collect(self.body, self._features, padded, levels, complete, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features (N, num_features) of raw images."""
        return self.forward_normalized(self.normalize(images))

    def forward_normalized(self, x: Tensor) -> Tensor:
        """Return pooled features (N, num_features) of images from `normalize`."""
        return self._pool(self.body, self.spatial_dropout(self._features(self.body, x)))

    def extra_repr(self) -> str:
        """Return the name of the network and its sizes."""
        return f"{self.name!r}, in_channels={self.in_channels}, num_features={self.num_features}"
