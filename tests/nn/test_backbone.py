"""Normalization, the two halves of a network and its state dict."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.transforms.functional import normalize

from lit_cv.nn import Backbone, check_backbone_name, create_backbone, list_backbones
from lit_cv.nn.sizes import run_on_meta
from lit_cv.nn.torchvision_networks import without_classifier

_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class _NoMemory(TorchFunctionMode):
    """Put parameters on the meta device, so that even the largest networks need no memory."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.ones, torch.zeros):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalize_uint8_and_float_agree(channels_last):
    backbone = create_backbone("conv4", mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.2])
    images = _images(4, 3, 8, 10)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    scaled = images.double() / 255
    expected = torch.stack(
        [(scaled[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 0.2)])], dim=1
    )
    for given in (images, images.float() / 255):
        out = backbone.normalize(given)
        assert out.dtype == torch.float32
        assert out.is_contiguous(memory_format=torch.channels_last) == channels_last
        torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)


def test_features_have_dtype_of_weights():
    backbone = create_backbone("conv4").to(torch.bfloat16)
    for images in (_images(2, 3, 16, 16), torch.rand(2, 3, 16, 16)):
        assert backbone(images).dtype == torch.bfloat16


def test_autocast_applies_to_network():
    backbone = create_backbone("conv4").eval()
    images = _images(8, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = backbone(images)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), backbone(images), atol=0.02, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool])
def test_other_integer_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="uint8 in"):
        create_backbone("conv4")(torch.zeros(1, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 3)])
def test_wrong_image_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expects \(N, 3, H, W\)"):
        create_backbone("conv4")(torch.zeros(shape))


_QUICK = ("airbench", "resnet", "resnet9", "conv", "vit", "convnext", "efficientnet", "mobilenet", "swin", "lenet")


def _every_backbone():
    """Yield the names of all backbones; all but the first of some families are marked slow."""
    families = set()
    for name in list_backbones():
        family = name.rstrip("0123456789").split("_")[0]
        quick = family in _QUICK and family not in families
        yield pytest.param(name, marks=[] if quick else [pytest.mark.slow])
        families.add(family)


@pytest.mark.parametrize("name", list(_every_backbone()))
def test_every_backbone_returns_pooled_features(name):
    with _NoMemory():
        backbone = create_backbone(name)
    size = 224 if name.startswith(("vit", "maxvit")) else 96
    assert run_on_meta(backbone, (2, 3, size, size)) == (2, backbone.num_features)
    assert backbone.has_feature_map != name.startswith("vit")
    keys = backbone.state_dict().keys()
    assert {"mean", "std"} < keys
    assert all(key in ("mean", "std") or key.startswith("body.") for key in keys)


def _tiny(kind: str) -> nn.Module:
    """Return a network of this kind, as small as its class allows."""
    if kind == "vit":
        return models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
        )
    if kind == "swin":
        return models.SwinTransformer(
            patch_size=[4, 4], embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=[7, 7]
        )
    if kind == "maxvit":
        return models.MaxVit(
            input_size=(56, 56),
            stem_channels=8,
            partition_size=7,
            block_channels=[8, 16],
            block_layers=[1, 1],
            head_dim=8,
            stochastic_depth_prob=0.0,
        )
    if kind == "convnext":
        return models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)])
    if kind == "densenet":
        return models.DenseNet(growth_rate=4, block_config=(1, 2), num_init_features=8)
    options = {"init_weights": False, "aux_logits": False} if kind in ("googlenet", "inception_v3") else {}
    return models.get_model(kind, weights=None, **options)


