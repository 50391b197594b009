"""timm's networks as backbones."""

import sys

import pytest
import torch

from lit_cv.nn import check_backbone_name, create_backbone


def test_error_names_extra_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'pip install "lit_cv\[timm\]"'):
        create_backbone("timm/resnet18")


@pytest.mark.parametrize(
    ("name", "size", "has_map"),
    [("resnet10t", 64, True), ("mobilenetv3_small_050", 64, True), ("vit_tiny_patch16_224", 96, False)],
)
def test_features_equal_timm(name, size, has_map):
    timm = pytest.importorskip("timm")
    backbone = create_backbone(f"timm/{name}", in_channels=1, image_size=size).eval()
    assert backbone.has_feature_map == has_map
    options = {} if has_map else {"img_size": size}
    model = timm.create_model(name, num_classes=0, in_chans=1, **options).eval()
    model.load_state_dict(backbone.body.state_dict())
    images = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        features = backbone(images)
        torch.testing.assert_close(features, model((images / 255 - 0.5) / 0.25), atol=1e-4, rtol=1e-4)
        assert features.shape == (2, backbone.num_features)
        if has_map:
            assert backbone.forward_features(images).ndim == 4


def test_channels_last_layouts_have_no_feature_map():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="no feature map"):
        create_backbone("timm/swin_tiny_patch4_window7_224", spatial_dropout=0.1)


def test_timm_names_and_options_are_checked():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm has no model 'resnet18z': did you mean 'resnet18'"):
        check_backbone_name("timm/resnet18z")
    check_backbone_name("timm/resnet18.a1_in1k")
    with pytest.raises(ValueError, match="no stem for small images"):
        create_backbone("timm/resnet10t", stem="small")


def test_pretrained_weights_bring_their_normalization(monkeypatch):
    timm = pytest.importorskip("timm")
    create, asked = timm.create_model, []

    def without_download(name, pretrained, **options):
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    name = "timm/vit_tiny_patch16_224.augreg_in21k"
    backbone = create_backbone(name, weights="DEFAULT", data_statistics=([0.0] * 3, [1.0] * 3))
    assert asked == [True]
    assert backbone.mean.flatten().tolist() == [0.5] * 3


def test_unavailable_weights_raise_one_line(monkeypatch):
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm has no weights 'a1_in2k' of resnet18: did you mean 'a1_in1k'.*It has"):
        check_backbone_name("timm/resnet18.a1_in2k")

    def offline(name, **options):
        raise FileNotFoundError("no connection\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        OSError, match=r"^weights='DEFAULT': timm's weights of test_vit could not be downloaded \(no conn"
    ):
        create_backbone("timm/test_vit", weights="DEFAULT")

    def without(name, **options):
        raise RuntimeError("No pretrained weights exist for test_vit. Use `pretrained=False` for random init.")

    monkeypatch.setattr(timm, "create_model", without)
    with pytest.raises(ValueError, match="weights='DEFAULT': timm has no weights of test_vit; give the path"):
        create_backbone("timm/test_vit", weights="DEFAULT")
