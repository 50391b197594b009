"""timm's networks with weights from a file, compared with timm's transform and model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_cv.nn import create_backbone

timm = pytest.importorskip("timm")

QUICK = ("test_vit", "test_efficientnet_gn", "mobilevit_xxs.cvnets_in1k", "lcnet_050")
LONGER = (
    "convnext_atto",
    "deit_tiny_patch16_224",
    "dpn68b.mx_in1k",
    "dpn68b.ra_in1k",
    "efficientnet_b0.ra4_e3600_r224_in1k",
    "efficientnet_b0.ra_in1k",
    "efficientvit_b0",
    "eva02_tiny_patch14_224",
    "inception_next_atto",
    "mobilenetv4_conv_small_050",
    "mobilevitv2_050",
    "test_convnext",
    "test_nfnet",
    "test_resnet",
    "tf_efficientnet_lite0",
    "tf_mobilenetv3_small_minimal_100",
    "vit_tiny_patch16_224.augreg_in21k",
    "vit_xsmall_patch16_clip_224",
)


def photograph() -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (300, 400), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((smooth.permute(1, 2, 0) * 255).byte().numpy())


@torch.no_grad()
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)])
def test_outputs_equal_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    prepared = transform(photograph())
    model.reset_classifier(0)
    expected = model(prepared[None])

    backbone = create_backbone(f"timm/{name}", weights=str(tmp_path / "x.pth")).eval()
    cropped = photograph()
    for operation in transform.transforms[:-2]:  # all but the conversion to a tensor and the normalization
        cropped = operation(cropped)
    image = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)
    scale = expected.abs().max()
    torch.testing.assert_close(backbone(image[None]) / scale, expected / scale, atol=1e-4, rtol=0)
    found = backbone.preprocessing
    assert (found.mean, found.std) == (pytest.approx(config["mean"]), pytest.approx(config["std"]))


@pytest.mark.slow
def test_configurations_differ() -> None:
    values = {tuple(timm.get_pretrained_cfg(name).mean) for name in (*QUICK, *LONGER)}
    assert len(values) >= 5
