"""Weights of vision transformers from and to timm, torchvision and the MAE authors' code."""

import logging

import pytest
import torch
from torch import nn
from torchvision import models

from lit_cv import FineTuneModule
from lit_cv.nn import create_backbone
from lit_cv.nn.patches import patch_grid
from lit_cv.nn.positions import resize_positions
from lit_cv.nn.vit_layouts import export_vit

timm = pytest.importorskip("timm")
SIZES = {"patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}  # as in vit_micro


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def randomize(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def timm_vit(**options):
    vit = timm.models.VisionTransformer(**{"img_size": 32, "num_classes": 0, "global_pool": "token"} | SIZES | options)
    return randomize(vit)


def torchvision_vit(image_size=32):
    vit = models.VisionTransformer(image_size, 4, 6, 4, 128, 512)
    vit.heads = nn.Identity()
    return randomize(vit)


def saved(state, tmp_path, name="weights.pth", **around):
    path = tmp_path / name
    torch.save({"model": state, **around} if around else state, path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize(("name", "token"), [("vit_micro", "token"), ("vit_micro_p4_gap", "")])
def test_timm_weights_give_timm_tokens(name, token, tmp_path, caplog):
    peer = timm_vit(class_token=bool(token), global_pool=token or "avg", fc_norm=False)
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone(name, image_size=32, weights=saved(peer.state_dict(), tmp_path)).eval()
    assert "missing (random): none; unexpected: none" in caplog.text
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(backbone.body.forward_features(x), peer.forward_features(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_exported_weights_in_timm(pool):
    backbone = create_backbone("vit_micro_p4_cls" if pool == "token" else "vit_micro_p4", image_size=32)
    randomize(backbone.body)
    peer = timm_vit(global_pool=pool, fc_norm=False)
    peer.load_state_dict(export_vit(backbone.body, "timm"))
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(peer((x - backbone.mean) / backbone.std), backbone.eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_sizes_equal_timm():
    for ours, theirs in (("tiny", "tiny"), ("small", "small"), ("base", "base"), ("large", "large"), ("huge", "huge")):
        patch = 14 if ours == "huge" else 16
        with torch.device("meta"):
            own = create_backbone(f"vit_{ours}_p{patch}", image_size=224)
            peer = timm.create_model(f"vit_{theirs}_patch{patch}_224", num_classes=0, global_pool="token")
        shapes = {key: value.shape for key, value in export_vit(own.body, "timm").items()}
        assert shapes == {key: value.shape for key, value in peer.state_dict().items()}
        assert [b.attn.heads for b in own.body.blocks] == [b.attn.num_heads for b in peer.blocks]


@torch.no_grad()
def test_torchvision_weights_give_torchvision_features(tmp_path, caplog):
    peer = torchvision_vit()
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("vit_micro_cls", weights=saved(peer.state_dict(), tmp_path)).eval()
    assert "missing (random): none; unexpected: none" in caplog.text
    x = images(2, 3, 32, 32)  # the image size of the weights
    torch.testing.assert_close(backbone(x), peer((x - backbone.mean) / backbone.std), atol=1e-4, rtol=1e-4)
    back = export_vit(backbone.body, "torchvision")
    assert back.keys() == peer.state_dict().keys()
    for key, value in peer.state_dict().items():
        assert torch.equal(back[key], value), key


def mae_file(tmp_path, with_decoder, size=32):
    """Write a file like the MAE authors' code; return its path and state dict."""
    state = dict(timm_vit(img_size=size).state_dict())
    if with_decoder:
        decoder = timm_vit(img_size=size, embed_dim=64, depth=2).state_dict()
        state |= {f"decoder_{key}": value for key, value in decoder.items() if key.startswith(("blocks.", "norm."))}
        state["decoder_pos_embed"] = decoder["pos_embed"]
        state["mask_token"] = torch.randn(1, 1, 64)
        state["decoder_embed.weight"], state["decoder_embed.bias"] = torch.randn(64, 128), torch.randn(64)
        state["decoder_pred.weight"], state["decoder_pred.bias"] = torch.randn(48, 64), torch.randn(48)
    return saved(state, tmp_path, "mae.pth", epoch=799), state


@pytest.mark.parametrize("with_decoder", [False, True])
def test_mae_authors_file(tmp_path, caplog, with_decoder):
    path, state = mae_file(tmp_path, with_decoder)
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("vit_micro", weights=path)
    for key, value in export_vit(backbone.body, "timm").items():
        assert torch.equal(value, state[key]), key
    left = "decoder_" if with_decoder else "none"
    assert "missing (random): none" in caplog.text
    assert left in caplog.text.split("unexpected: ")[1]


@pytest.mark.parametrize("size", [(64, 64), (24, 48)])
def test_other_image_size_from_square_grid(tmp_path, size):
    path, state = mae_file(tmp_path, False)
    backbone = create_backbone("vit_micro", image_size=size, weights=path)  # the patch size of the weights
    assert backbone.body.patch_size == 4
    expected = resize_positions(state["pos_embed"], (8, 8), patch_grid(size, 4))
    assert torch.equal(backbone.body.pos_embed, expected)


def test_mae_authors_file_fine_tunes_at_other_image_size(tmp_path):
    path, state = mae_file(tmp_path, True)
    options = {"strategy": "discriminative_lr", "backbone_lr": 1e-3, "layer_decay": 0.5}
    module = FineTuneModule(backbone="vit_micro", weights=path, image_size=48, num_classes=3, **options)
    assert module(images(2, 3, 48, 48)).shape == (2, 3)
    assert torch.equal(module.backbone.body.pos_embed, resize_positions(state["pos_embed"], (8, 8), (12, 12)))
    assert torch.equal(module.backbone.body.blocks[5].mlp.fc2.weight, state["blocks.5.mlp.fc2.weight"])
    rates = {group["layer"]: group["lr"] for group in module.parameter_groups()}
    assert rates["blocks.5"] == 0.5 * 1e-3
    assert rates["stem"] == pytest.approx(0.5**7 * 1e-3)


def test_other_image_size_from_rectangular_grid(tmp_path):
    before = create_backbone("vit_micro_p4", image_size=(16, 48))
    randomize(before.body)
    path = saved(before.state_dict(), tmp_path)
    same = create_backbone("vit_micro", weights=path)
    assert same.body.grid == (4, 12)
    assert torch.equal(same.body.pos_embed, before.body.pos_embed)
    other = create_backbone("vit_micro", image_size=32, weights=path)
    assert torch.equal(other.body.pos_embed, resize_positions(before.body.pos_embed, (4, 12), (8, 8)))
    assert other.body.grid_size.tolist() == [8, 8]


def test_with_and_without_a_class_token(tmp_path, caplog):
    path, state = mae_file(tmp_path, False)
    without = create_backbone("vit_micro_gap", image_size=32, weights=path)
    assert torch.equal(without.body.pos_embed, state["pos_embed"][:, 1:])
    with_one = create_backbone("vit_micro", weights=saved(without.state_dict(), tmp_path))
    assert torch.equal(with_one.body.pos_embed[:, 1:], state["pos_embed"][:, 1:])
    assert not with_one.body.pos_embed[:, 0].any()
    assert "missing (random): cls_token" in caplog.text


def test_gray_images(tmp_path):
    path, state = mae_file(tmp_path, False)
    gray = create_backbone("vit_micro", in_channels=1, weights=path)
    torch.testing.assert_close(gray.body.patch_embed.proj.weight, state["patch_embed.proj.weight"].sum(1, keepdim=True))


def test_fc_norm_is_loaded(tmp_path, caplog):
    peer = timm_vit(global_pool="avg")
    assert "fc_norm.weight" in peer.state_dict()
    with caplog.at_level(logging.INFO, "lit_cv"):
        backbone = create_backbone("vit_micro", weights=saved(peer.state_dict(), tmp_path))
    assert torch.equal(backbone.body.norm.weight, peer.fc_norm.weight)
    assert "missing (random): none; unexpected: none" in caplog.text


def test_unsupported_weights_are_refused(tmp_path):
    scaled = timm_vit(init_values=1e-5).state_dict()
    with pytest.raises(ValueError, match=r"unsupported parts \(ls1\., ls2\.\).*timm/NAME"):
        create_backbone("vit_micro", weights=saved(scaled, tmp_path))
    wide = timm_vit(img_size=(16, 32)).state_dict()
    with pytest.raises(ValueError, match="its 33 positions do not form a square grid"):
        create_backbone("vit_micro", image_size=32, weights=saved(wide, tmp_path))
    with pytest.raises(ValueError, match=r"has the shape \(.*, but vit_tiny needs \("):
        create_backbone("vit_tiny", weights=saved(timm_vit().state_dict(), tmp_path))
    with pytest.raises(ValueError, match="layout='keras'"):
        export_vit(create_backbone("vit_micro_p4", image_size=8).body, "keras")
    with pytest.raises(ValueError, match="torchvision's vision transformers need square images"):
        export_vit(create_backbone("vit_micro_p4", image_size=(8, 12)).body, "torchvision")
