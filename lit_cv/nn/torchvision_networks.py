"""torchvision's classification networks without their classifiers, split into features and pooling."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import ConvNeXt
from torchvision.models.maxvit import MaxVit

from lit_cv.nn.backbone import Network
from lit_cv.nn.preprocessing import Preprocessing, shared_values
from lit_cv.nn.sizes import size_error

__all__ = ["build_torchvision", "torchvision_names", "torchvision_preprocessing", "without_classifier"]

_Half = Callable[[nn.Module, Tensor], Tensor]
# Trained on inputs in [-1, 1], to which torchvision's `forward` converts ImageNet-normalized images.
_INCEPTION_NAMES = ("googlenet", "inception_v3")


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classification models."""
    return tuple(models.list_models(module=models))


def build_torchvision(name: str, image_size: tuple[int, int] | None = None) -> Network:
    """Build a torchvision classification network with random weights and without its classifier.

    The last linear layer is removed, with the dropout before it. Norms, pooling and hidden layers before it are kept
    (including the penultimate layers of vgg and alexnet). The keys of the state dict are torchvision's.

    Args:
        name: One of `torchvision_names()`.
        image_size: Height and width in pixels, for vision transformers and MaxViT, which are built for one size.

    Raises:
        ValueError: If the network cannot be built for this size.
    """
    options: dict[str, Any] = {}
    if name in _INCEPTION_NAMES:
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_") and image_size is not None:
        options["image_size"] = _vit_size(name, image_size)
    elif name.startswith("maxvit") and image_size is not None:
        options["input_size"] = image_size
    try:
        body = models.get_model(name, weights=None, **options)
    except ValueError as error:
        if image_size is None:
            raise
        raise size_error(name, image_size, error) from error
    return without_classifier(body)


def torchvision_preprocessing(name: str, member: str | None = None) -> Preprocessing | None:
    """Return the preprocessing of published weights, `None` if a network has none.

    Args:
        name: One of `torchvision_names()`.
        member: Name of the weights; `None` returns the values that all weights of the network share.
    """
    enum = models.get_model_weights(name)
    records = [_preprocessing(name, enum[each]) for each in ([member] if member else enum.__members__)]
    if not records:
        return None
    return shared_values(records, str(enum[member]) if member else enum.__name__)


def _preprocessing(name: str, weights: Any) -> Preprocessing:
    transforms = weights.transforms()
    mean, std = (tuple(map(float, values)) for values in (transforms.mean, transforms.std))
    if name in _INCEPTION_NAMES:
        mean = std = (0.5, 0.5, 0.5)
    side = int(transforms.crop_size[0])
    crop = round(side / transforms.resize_size[0], 4)
    return Preprocessing(mean, std, transforms.interpolation.value, crop, (side, side), str(weights))


def without_classifier(body: nn.Module) -> Network:
    """Remove the classifier of a torchvision network, in place, and split the network into features and pooling."""
    num_features = _remove_classifier(body)
    features, pool = _HALVES[type(body)]
    return Network(body, features, pool, num_features, not isinstance(body, models.VisionTransformer))


def _vit_size(name: str, image_size: tuple[int, int]) -> int:
    patch = int(name.rpartition("_")[2])
    height, width = image_size
    if height != width:
        raise ValueError(f"{name} supports square images only, not {height}x{width} pixels: change image_size.")
    if height % patch:
        raise ValueError(
            f"{name} cuts images into patches of {patch} pixels, but the image size {height} is not a multiple: "
            f"use {max(1, height // patch) * patch} or another multiple of {patch}."
        )
    return height


def _remove_classifier(body: nn.Module) -> int:
    """Remove the last linear layer, in place, and return its number of inputs."""
    if isinstance(body, models.SqueezeNet):
        body.classifier = nn.Identity()  # its classifier is a convolution before the pooling
        return 512
    path, last = [(path, m) for path, m in body.named_modules() if isinstance(m, nn.Linear)][-1]
    holder_name, _, leaf = path.rpartition(".")
    if holder_name:
        kept = list(cast(nn.Sequential, body.get_submodule(holder_name)))[:-1]
        if kept and isinstance(kept[-1], nn.Dropout):
            kept.pop()
        setattr(body, holder_name, nn.Sequential(*kept))
    else:
        setattr(body, leaf, nn.Identity())
    return last.in_features


def _average(body: nn.Module, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def _features(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body).features(x))


def _hidden_layers(body: nn.Module, x: Tensor) -> Tensor:
    m = cast(Any, body)
    return cast(Tensor, m.classifier(m.avgpool(x).flatten(1)))


def _convnext_pool(body: nn.Module, x: Tensor) -> Tensor:
    m = cast(Any, body)
    return cast(Tensor, m.classifier(m.avgpool(x)))


def _densenet_features(body: nn.Module, x: Tensor) -> Tensor:
    return F.relu(cast(Any, body).features(x))


def _in_order(*names: str) -> _Half:
    return _InOrder(names)


class _InOrder:
    """Runs the named layers of a network one after another."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __call__(self, body: nn.Module, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(body, name)(x)
        return x


def _maxvit_features(body: nn.Module, x: Tensor) -> Tensor:
    m = cast(Any, body)
    x = m.stem(x)
    for block in m.blocks:
        x = block(x)
    return x


def _vit_tokens(body: nn.Module, x: Tensor) -> Tensor:
    m = cast(Any, body)
    if x.shape[2] != m.image_size or x.shape[3] != m.image_size:
        raise ValueError(
            f"images of {x.shape[2]}x{x.shape[3]} pixels: this vision transformer was built for "
            f"image_size={m.image_size}. Resize the images, or build it for their size."
        )
    x = m.conv_proj(x).flatten(2).transpose(1, 2)
    x = torch.cat([m.class_token.expand(x.shape[0], -1, -1), x], dim=1)
    return cast(Tensor, m.encoder(x))


def _class_token(body: nn.Module, tokens: Tensor) -> Tensor:
    return tokens[:, 0]


_GOOGLENET = (
    "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 inception4a inception4b inception4c "
    "inception4d inception4e maxpool4 inception5a inception5b"
)
_INCEPTION = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2 Mixed_5b Mixed_5c "
    "Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
)
_HALVES: dict[type[nn.Module], tuple[_Half, _Half]] = {
    models.AlexNet: (_features, _hidden_layers),
    models.VGG: (_features, _hidden_layers),
    models.MobileNetV3: (_features, _hidden_layers),
    models.EfficientNet: (_features, _average),
    models.MobileNetV2: (_features, _average),
    models.SqueezeNet: (_features, _average),
    models.DenseNet: (_densenet_features, _average),
    ConvNeXt: (_features, _convnext_pool),
    models.MNASNet: (_in_order("layers"), _average),
    models.ResNet: (_in_order("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"), _average),
    models.RegNet: (_in_order("stem", "trunk_output"), _average),
    models.ShuffleNetV2: (_in_order("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"), _average),
    models.GoogLeNet: (_in_order(*_GOOGLENET.split()), _average),
    models.Inception3: (_in_order(*_INCEPTION.split()), _average),
    models.SwinTransformer: (_in_order("features", "norm", "permute"), _average),
    MaxVit: (_maxvit_features, _in_order("classifier")),
    models.VisionTransformer: (_vit_tokens, _class_token),
}
