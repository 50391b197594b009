from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import datamodules
from lit_cv import MAEModule, SupervisedModule
from lit_cv.cli import main
from lit_cv.metrics_table import read_metrics
from lit_cv.nn.masking import fixed_noise, mask_indices, patch_mask
from lit_cv.nn.patches import gather_patches, patchify, unpatchify
from lit_cv.optim import build_optimizer, parameter_groups

SMALL: dict[str, Any] = {
    "backbone": "vit_micro_p4", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "image_size": [16, 24],
}  # fmt: skip


def built(seed: int = 0, **kwargs: Any) -> MAEModule:
    torch.manual_seed(seed)
    module = MAEModule(**SMALL | kwargs)
    module.configure_model()
    return module


def images(n: int = 3, channels: int = 3, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def some_mask(n: int = 3, length: int = 24, visible: int = 6) -> Tensor:
    return patch_mask("random", torch.rand(n, length, generator=torch.Generator().manual_seed(2)), (4, 6), visible)


def predict(module: MAEModule, raw: Tensor, mask: Tensor) -> Tensor:
    patches, grid = module._to_patches(raw)
    return module.predict_patches(patches, grid, *mask_indices(mask))


@torch.no_grad()
def test_prediction_matches_published_architecture() -> None:
    """Compare with a decoder in the authors' order: mask tokens inserted, everything decoded, all patches predicted."""
    module = built().eval()
    for parameter in module.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    raw, mask = images(), some_mask()
    patches, grid = module._to_patches(raw)
    keep, hidden = mask_indices(mask)
    tokens = module.backbone.body.forward_features(module.backbone.normalize(raw), keep)
    decoder = module.head
    x = decoder.embed(tokens)
    full = decoder.mask_token.repeat(3, 24, 1)
    full.scatter_(1, keep[..., None].expand(-1, -1, 32), x[:, 1:])
    full = torch.cat([x[:, :1], full + decoder._positions(grid, decoder.mask_token)], 1)
    for block in decoder.blocks:
        full = block(full)
    expected = decoder.pred(decoder.norm(full))[:, 1:]
    everything = module.predict_patches(patches, grid, keep, hidden, everything=True)
    torch.testing.assert_close(everything, expected, atol=1e-4, rtol=1e-4)
    some = module.predict_patches(patches, grid, keep, hidden)
    torch.testing.assert_close(some, gather_patches(expected, hidden), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("norm_pix", [False, True])
def test_step_loss(norm_pix: bool) -> None:
    module = built(norm_pix=norm_pix).eval()
    raw = images()
    index = torch.tensor([7, 3, 11])
    output = module.step({"image": raw, "index": index}, "val")
    mask = patch_mask("random", fixed_noise(index, 24), (4, 6), 6)
    target = patchify((raw / 255 - module.backbone.mean) / module.backbone.std, 4)[mask].double()
    if norm_pix:
        target = (target - target.mean(1, keepdim=True)) / (target.var(1, keepdim=True) + 1e-6).sqrt()
    prediction = predict(module, raw, mask).flatten(0, 1).double()
    assert float(output["loss"]) == pytest.approx(float((prediction - target).square().mean()), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("norm_pix", [False, True])
def test_psnr_of_pasted_image(norm_pix: bool) -> None:
    module = built(norm_pix=norm_pix).eval()
    raw = images()
    output = module.step({"image": raw}, "test")
    rebuilt, hidden = module.reconstruct(raw)
    pixels = hidden.expand_as(raw)
    values = [10 * torch.log10(1 / F.mse_loss(r[h], i[h] / 255)) for r, i, h in zip(rebuilt, raw, pixels, strict=True)]
    assert float(output["psnr"]) == pytest.approx(float(torch.stack(values).mean()), rel=1e-4)


@torch.no_grad()
def test_hidden_patches_are_not_encoded_and_visible_ones_no_target() -> None:
    module = built().eval()
    raw, mask = images(), some_mask()
    pixels = unpatchify(mask[..., None].expand(-1, -1, 16 * 3), (4, 6), 4)
    other = images(3).flip(0)
    prediction = predict(module, raw, mask)
    assert torch.equal(predict(module, torch.where(pixels, other, raw), mask), prediction)
    assert not torch.equal(predict(module, torch.where(pixels, raw, other), mask), prediction)

    def target(changed: Tensor) -> Tensor:
        return gather_patches(module._to_patches(changed)[0], mask_indices(mask)[1])

    changed = torch.where(pixels, raw, other)
    assert torch.equal(module.loss(prediction, target(changed)), module.loss(prediction, target(raw)))


@pytest.mark.parametrize("visible", [1, 23])
@pytest.mark.parametrize("n", [1, 3])
def test_extreme_masks(visible: int, n: int) -> None:
    module = built().train()
    mask = some_mask(n, visible=visible)
    rebuilt, used = module(images(n), mask.view(n, 4, 6))
    assert torch.equal(used, mask)
    assert rebuilt.shape == (n, 3, 16, 24)
    assert rebuilt.isfinite().all()


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_extreme_ratios(ratio: float) -> None:
    module = built(mask_ratio=ratio)
    loss = module.step({"image": images(1)}, "train")["loss"]
    loss.backward()
    assert loss.isfinite()
    assert module(images(1))[1].sum() == (1 if ratio < 0.5 else 23)


def test_masks_are_random_in_training_and_fixed_in_validation() -> None:
    module = built()
    drawn = [module(images())[1] for _ in range(2)]
    assert not torch.equal(*drawn)
    assert len(drawn[0].unique(dim=0)) == 3
    module.eval()
    fixed = [module(images())[1] for _ in range(2)]
    assert torch.equal(*fixed)
    assert len(fixed[0].unique(dim=0)) == 3
    with torch.no_grad():
        expected = module.step({"image": images(), "index": torch.arange(3)}, "val")["loss"]
        parts = [
            module.step({"image": images()[i : i + 1], "index": torch.tensor([i])}, "val")["loss"] for i in range(3)
        ]
    torch.testing.assert_close(torch.stack(parts).mean(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "block", "grid"])
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 16)), (5, (8, 8))])
def test_mask_kinds_channels_and_sizes(kind: Any, channels: int, size: tuple[int, int]) -> None:
    module = built(mask=kind, in_channels=channels, image_size=list(size))
    rebuilt, mask = module(images(2, channels, size))
    assert rebuilt.shape == (2, channels, *size)
    assert mask.shape == (2, size[0] * size[1] // 16)
    module.step({"image": images(2, channels, size)}, "train")["loss"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


@torch.no_grad()
def test_norm_pix_is_undone() -> None:
    module = built().eval()
    raw, mask = images(), some_mask()
    patches, _ = module._to_patches(raw)
    normalized = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    module.predict_patches = lambda *args, **kwargs: normalized  # type: ignore[method-assign]
    reconstructed, _ = module(raw, mask)  # a perfect prediction reconstructs the image
    torch.testing.assert_close(reconstructed, raw / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loss(dtype: torch.dtype) -> None:
    module = built(decoder_depth=2)
    with torch.no_grad():
        exact = module.step({"image": images(), "index": torch.arange(3)}, "val")["loss"]
    with torch.autocast("cpu", dtype):
        loss = module.step({"image": images(), "index": torch.arange(3)}, "val")["loss"]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact), rel=0.02)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_bfloat16_weights() -> None:
    module = built().to(torch.bfloat16)
    loss = module.step({"image": images()}, "train")["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_decoder_norm_does_not_overflow_in_float16() -> None:
    module = built()
    x = torch.full((1, 2, 32), 3e4)
    x[..., ::2] = -3e4
    with torch.autocast("cpu", torch.float16):
        normed = module.head._normalize(x.half())
    assert normed.abs().sub(1).abs().max() < 1e-3


@torch.no_grad()
def test_embedding_is_mean_of_patch_tokens() -> None:
    module = built(backbone="vit_micro_p4_cls").eval()
    tokens = module.backbone.body.forward_features(module.backbone.normalize(images()))
    torch.testing.assert_close(module.embed(images()), tokens[:, 1:].mean(1))
    predicted = module.predict_step({"image": images(), "index": torch.arange(3)}, 0)
    torch.testing.assert_close(predicted["embedding"], module.embed(images()))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"backbone": "resnet18"},
            "backbone='resnet18': must be one of vit_micro.* MAEModule encodes only the visible patches",
        ),
        ({"backbone": "vit_b_16"}, "backbone='vit_b_16': must be one of .*MAEModule"),
        ({"mask_ratio": 1.0}, r"mask_ratio=1\.0"),
        ({"decoder_width": 30}, "decoder_width=30"),
        ({"decoder_heads": 5}, "a width of 32 is not divisible by 5 heads"),
        ({"image_size": 30}, "images of 30x30 pixels cannot be cut into patches of 4x4"),
    ],
)
def test_error_names_argument(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**kwargs)


