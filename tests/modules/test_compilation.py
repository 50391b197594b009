"""Training through torch.compile."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from datamodules import DigitsDataModule, ShapesDataModule
from lit_cv import (
    BaseModule,
    DetectionModule,
    MAEModule,
    MultiTaskModule,
    SegmentationModule,
    SupervisedModule,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Replace the generation of machine code, which takes minutes, and return the compiled networks."""
    compiled: list[nn.Module] = []
    compile_fully = nn.Module.compile

    def compile_quickly(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        compiled.append(self)
        partial(compile_fully, self)(*args, **kwargs, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    return compiled


def trained(module: BaseModule, data: L.LightningDataModule, folder: Path) -> dict[str, Any]:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_steps=3, limit_val_batches=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "weights.ckpt")
    content: dict[str, Any] = torch.load(folder / "weights.ckpt", weights_only=True)
    return content["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        (SupervisedModule, {"backbone": "conv4"}, 1),
        (MAEModule, {"backbone": "vit_micro_p2", "decoder_depth": 1}, 7),
        (MultiTaskModule, {"backbone": "conv4", "tasks": {"digit": {"type": "classification"}}}, 1),
    ],
)
def test_compiled_training_equals_uncompiled(
    quick: list[nn.Module], kind: Any, options: dict[str, Any], count: int, tmp_path: Path
) -> None:
    data = partial(DigitsDataModule, batch_size=32)
    plain = trained(kind(**options), data(), tmp_path)
    assert not quick
    compiled = trained(kind(**options, compile=True), data(), tmp_path)
    assert len(quick) == count
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", [DetectionModule, SegmentationModule])
def test_error_for_modules_that_cannot_be_compiled(quick: list[nn.Module], kind: Any, tmp_path: Path) -> None:
    data = ShapesDataModule(image_size=32, num_images=40, targets="all", batch_size=8)
    with pytest.raises(ValueError, match=r"leave `compile` out"):
        trained(kind(backbone="conv4", compile=True), data, tmp_path)
    assert not quick
