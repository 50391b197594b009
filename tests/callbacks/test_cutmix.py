"""CutMix in training: images, labels, probability and stop epoch."""

from typing import Any, cast

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lit_cv.callbacks.cutmix import CutMix
from lit_cv.callbacks.mixup import MixUp
from tests.callbacks.test_augmentation import fit


class Module:
    num_classes = 10


class Trainer:
    current_epoch = 0
    global_step = 0
    estimated_stepping_batches = 100


def start(callback: L.Callback, batch: Any, module: Any = Module, trainer: Any = Trainer) -> Any:
    callback.on_train_batch_start(cast(L.Trainer, trainer), cast(L.LightningModule, module), batch, 0)
    return batch


def numbered(n: int, dtype: torch.dtype = torch.uint8) -> dict[str, Any]:
    images = torch.arange(n).view(n, 1, 1, 1).expand(n, 3, 24, 24).to(dtype).contiguous()
    return {"image": images, "label": torch.arange(n) % 10}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_labels_are_pasted_areas(dtype: torch.dtype) -> None:
    batch = start(CutMix(), numbered(10, dtype))
    assert batch["label"].dtype == torch.float32
    for i in range(10):
        for other in range(10):
            share = (batch["image"][i] == other).float().mean()
            assert batch["label"][i, other].item() == pytest.approx(share.item(), abs=1e-6)


def test_probability_applies_per_sample() -> None:
    torch.manual_seed(0)
    batch = start(CutMix(p=0.3), numbered(2000 % 256))
    mixed = (batch["image"] != numbered(2000 % 256)["image"]).flatten(1).any(1)
    assert 0.15 < mixed.float().mean() < 0.45
    hard = batch["label"].amax(1) == 1
    assert hard[~mixed].all()


def test_samples_are_mixed_at_most_once() -> None:
    torch.manual_seed(0)
    before = numbered(200)
    batch = start(CutMix(p=0.5), numbered(200))
    by_cutmix = batch["mixed"].clone()
    after_cutmix = batch["image"].clone()
    start(MixUp(alpha=5.0, p=1.0), batch)
    assert 60 < by_cutmix.sum() < 140
    assert batch["mixed"].all()
    assert torch.equal(batch["image"][by_cutmix], after_cutmix[by_cutmix])
    assert torch.equal(after_cutmix[~by_cutmix], before["image"][~by_cutmix])
    torch.testing.assert_close(batch["label"].sum(1), torch.ones(200))


def test_stop_epoch_keeps_soft_labels() -> None:
    class Late(Trainer):
        current_epoch = 8
        global_step = 80

    for callback, mixes in (
        (CutMix(stop_epoch=9), True),
        (CutMix(stop_epoch=8), False),
        (CutMix(stop_epoch=0.81), True),
        (CutMix(stop_epoch=0.8), False),
        (CutMix(stop_epoch=1.0), True),
        (CutMix(), True),
    ):
        batch = start(callback, numbered(10), trainer=Late)
        assert torch.equal(batch["image"], numbered(10)["image"]) != mixes
        assert batch["label"].shape == (10, 10)
        if not mixes:
            assert torch.equal(batch["label"], F.one_hot(torch.arange(10), 10).float())


def test_multi_label_targets() -> None:
    batch = numbered(8)
    batch["label"] = (torch.rand(8, 10) > 0.5).float()
    labels = batch["label"]
    start(CutMix(), batch)
    unchanged = (batch["image"] == numbered(8)["image"]).float().mean((1, 2, 3))[:, None]
    torch.testing.assert_close(batch["label"], unchanged * labels + (1 - unchanged) * labels.roll(1, 0))


@pytest.mark.parametrize(
    ("batch", "module", "message"),
    [
        ({"image": torch.rand(2, 3, 8, 8)}, Module, "no tensor 'label'"),
        ([torch.rand(2, 3, 8, 8)], Module, "got a list"),
        ({**numbered(2), "mask": torch.zeros(2, 24, 24)}, Module, "cannot mix the batch's entry 'mask'"),
        ({**numbered(2), "boxes": []}, Module, "cannot mix the batch's entry 'boxes'"),
        (numbered(2), object(), "object has no num_classes"),
    ],
)
def test_error_for_batches_that_cannot_be_mixed(batch: Any, module: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        start(CutMix(), batch, module)


@pytest.mark.parametrize(
    "options", [{"alpha": 0}, {"alpha": -1.0}, {"p": 1.5}, {"stop_epoch": 2.5}, {"stop_epoch": -1}]
)
def test_error_names_option(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CutMix(**options)


def test_fit() -> None:
    module = fit(CutMix(stop_epoch=1), epochs=2)
    sums = [batch["label"].sum(1) for batch in module.train_batches]
    assert all(torch.allclose(total, torch.ones_like(total)) for total in sums)
    hard = [bool((batch["label"].amax(1) == 1).all()) for batch in module.train_batches]
    assert hard[2:] == [True, True]
    assert all(batch["label"].dtype == torch.int64 for batch in module.val_batches)