def test_error_for_invalid_masks() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 20\): 3 images of 4x6 patches need \(3, 24\) or \(3, 4, 6\)"):
        built()(images(), torch.ones(3, 20, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(3, 6, 4\)"):
        built()(images(), some_mask().view(3, 6, 4))
    with pytest.raises(ValueError, match="must hide the same number of patches"):
        built()(images(), torch.arange(72).view(3, 24) < 30)
    with pytest.raises(ValueError, match="images of 18x24 pixels cannot be cut into patches of 4x4"):
        built()(images(size=(18, 24)))


QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.learns
def test_learns_to_copy_visible_patches(seed: int) -> None:
    """All patches of an image are the same random tile: visible patches determine it, the average image does not."""
    module = built(seed, image_size=16, in_channels=1, norm_pix=False)
    optimizer = build_optimizer("adamw", parameter_groups(module, lr=2e-3, weight_decay=0.0), lr=2e-3)
    for _ in range(100):
        tiles = torch.randint(0, 256, (32, 1, 4, 4), dtype=torch.uint8)
        loss = module.step({"image": tiles.repeat(1, 1, 4, 4)}, "train")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    baseline = (1 / 12) / 0.25**2  # variance of uniform pixels after normalization
    assert float(loss.detach()) < 0.3 * baseline


@pytest.mark.slow
def test_other_modules_load_the_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = datamodules.ShapesDataModule(image_size=16, num_images=100, batch_size=30)
    module = MAEModule(**SMALL | {"image_size": None})
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(module, data)
    assert not module.backbone.body.pos_embed.requires_grad
    path = tmp_path / "mae.ckpt"
    trainer.save_checkpoint(path)
    again = MAEModule.load_from_checkpoint(path, weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images(size=(16, 16))), module.eval()(images(size=(16, 16))))
    with caplog.at_level("INFO", "lit_cv"):
        finer = SupervisedModule(backbone="vit_micro", num_classes=8, image_size=[24, 16], weights=str(path))
        finer.configure_model()
        longer = MAEModule(**SMALL | {"image_size": 32, "weights": str(path)})
        longer.configure_model()
    assert "missing (random): none" in caplog.text
    assert "loaded the decoder, too" in caplog.text
    assert torch.equal(finer.backbone.body.blocks[0].attn.qkv.weight, module.backbone.body.blocks[0].attn.qkv.weight)
    assert finer.backbone.body.pos_embed.requires_grad
    assert torch.equal(longer.head.mask_token, module.head.mask_token)
    assert finer(images(2, size=(24, 16))).shape == (2, 8)


FIT = [
    "fit", "--config", "mae", "--trainer.callbacks", "null",
    "--data", "ShapesDataModule", "--data.num_images", "200",
    "--data.image_size", "16", "--data.batch_size", "32",
    "--model.decoder_width", "32", "--model.decoder_depth", "1", "--trainer.max_epochs", "2",
    "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.mark.slow
def test_cli(in_tmp: Path) -> None:
    cli = main([*FIT, "--trainer.default_root_dir", "uninterrupted"])
    assert cli is not None
    assert cli.trainer.global_step == 10
    group = cli.trainer.optimizers[0].param_groups[0]
    assert tuple(group["betas"]) == (0.9, 0.95)
    folder = Path("uninterrupted/lightning_logs/version_0")
    assert (folder / "reconstructions.png").is_file()
    names = {name for row in read_metrics(folder / "metrics.csv") for name in row}
    assert {"train_loss", "val_loss", "val_psnr"} <= names
