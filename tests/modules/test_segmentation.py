"""SegmentationModule and its metric."""

from typing import Any

import lightning as L
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from lit_cv import SegmentationModule
from lit_cv.metrics.segmentation import SegmentationIoU
from tests.modules.scenes import QUIET, Rectangles

SMALL: dict[str, Any] = {"backbone": "resnet9_small", "channels": 32, "stride": 2}


def built(**kwargs: Any) -> SegmentationModule:
    torch.manual_seed(0)
    module = SegmentationModule(**SMALL | kwargs)
    module.configure_model()
    return module.eval()


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("head", ["fcn", "deeplab"])
def test_learns_and_logs(head: Any, seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    module = SegmentationModule(**SMALL, head=head, lr=5e-3)
    data = Rectangles()
    trainer = L.Trainer(**QUIET, max_epochs=24, check_val_every_n_epoch=24)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["val_miou"] > 0.75
    ious = [logged[f"val_iou_{name}"] for name in data.mask_classes]
    assert logged["val_miou"] == pytest.approx(sum(ious) / 3, abs=1e-6)
    assert logged["train_loss"] == pytest.approx(logged["train_ce_loss"] + logged["train_dice_loss"], rel=1e-5)
    (first, _) = trainer.predict(module, data)  # type: ignore[misc]
    assert first["masks"].shape == (8, 48, 64)
    assert first["masks"].dtype == torch.int64
    assert (first["confidence"] > 0.5).all()


def test_metric_matches_torchmetrics() -> None:
    torch.manual_seed(0)
    metric = SegmentationIoU(["a", "b", "c", "d", "unseen"])
    reference = MulticlassJaccardIndex(5, ignore_index=255, average="none")
    for _ in range(3):
        predicted, target = torch.randint(4, (2, 9, 7)), torch.randint(4, (2, 9, 7))
        target[torch.rand(2, 9, 7) < 0.3] = 255
        metric.update(predicted, target)
        reference.update(predicted, target)
    values, expected = metric.compute(), reference.compute()
    actual = torch.stack([values[f"iou_{name}"] for name in "abcd"])
    torch.testing.assert_close(actual, expected[:4])
    torch.testing.assert_close(values["miou"], expected[:4].mean())
    assert values["iou_unseen"].isnan()


def test_ignored_pixels_change_nothing() -> None:
    module = built(mask_classes=["ground", "red", "blue"])
    batch: dict[str, Any] = next(iter(Rectangles(8).train_dataloader()))
    output = module.step(batch, "val")
    logits = module(batch["image"])
    known = batch["mask"] != 255
    expected = torch.nn.functional.cross_entropy(logits.movedim(1, -1)[known], batch["mask"][known])
    torch.testing.assert_close(output["ce_loss"], expected)


def test_other_sizes_and_vision_transformers() -> None:
    module = built(backbone="vit_micro_p8", image_size=32, stride=None, mask_classes=["ground", "cell"])
    with torch.no_grad():
        for size in [(32, 32), (40, 64), (33, 50)]:
            assert module(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, 2, *size)
    assert module.hparams["stride"] == 2


def test_confidence_excludes_padding() -> None:
    module = built(mask_classes=["ground", "cell"])
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        highest = module(images).softmax(1).amax(1)
        predictions = module.predict_step({"image": images, "size": torch.tensor([[20, 30]])}, 0)
    torch.testing.assert_close(predictions["confidence"][0], highest[0, :20, :30].mean())


def test_errors() -> None:
    with pytest.raises(ValueError, match="classes of the pixels are unknown"):
        SegmentationModule(**SMALL)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    module = SegmentationModule(**SMALL, mask_classes=["a", "b"])
    with pytest.raises(ValueError, match="batches with a `mask`, but got one with image"):
        module.step({"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "train")
    with pytest.raises(ValueError, match="dice_weight=-1"):
        SegmentationModule(dice_weight=-1)
