"""Preprocessing of weights: sources of the values, their precedence and the log."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from lit_cv import FineTuneModule, SupervisedModule
from lit_cv.nn import Backbone, Preprocessing, create_backbone
from lit_cv.nn.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from lit_cv.nn.timm_networks import timm_preprocessing
from lit_cv.nn.torchvision_networks import torchvision_names, torchvision_preprocessing

timm = pytest.importorskip("timm")

HALF = [0.5, 0.5, 0.5]
CLIP = [0.48145466, 0.4578275, 0.40821073]
SMALL = "timm/test_vit"


def statistics(backbone: Backbone) -> tuple[list[float], list[float]]:
    return backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()


def saved(name: str, path: Path, **metadata: str) -> str:
    state = timm.create_model(name.removeprefix("timm/")).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("tf_efficientnet_lite0", HALF),
        ("vit_tiny_patch16_224.augreg_in21k", HALF),
        ("resnet18.tv_in1k", list(IMAGENET_MEAN)),
        ("vit_base_patch32_clip_224.laion2b", CLIP),
        ("vit_base_patch16_siglip_224", HALF),
        ("mobilenetv3_small_050", list(IMAGENET_MEAN)),
    ],
)
def test_timm_configurations(name: str, mean: list[float]) -> None:
    found = timm_preprocessing(name, of_file=False)
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.source.startswith(f"timm's {name}")


def test_timm_weights_file_uses_timm_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "timm/tf_mobilenetv3_small_minimal_100"
    path = saved(name, tmp_path / "y.pth")
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone(name, weights=path, image_size=64, data_statistics=([0.1] * 3, [0.2] * 3))
    config = timm.get_pretrained_cfg("tf_mobilenetv3_small_minimal_100")
    assert statistics(backbone) == (pytest.approx(list(config.mean)), pytest.approx(list(config.std)))
    assert "(timm's tf_mobilenetv3_small_minimal_100.in1k), trained on 224 x 224 pixels, bilinear" in caplog.text
    assert "the images of this run have 64 x 64 pixels" in caplog.text


@pytest.mark.slow
def test_differing_tags_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved("efficientnet_b0", tmp_path / "x.pth")
    backbone = create_backbone("timm/efficientnet_b0", weights=path)
    assert statistics(backbone)[0] == pytest.approx(list(IMAGENET_MEAN))
    warning = caplog.records[0].getMessage()
    assert (
        "using those of timm's efficientnet_b0.ra_in1k. Weights with other values: efficientnet_b0.ra4_e3600" in warning
    )
    caplog.clear()
    tagged = create_backbone("timm/efficientnet_b0.ra4_e3600_r224_in1k", weights=path)
    assert statistics(tagged)[0] == HALF
    given = create_backbone("timm/efficientnet_b0", weights=path, mean=[0.1, 0.2, 0.3], std=HALF)
    assert statistics(given)[0] == pytest.approx([0.1, 0.2, 0.3])
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


TIMM_JSON = {
    "architecture": "test_vit",
    "pretrained_cfg": {
        "mean": CLIP, "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "crop_pct": 0.9, "input_size": [3, 160, 160],
    },
}  # fmt: skip
TRANSFORMERS_JSON = {
    "image_mean": HALF, "image_std": HALF, "resample": 3, "size": {"height": 160, "width": 160}, "do_normalize": True,
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_json_next_to_weights_is_used(tmp_path: Path, suffix: str) -> None:
    path = saved(SMALL, tmp_path / f"model{suffix}")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(TRANSFORMERS_JSON))
    found = create_backbone(SMALL, weights=path).preprocessing
    assert (found.mean, found.interpolation, found.size) == (tuple(HALF), "bicubic", (160, 160))
    assert found.source == str(tmp_path / "preprocessor_config.json")
    (tmp_path / "config.json").write_text(json.dumps(TIMM_JSON))
    found = create_backbone(SMALL, weights=path).preprocessing
    assert found.mean == pytest.approx(CLIP)
    assert (found.crop, found.size, found.source) == (0.9, (160, 160), str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')  # transformers' config.json has no preprocessing
    assert create_backbone(SMALL, weights=path).preprocessing.mean == tuple(HALF)


@pytest.mark.parametrize(
    ("changes", "mean", "std", "size"),
    [
        ({}, 0.5, 0.5, (160, 160)),
        ({"size": 96}, 0.5, 0.5, (96, 96)),
        ({"size": {"shortest_edge": 128}}, 0.5, 0.5, (128, 128)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
         0.5, 0.5, (224, 224)),
        ({"do_normalize": False}, 0.0, 1.0, (160, 160)),
        ({"rescale_factor": 1 / 127.5}, 0.25, 0.25, (160, 160)),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, 0.5, 0.2, (160, 160)),
    ],
)  # fmt: skip
def test_transformers_configurations(
    tmp_path: Path, changes: dict[str, Any], mean: float, std: float, size: tuple[int, int]
) -> None:
    path = saved(SMALL, tmp_path / "model.pth")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(TRANSFORMERS_JSON | changes))
    backbone = create_backbone(SMALL, weights=path)
    assert statistics(backbone) == (pytest.approx([mean] * 3), pytest.approx([std] * 3))
    assert backbone.preprocessing.size == size


def test_safetensors_metadata_precede_json(tmp_path: Path) -> None:
    path = saved(SMALL, tmp_path / "x.safetensors", preprocessing=json.dumps({"mean": CLIP, "std": HALF, "crop": 1.0}))
    (tmp_path / "config.json").write_text(json.dumps(TIMM_JSON))
    found = create_backbone(SMALL, weights=path).preprocessing
    assert found.mean == pytest.approx(CLIP)
    assert (found.crop, found.std) == (1.0, tuple(HALF))


def test_gray_images_use_mean_of_channels(tmp_path: Path) -> None:
    path = saved(SMALL, tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(json.dumps(TIMM_JSON))
    gray = create_backbone(SMALL, weights=path, in_channels=1)
    assert statistics(gray) == (pytest.approx([sum(CLIP) / 3]), pytest.approx([0.3]))


@pytest.mark.parametrize(("name", "mean"), [("googlenet", HALF), ("resnet18", list(IMAGENET_MEAN))])
def test_torchvision_layout(tmp_path: Path, name: str, mean: list[float]) -> None:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    torch.save(models.get_model(name, **options).state_dict(), tmp_path / "x.pth")
    backbone = create_backbone(name, weights=str(tmp_path / "x.pth"), data_statistics=([0.1] * 3, [0.2] * 3))
    assert statistics(backbone)[0] == pytest.approx(mean)


@pytest.mark.slow
def test_torchvision_weights() -> None:
    for name in torchvision_names():
        for weights in models.get_model_weights(name):
            found, theirs = torchvision_preprocessing(name, weights.name), weights.transforms()
            assert found is not None
            assert found.mean == (tuple(HALF) if name in ("googlenet", "inception_v3") else tuple(theirs.mean))
            assert (found.size, found.interpolation) == (tuple(theirs.crop_size * 2), theirs.interpolation.value)
            assert found.crop == pytest.approx(theirs.crop_size[0] / theirs.resize_size[0], abs=1e-3)


def test_data_statistics_are_used_only_without_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    with caplog.at_level(logging.INFO, "lit_cv"):
        for name in ("conv4", "resnet18", SMALL):
            assert statistics(create_backbone(name, data_statistics=data)) == tuple(pytest.approx(v) for v in data)
    assert not caplog.text
    state = {key.removeprefix("body."): value for key, value in create_backbone("conv4").state_dict().items()}
    torch.save({key: state[key] for key in state if key not in ("mean", "std")}, tmp_path / "x.pth")
    bare = create_backbone("conv4", weights=str(tmp_path / "x.pth"), data_statistics=data)
    assert statistics(bare) == tuple(pytest.approx(values) for values in data)
    assert statistics(create_backbone("conv4", weights=str(tmp_path / "x.pth")))[0] == pytest.approx(IMAGENET_MEAN)


def test_vit_warns_if_file_has_no_preprocessing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vit = timm.models.VisionTransformer(img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4)
    torch.save(vit.state_dict(), tmp_path / "x.pth")
    backbone = create_backbone("vit_micro", weights=str(tmp_path / "x.pth"))
    assert statistics(backbone) == (pytest.approx(IMAGENET_MEAN), pytest.approx(IMAGENET_STD))
    assert "x.pth does not record how its images were normalized: using ImageNet's" in caplog.records[0].getMessage()


def test_checkpoint_keeps_preprocessing(tmp_path: Path) -> None:
    path = saved(SMALL, tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(json.dumps(TIMM_JSON))
    options: dict[str, Any] = {"backbone": SMALL, "image_size": 160, "num_classes": 2}
    module = FineTuneModule(weights=path, **options)
    module.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["lit_cv"]["preprocessing"] == {
        "mean": pytest.approx(CLIP), "std": pytest.approx([0.2, 0.3, 0.4]), "size": [160, 160], "crop": 0.9,
        "interpolation": "bicubic", "source": str(tmp_path / "config.json"),
    }  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(checkpoint, folder / "x.ckpt")
    found = create_backbone(SMALL, image_size=160, weights=str(folder / "x.ckpt")).preprocessing
    assert found.mean == pytest.approx(CLIP)
    assert (found.crop, found.size, found.source) == (0.9, (160, 160), str(folder / "x.ckpt"))
    again: dict[str, Any] = {}
    resumed = FineTuneModule(**options)
    resumed.on_load_checkpoint(torch.load(folder / "x.ckpt", weights_only=True))
    resumed.configure_model()
    resumed.on_save_checkpoint(again)
    assert again["lit_cv"]["preprocessing"]["crop"] == 0.9
    assert again["lit_cv"]["preprocessing"]["source"] == str(tmp_path / "config.json")


def test_arguments_override_checkpoint() -> None:
    options: dict[str, Any] = {"backbone": "conv4", "in_channels": 1, "image_size": 8, "num_classes": 2}
    before, after = SupervisedModule(**options), SupervisedModule(**options, mean=[0.1], std=[0.2])
    for module in (before, after):
        module.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": before.state_dict(), "hyper_parameters": dict(before.hparams)}
    before.on_save_checkpoint(checkpoint)
    after.on_load_checkpoint(checkpoint)
    after.load_state_dict(checkpoint["state_dict"])
    assert statistics(after.backbone) == ([pytest.approx(0.1)], [pytest.approx(0.2)])
    before.on_load_checkpoint(checkpoint)
    before.load_state_dict(checkpoint["state_dict"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": HALF}, r"std=None: must be a number for each of the 3 channels, mean and std together"),
        ({"mean": [0.5], "std": HALF}, r"mean=\[0\.5\]: must be a number for each"),
        ({"mean": HALF, "std": [0.5, 0.0, 0.5]}, "every standard deviation must be positive"),
        ({"mean": [float("nan")] * 3, "std": HALF}, "must be a number for each"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_backbone("conv4", **options)


def test_user_defined_network_declares_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shifted.py").write_text(
        "from torch import nn\n\n\nclass Shifted(nn.Conv2d):\n    num_features, mean, std = 4, [0.5] * 3, [0.1] * 3\n\n"
        "    def __init__(self):\n        super().__init__(3, 4, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = create_backbone("shifted.Shifted", data_statistics=([0.2] * 3, [0.2] * 3))
    assert statistics(backbone) == (HALF, pytest.approx([0.1] * 3))
    torch.save(nn.Conv2d(3, 4, 1).state_dict(), tmp_path / "x.pth")
    assert statistics(create_backbone("shifted.Shifted", weights=str(tmp_path / "x.pth")))[0] == HALF


def test_plain_round_trip() -> None:
    record = Preprocessing((0.5,), (0.25,), "bicubic", 0.9, (224, 192), "somewhere")
    assert Preprocessing.from_plain(json.loads(json.dumps(record.plain()))) == record
    assert Preprocessing.from_plain({}) == Preprocessing()
