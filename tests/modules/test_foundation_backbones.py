"""Small versions of timm's DINOv2, DINOv3, SigLIP and CLIP: strategies, neighbors, dense heads, layer decay."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cv import DetectionModule, FineTuneModule, SegmentationModule
from lit_cv.cli import main
from lit_cv.nn import backbone_stages, create_backbone

timm = pytest.importorskip("timm")

DEPTH = 3
PATCHES = {
    "timm/vit_small_patch14_dinov2": 14,
    "timm/vit_small_patch14_reg4_dinov2": 14,
    "timm/vit_small_patch16_dinov3": 16,
    "timm/vit_base_patch16_siglip_224": 16,
    "timm/vit_xsmall_patch16_clip_224": 16,
}
QUICK = "timm/vit_small_patch14_reg4_dinov2"
NAMES = [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in PATCHES]
STRATEGIES = (
    "feature_extraction", "freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing", "lora",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm build these networks narrower and with few blocks."""
    build = timm.create_model
    sizes = {"embed_dim": 48, "depth": DEPTH, "num_heads": 4}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: build(name, **options, **sizes))


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_stem_and_blocks(name: str) -> None:
    backbone = create_backbone(name, image_size=4 * PATCHES[name])
    stages = backbone_stages(backbone.body)
    assert [stage.name for stage in stages] == ["stem", *(f"blocks.{i}" for i in range(DEPTH))]
    assert sum(len(stage.parameters) for stage in stages) == len(list(backbone.body.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_layer_decay_matches_timm(name: str) -> None:
    options: dict[str, Any] = {"strategy": "discriminative_lr", "backbone_lr": 1e-3, "layer_decay": 0.5}
    from timm.optim import param_groups_layer_decay

    module = FineTuneModule(backbone=name, num_classes=3, image_size=4 * PATCHES[name], **options)
    module.configure_model()
    rates = {id(p): group["lr"] for group in module.parameter_groups() for p in group["params"]}
    layers = param_groups_layer_decay(module.backbone.body, layer_decay=0.5)
    theirs = {id(p): 1e-3 * group["lr_scale"] for group in layers for p in group["params"]}
    top = theirs[id(module.backbone.body.blocks[DEPTH - 1].mlp.fc2.weight)]
    for block in module.backbone.body.blocks:
        weight = id(block.mlp.fc2.weight)
        assert rates[weight] == pytest.approx(theirs[weight] / top * 0.5 * 1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NAMES)
def test_strategies(name: str, strategy: Any) -> None:
    side = 4 * PATCHES[name]
    module = FineTuneModule(backbone=name, strategy=strategy, num_classes=3, image_size=side)
    logits = module(images(4, 3, side, side))
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    trained = [parameter for group in module.parameter_groups() for parameter in group["params"]]
    assert all(parameter.grad is not None for parameter in trained)
    within = {id(parameter) for parameter in module.backbone.parameters()}
    assert bool(within & set(map(id, trained))) == (strategy not in ("feature_extraction", "gradual_unfreezing"))


@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_are_aligned_with_the_image(name: str) -> None:
    backbone = create_backbone(name).eval()
    assert list(backbone.feature_levels()) == [16]
    for size in ((96, 160), (100, 150), (112, 224)):
        image = torch.full((1, 3, *size), 128, dtype=torch.uint8)
        with torch.no_grad():
            maps = backbone.forward_maps(image)[16]
        assert maps.shape == (1, 48, -(-size[0] // 16), -(-size[1] // 16))
    changed = image.clone()
    changed[:, :, 40:56, 136:152] = 255
    with torch.no_grad():
        change = (backbone.forward_maps(changed)[16] - maps).abs().mean(1)[0]
    place = divmod(int(change.argmax()), change.shape[1])
    assert abs((place[0] + 0.5) * 16 - 48) <= 16
    assert abs((place[1] + 0.5) * 16 - 144) <= 16


@pytest.mark.parametrize("name", NAMES)
def test_dense_heads(name: str) -> None:
    side = 5 * PATCHES[name]
    segmentation = SegmentationModule(backbone=name, image_size=side, mask_classes=["a", "b"], channels=32)
    assert segmentation(images(2, 3, side, side)).shape == (2, 2, side, side)
    assert segmentation(images(2, 3, side + 5, side - 3)).shape == (2, 2, side + 5, side - 3)
    detection = DetectionModule(
        backbone=name, image_size=side, box_classes=["a"], channels=32, strategy="full_finetune"
    )
    batch = {
        "image": images(2, 3, side, side),
        "boxes": [torch.tensor([[4.0, 4.0, 40.0, 40.0]])] * 2,
        "box_labels": [torch.tensor([0])] * 2,
    }
    detection.step(batch, "train")["loss"].backward()
    trained = [parameter for group in detection.parameter_groups() for parameter in group["params"]]
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.slow
@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("name", ["timm/vit_small_patch16_dinov3", "timm/vit_base_patch16_siglip_224"])
def test_knn_evaluation(name: str) -> None:
    data = ["--data", "DigitsDataModule", "--data.image_size", "32", "--trainer.accelerator", "cpu"]
    cli = main(
        ["knn", "--model", "SupervisedModule", "--model.backbone", name, "--trainer.limit_val_batches", "2", *data]
    )
    assert cli is not None
    assert 0 < float(cli.trainer.callback_metrics["val_knn_acc"]) <= 1


def test_image_size_not_divisible_by_patch() -> None:
    with pytest.raises(ValueError, match=r"does not support images of 60x60 pixels .* divisible by patch size \(14\)"):
        create_backbone("timm/vit_small_patch14_dinov2", image_size=60)
