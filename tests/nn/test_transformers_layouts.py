"""Weights under the names of Hugging Face's transformers."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from lit_cv.nn import create_backbone
from lit_cv.nn.convnext_layout import convnext_to_torchvision
from lit_cv.nn.transformers_layouts import from_transformers

timm = pytest.importorskip("timm")
State = dict[str, Tensor]
SIZES: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0,
}  # fmt: skip


def vit(**options: Any) -> nn.Module:
    network: nn.Module = timm.models.VisionTransformer(**SIZES, **options)
    return network


def convnext(**options: Any) -> nn.Module:
    network: nn.Module = timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=0, **options)
    return network


def resnet(block: str) -> nn.Module:
    network: nn.Module = timm.models.ResNet(
        getattr(timm.models.resnet, block), (1, 2, 1, 1), num_classes=0, channels=(8, 16, 24, 32), stem_width=8
    )
    return network


# timm's names on the left, transformers' on the right; `N` is a number.
VIT = (
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ("blocks.N.attn.proj", "encoder.layer.N.attention.output.dense"),
    ("blocks.N.attn.q", "encoder.layer.N.attention.attention.query"),
    ("blocks.N.attn.k", "encoder.layer.N.attention.attention.key"),
    ("blocks.N.attn.v", "encoder.layer.N.attention.attention.value"),
)
PLAIN = (
    *VIT,
    ("blocks.N.norm1", "encoder.layer.N.layernorm_before"),
    ("blocks.N.norm2", "encoder.layer.N.layernorm_after"),
    ("blocks.N.mlp.fc1", "encoder.layer.N.intermediate.dense"),
    ("blocks.N.mlp.fc2", "encoder.layer.N.output.dense"),
    ("norm", "layernorm"),
)
DINOV2 = (
    *VIT,
    ("reg_token", "embeddings.register_tokens"),
    ("blocks.N.ls1.gamma", "encoder.layer.N.layer_scale1.lambda1"),
    ("blocks.N.ls2.gamma", "encoder.layer.N.layer_scale2.lambda1"),
    ("blocks.N", "encoder.layer.N"),
    ("norm", "layernorm"),
)
CLIP = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding.weight"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("norm_pre", "pre_layrnorm"),
    ("norm", "post_layernorm"),
    ("blocks.N.attn.proj", "encoder.layers.N.self_attn.out_proj"),
    ("blocks.N.attn.q", "encoder.layers.N.self_attn.q_proj"),
    ("blocks.N.attn.k", "encoder.layers.N.self_attn.k_proj"),
    ("blocks.N.attn.v", "encoder.layers.N.self_attn.v_proj"),
    ("blocks.N.norm1", "encoder.layers.N.layer_norm1"),
    ("blocks.N.norm2", "encoder.layers.N.layer_norm2"),
    ("blocks.N.mlp", "encoder.layers.N.mlp"),
    ("attn_pool.latent", "head.probe"),
    ("attn_pool.proj", "head.attention.out_proj"),
    ("attn_pool.norm", "head.layernorm"),
    ("attn_pool.mlp", "head.mlp"),
)
CONVNEXT = (
    ("stem.0", "embeddings.patch_embeddings"),
    ("stem.1", "embeddings.layernorm"),
    ("head.norm", "layernorm"),
    ("stages.N.downsample", "encoder.stages.N.downsampling_layer"),
    ("stages.N.blocks.N.conv_dw", "encoder.stages.N.layers.N.dwconv"),
    ("stages.N.blocks.N.norm", "encoder.stages.N.layers.N.layernorm"),
    ("stages.N.blocks.N.mlp.fc1", "encoder.stages.N.layers.N.pwconv1"),
    ("stages.N.blocks.N.mlp.fc2", "encoder.stages.N.layers.N.pwconv2"),
    ("stages.N.blocks.N.mlp.grn", "encoder.stages.N.layers.N.grn"),
    ("stages.N.blocks.N.gamma", "encoder.stages.N.layers.N.layer_scale_parameter"),
)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[tuple[str, str]], str]] = {
    "vit": (vit, PLAIN, "vit."),
    "deit": (vit, PLAIN, "deit."),
    "distilled deit": (lambda: timm.models.deit.VisionTransformerDistilled(**SIZES), PLAIN, "deit."),
    "vit alone": (vit, PLAIN, ""),
    "dinov2": (lambda: vit(init_values=1.0), DINOV2, ""),
    "siglip": (lambda: vit(class_token=False, global_pool="map"), CLIP, "vision_model."),
    "clip": (lambda: vit(pre_norm=True), CLIP, "vision_model."),
    "convnext": (convnext, CONVNEXT, "convnext."),
    "convnextv2": (lambda: convnext(use_grn=True, ls_init_value=None), CONVNEXT, "convnextv2."),
}


def renamed(key: str, table: Sequence[tuple[str, str]]) -> str:
    for ours, theirs in table:
        pattern = re.escape(ours).replace("N", r"(\d+)")
        if match := re.fullmatch(rf"{pattern}((?:\.\w+)*)", key):
            *numbers, rest = match.groups()
            parts = theirs.split("N")
            return parts[0] + "".join(map("".join, zip(numbers, parts[1:], strict=True))) + rest
    raise AssertionError(key)


def transformers_state(state: State, table: Sequence[tuple[str, str]], prefix: str) -> State:
    """Convert weights from timm's names and shapes to transformers'."""
    apart: State = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.qkv\.(\w+)", key):
            apart |= {f"{match[1]}.{name}.{match[2]}": part for name, part in zip("qkv", value.chunk(3), strict=True)}
        elif match := re.fullmatch(r"attn_pool\.q\.(\w+)", key):
            joined = torch.cat([value, state[f"attn_pool.kv.{match[1]}"]])
            apart[f"{prefix}head.attention.in_proj_{match[1]}"] = joined
        elif not key.startswith("attn_pool.kv"):
            apart[key] = value
    found = {key if "in_proj" in key else prefix + renamed(key, table): value for key, value in apart.items()}
    for key, value in found.items():
        if "embedding.weight" in key and value.ndim == 3:
            found[key] = value[0]
        if "class_embedding" in key:
            found[key] = value.flatten()
        if ".grn." in key:
            found[key] = value.reshape(1, 1, 1, -1)
    return found


def randomized(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


@pytest.mark.parametrize("kind", NETWORKS)
def test_names_and_shapes_equal_timm(kind: str) -> None:
    build, table, prefix = NETWORKS[kind]
    state = dict(randomized(build()).state_dict())
    theirs = transformers_state(state, table, prefix)
    theirs |= {"classifier.weight": torch.zeros(2, 32), "text_model.embeddings.x": torch.zeros(1)}
    found = from_transformers(theirs)
    assert found is not None
    assert found.keys() - state.keys() == {"classifier.weight", "text_model.embeddings.x"}
    for key, value in state.items():
        assert torch.equal(found[key], value), key


def test_registers_have_no_position_embeddings() -> None:
    state = dict(randomized(vit(init_values=1.0, reg_tokens=4, no_embed_class=True)).state_dict())
    theirs = transformers_state(state, DINOV2, "")
    first = torch.randn(1, 1, 32)
    theirs["embeddings.position_embeddings"] = torch.cat([first, state["pos_embed"]], 1)
    theirs["embeddings.mask_token"] = torch.randn(1, 32)
    found = from_transformers(theirs)
    assert found is not None
    assert found.keys() == state.keys()
    assert torch.equal(found["cls_token"], state["cls_token"] + first)
    assert torch.equal(found["pos_embed"], state["pos_embed"])


@pytest.mark.parametrize("biased", [False, True])
def test_dinov3(biased: bool) -> None:
    name = "vit_small_patch16_dinov3_qkvb" if biased else "vit_small_patch16_dinov3"
    network = randomized(timm.create_model(name, **SIZES))
    theirs: State = {}
    for key, value in network.state_dict().items():
        block = re.sub(r"blocks\.(\d+)\.", r"layer.\1.", key)
        if match := re.fullmatch(r"(layer\.\d+)\.attn\.qkv\.weight", block):
            names = [f"{match[1]}.attention.{part}_proj" for part in "qkv"]
            theirs |= dict(zip([f"{name}.weight" for name in names], value.chunk(3), strict=True))
            theirs |= {f"{names[0]}.bias": torch.zeros(32), f"{names[2]}.bias": torch.zeros(32)} | theirs
        for ours, name in (
            (r"attn\.([qv])_bias", r"attention.\1_proj.bias"),
            (r"attn\.proj\.", "attention.o_proj."),
            (r"gamma_([12])", r"layer_scale\1.lambda1"),
            (r"mlp\.fc1", "mlp.up_proj"),
            (r"mlp\.fc2", "mlp.down_proj"),
            (r"^(cls_token)", r"embeddings.\1"),
            (r"^reg_token", "embeddings.register_tokens"),
            (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        ):
            block = re.sub(ours, name, block)
        if "qkv" not in block:
            theirs[block] = value
    found = from_transformers({**theirs, "rope_embeddings.inv_freq": torch.zeros(4)})
    assert found is not None
    state = network.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_resnets(block: str) -> None:
    state = dict(resnet(block).state_dict())
    theirs = {}
    for key, value in state.items():
        name = re.sub(r"^(conv|bn)1\.", lambda m: f"embedder.embedder.{WORDS[m[1]]}.", key)
        name = re.sub(r"^layer(\d)\.(\d)", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}", name)
        name = re.sub(r"\.(conv|bn)(\d)\.", lambda m: f".layer.{int(m[2]) - 1}.{WORDS[m[1]]}.", name)
        name = re.sub(r"downsample\.(\d)", lambda m: f"shortcut.{('convolution', 'normalization')[int(m[1])]}", name)
        theirs[f"resnet.{name}"] = value
    found = from_transformers(theirs)
    assert found is not None
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


WORDS = {"conv": "convolution", "bn": "normalization"}


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_outputs_equal_timm(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    peer = randomized(timm.create_model("test_vit", num_classes=0))
    theirs = transformers_state(dict(peer.state_dict()), PLAIN, "vit.")
    path = tmp_path / f"model{suffix}"
    (torch.save if suffix == ".bin" else save_file)({key: value.contiguous() for key, value in theirs.items()}, path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    with caplog.at_level("INFO", "lit_cv"):
        backbone = create_backbone("timm/test_vit", weights=str(path)).eval()
    assert "missing (random): none; unexpected: none" in caplog.text
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    torch.testing.assert_close(backbone(images), peer((images / 255 - 0.5) / 0.5))
    larger = create_backbone("timm/test_vit", weights=str(path), image_size=320).eval()
    assert larger.body.pos_embed.shape[1] == 401
    grid = peer.pos_embed[:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
    enlarged = nn.functional.interpolate(grid, (20, 20), mode="bicubic", antialias=True)
    torch.testing.assert_close(larger.body.pos_embed[:, 1:], enlarged.flatten(2).mT)


def test_lit_cv_vit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peer = randomized(timm.models.VisionTransformer(32, 4, embed_dim=128, depth=6, num_heads=4, num_classes=0))
    torch.save(transformers_state(dict(peer.state_dict()), PLAIN, ""), tmp_path / "x.bin")
    with caplog.at_level("INFO", "lit_cv"):
        backbone = create_backbone("vit_micro_cls", weights=str(tmp_path / "x.bin")).eval()
    assert "missing (random): none; unexpected: none" in caplog.text
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images), peer((images - backbone.mean) / backbone.std), atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
def test_torchvision_convnext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
    peer = randomized(convnext())
    network = models.ConvNeXt(sizes).eval()
    monkeypatch.setattr(models, "get_model", lambda name, weights: network)
    torch.save(transformers_state(dict(peer.state_dict()), CONVNEXT, "convnext."), tmp_path / "x.bin")
    backbone = create_backbone("convnext_tiny", weights=str(tmp_path / "x.bin")).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = peer((images - backbone.mean) / backbone.std)
    torch.testing.assert_close(backbone(images), expected, atol=1e-4, rtol=1e-4)
    assert convnext_to_torchvision({"fc.weight": images}).keys() == {"fc.weight"}


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        ({"model_type": "clip_vision_model"}, "vit_base_patch32_clip_224", "holds a CLIP with quick GELU"),
        ({"vision_config": {"hidden_act": "quick_gelu"}}, "vit_base_patch32_clip_224", "holds a CLIP with quick GELU"),
        ({"vision_config": {"hidden_act": "gelu"}}, "vit_base_patch32_clip_quickgelu_224", "without quick GELU"),
    ],
)
def test_clip_activation_must_match(tmp_path: Path, config: dict[str, Any], name: str, words: str) -> None:
    torch.save(transformers_state(dict(vit(pre_norm=True).state_dict()), CLIP, "vision_model."), tmp_path / "x.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        create_backbone(f"timm/{name}", weights=str(tmp_path / "x.bin"))


def test_mismatched_qkv_is_refused(tmp_path: Path) -> None:
    state = transformers_state(dict(vit().state_dict()), PLAIN, "")
    state["encoder.layer.0.attention.attention.key.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "x.bin")
    words = r"x\.bin: the weight tensors of blocks\.0\.attn\.q, k and v have different shapes"
    with pytest.raises(ValueError, match=words):
        create_backbone("timm/test_vit", weights=str(tmp_path / "x.bin"))
