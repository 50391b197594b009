"""Multi-task training on two ranks equals that on one."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_cv import MultiTaskModule
from tests.processes import run_ranks

TASKS = {"kind": {"type": "classification", "num_classes": 3, "key": "label"}, "light": {"type": "regression"}}


def rows(n: int = 24) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    kind = torch.randint(0, 3, (n,), generator=generator)
    light = image.float().mean((1, 2, 3)) / 100
    kind[[0, 1, 2, 4, 9]] = -1  # more missing on one rank than on the other
    light[6:12] = torch.nan  # a batch without targets
    return [{"image": i, "label": k, "light": v} for i, k, v in zip(image, kind, light, strict=True)]


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        return DataLoader(rows()[rank::ranks], batch_size=6 // ranks)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def fit(ranks: int, path: Path) -> None:
    """Fit with each weighting, without augmentation, dropout or BatchNorm, and save the final weights and metrics."""
    results: dict[str, Any] = {}
    for weighting in ("equal", "uncertainty", "dwa", "pcgrad"):
        torch.manual_seed(0)
        module = MultiTaskModule(
            TASKS, weighting=weighting, backbone="squeezenet1_1", spatial_dropout=0.0, optimizer="sgd", lr=0.01,
            schedule="constant", in_channels=3,
        )  # fmt: skip
        assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
        trainer = L.Trainer(
            accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            use_distributed_sampler=False, num_sanity_val_steps=0, gradient_clip_val=1.0,
        )  # fmt: skip
        trainer.fit(module, Data())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "step" not in name}
        results[weighting] = (module.state_dict(), metrics)
    if trainer.is_global_zero:
        torch.save(results, path)


@pytest.mark.slow
def test_two_ranks_learn_the_same_as_one(tmp_path: Path) -> None:
    """Targets are missing unevenly, so that a mean of the ranks' means would differ."""
    fit(1, tmp_path / "1.pt")
    run_ranks(lambda rank: fit(2, tmp_path / "2.pt"))
    one, two = (torch.load(tmp_path / f"{ranks}.pt", weights_only=True) for ranks in (1, 2))
    for weighting, (weights, metrics) in one.items():
        for name, value in weights.items():
            torch.testing.assert_close(
                two[weighting][0][name], value, rtol=0, atol=1e-6, equal_nan=True, msg=f"{weighting} {name}"
            )
        assert two[weighting][1] == pytest.approx(metrics, abs=2e-4), weighting