# Networks of every kind, with a supported image size and the layer whose inputs are the features.
_KINDS = {
    "mobilenet_v3_small": (64, "classifier.3"),
    "efficientnet_b0": (64, "classifier.1"),
    "mobilenet_v2": (64, "classifier.1"),
    "densenet": (64, "classifier"),
    "convnext": (64, "classifier.2"),
    "mnasnet0_5": (64, "classifier.1"),
    "resnet18": (64, "fc"),
    "regnet_y_400mf": (64, "fc"),
    "shufflenet_v2_x0_5": (64, "fc"),
    "googlenet": (64, "fc"),
    "inception_v3": (96, "fc"),
    "swin": (56, "head"),
    "maxvit": (56, "classifier.5"),
    "vit": (64, "heads.head"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS)
def test_features_equal_input_of_torchvision_classifier(kind):
    size, layer = _KINDS[kind]
    torch.manual_seed(0)
    model = _tiny(kind).eval()
    backbone = Backbone(kind, without_classifier(copy.deepcopy(model)), 3, *_IMAGENET).eval()
    seen = []
    model.get_submodule(layer).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = _images(2, 3, size, size)
    with torch.no_grad():
        model(normalize(images / 255, *_IMAGENET))
        scale = seen[0].abs().max()
        torch.testing.assert_close(backbone(images) / scale, seen[0] / scale, atol=1e-4, rtol=0)
    assert backbone.num_features == seen[0].shape[1]


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_hidden_layers_before_classifier_are_kept(name):
    with _NoMemory():
        backbone = create_backbone(name)
    assert backbone.num_features == 4096
    assert isinstance(backbone.body.classifier[-1], nn.ReLU)
    assert sum(isinstance(module, nn.Linear) for module in backbone.body.modules()) == 2


def test_squeezenet_features_equal_input_of_last_convolution():
    backbone = create_backbone("squeezenet1_1").eval()
    images = _images(2, 3, 64, 64)
    expected = backbone.body.features(backbone.normalize(images)).mean((2, 3))
    torch.testing.assert_close(backbone(images), expected)


@pytest.mark.parametrize(("name", "side"), [("resnet18", 2), ("conv4", 4), ("resnet9", 8), ("densenet121", 2)])
def test_mean_of_feature_map_equals_features(name, side):
    backbone = create_backbone(name).eval()
    images = _images(2, 3, 64, 64)
    with torch.no_grad():
        feature_map = backbone.forward_features(images)
        assert feature_map.shape == (2, backbone.num_features, side, side)
        torch.testing.assert_close(feature_map.mean((2, 3)), backbone(images))


def test_spatial_dropout_drops_channels_in_training():
    backbone = create_backbone("conv4", spatial_dropout=0.5).eval()
    images = _images(8, 3, 32, 32)
    kept = backbone(images)
    backbone.spatial_dropout.train()
    dropped = backbone(images)
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2 * kept[~zero])
    feature_map = backbone.spatial_dropout(torch.ones(4, 64, 5, 5))
    assert set(feature_map.mean((2, 3)).unique().tolist()) == {0.0, 2.0}


def test_vision_transformer_has_no_feature_map():
    with _NoMemory(), pytest.raises(ValueError, match="set spatial_dropout to 0"):
        create_backbone("vit_b_32", spatial_dropout=0.1)
    with _NoMemory():
        backbone = create_backbone("vit_b_32").to("meta")
    with pytest.raises(ValueError, match="no feature map"):
        backbone.forward_features(torch.zeros(1, 3, 224, 224, device="meta"))


def test_build_keeps_buffers_and_training_mode():
    backbone = create_backbone("resnet18", image_size=32)
    assert all(module.training for module in backbone.modules())
    for name, buffer in backbone.body.named_buffers():
        assert torch.equal(buffer, torch.ones_like(buffer) if name.endswith("var") else torch.zeros_like(buffer))


def test_copy_and_pickle():
    backbone = create_backbone("resnet9_small", in_channels=1).eval()
    images = _images(2, 1, 8, 8)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(twin(images), backbone(images))


@pytest.mark.parametrize("name", ["conv4", "resnet9", "resnet9_small"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 40, 56)])
def test_compact_networks_accept_small_images(name, shape):
    backbone = create_backbone(name, in_channels=shape[0], image_size=shape[1:])
    out = backbone(_images(2, *shape))
    assert out.shape == (2, backbone.num_features)
    assert out.requires_grad
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("alexnet", 16, "alexnet does not support images of 16x16 pixels"),
        ("inception_v3", (32, 48), "inception_v3 does not support images of 32x48 pixels"),
        ("maxvit_t", 32, "maxvit_t does not support images of 32x32 pixels"),
        ("vit_b_16", 30, "patches of 16 pixels, but the image size 30 is not a multiple"),
        ("vit_b_16", (32, 64), "square images only, not 32x64"),
    ],
)
def test_error_names_unsupported_image_size(name, size, words):
    with _NoMemory(), pytest.raises(ValueError, match=words) as raised:
        create_backbone(name, image_size=size)
    assert "\n" not in str(raised.value)


def test_vit_error_names_image_size():
    with _NoMemory():
        backbone = create_backbone("vit_b_32", image_size=64).to("meta")
    with pytest.raises(ValueError, match=r"96x96 pixels: .* image_size=64"):
        backbone(torch.zeros(1, 3, 96, 96, device="meta"))


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("resnet_9", "resnet9"), ("vitb16", "vit_b_16"), ("Conv4", "conv4")]
)
def test_error_suggests_nearest_backbone(name, near):
    with pytest.raises(ValueError, match=f"backbone='{name}': there is no such backbone: did you mean .*'{near}'"):
        check_backbone_name(name)


def test_error_names_argument():
    with pytest.raises(ValueError, match="in_channels=0"):
        create_backbone("conv4", in_channels=0)
    with pytest.raises(ValueError, match=r"mean=\[0\.5.*: must be a number for the channel, mean and std together"):
        create_backbone("conv4", in_channels=1, mean=[0.5] * 3)
    with pytest.raises(ValueError, match="must be positive"):
        create_backbone("conv4", in_channels=1, std=[0.0])
    with pytest.raises(ValueError, match=r"spatial_dropout=1\.5"):
        create_backbone("conv4", spatial_dropout=1.5)
    with pytest.raises(ValueError, match="stem='tiny'"):
        create_backbone("resnet18", stem="tiny")
