"""Runs of several tasks continue exactly after a kill, and on two processes learn what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from tests.processes import run_ranks
from tests.test_resume import CALLBACKS, assert_same_end, run_until_killed

TWO = "{shape: {type: classification}, pixels: {type: segmentation, channels: 32}}"
THREE = TWO[:-1] + ", objects: {type: detection, channels: 32, num_convs: 1}}"
FIT = [
    "fit", "--trainer.callbacks", "null", "--model", "MultiTaskModule",
    "--model.backbone", "conv4", "--data", "ShapesDataModule", "--data.num_images", "40", "--data.image_size", "32",
    "--data.targets", "all", "--data.batch_size", "12", "--trainer.max_epochs", "4", "--trainer.accelerator", "cpu",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--checkpoint.every_n_steps", "1", "--trainer.gradient_clip_val", "1.0",
]  # fmt: skip


@pytest.mark.parametrize(("weighting", "tasks"), [("uncertainty", THREE), ("dwa", TWO), ("pcgrad", TWO)])
def test_it_continues_exactly(in_tmp: Path, weighting: str, tasks: str) -> None:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    options = [*FIT, "--model.weighting", weighting, "--model.tasks", tasks]
    killer = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=7"]
    folders = {name: in_tmp / name for name in ("killed", "whole")}
    run_until_killed([*options, *killer, "--trainer.default_root_dir", str(folders["killed"])])
    for name, extra in (("killed", ["--ckpt_path", "last"]), ("whole", [])):
        main([*options, *extra, "--trainer.default_root_dir", str(folders[name])])
    assert_same_end(folders["killed"], folders["whole"])


PROGRAM = '''
import lightning as L
import torch
from torch.utils.data import DataLoader
from lit_cv import MultiTaskModule

WEIGHTINGS = ("equal", "uncertainty", "dwa", "pcgrad")
TASKS = {"kind": {"type": "classification", "num_classes": 3}, "light": {"type": "regression"}}


class Net(MultiTaskModule):
    """Without augmentation or dropout: the two processes see what one sees."""


def rows(n=24):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    kind = torch.randint(0, 3, (n,), generator=generator)
    light = image.float().mean((1, 2, 3)) / 100
    kind[[0, 1, 2, 4, 9]] = -1  # more on one process than on the other
    light[6:12] = torch.nan  # a batch without any
    return [{"image": i, "label": k, "light": v} for i, k, v in zip(image, kind, light)]


class Data(L.LightningDataModule):
    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        own = rows()[rank::world]
        return DataLoader(own, batch_size=6 // world)

    val_dataloader = train_dataloader


def main(devices, path):
    found = {}
    for weighting in WEIGHTINGS:
        torch.manual_seed(0)
        tasks = {name: {**options, **({"key": "label"} if name == "kind" else {})} for name, options in TASKS.items()}
        module = MultiTaskModule(
            tasks, weighting=weighting, backbone="squeezenet1_1", spatial_dropout=0.0, optimizer="sgd", lr=0.01,
            schedule="constant", in_channels=3,
        )
        for part in module.modules():
            assert not isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        trainer = L.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            use_distributed_sampler=False, num_sanity_val_steps=0, gradient_clip_val=1.0,
        )
        trainer.fit(module, Data())
        if trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "step" not in name}
            found[weighting] = (module.state_dict(), metrics)
    if trainer.is_global_zero:
        torch.save(found, path)

'''


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """With targets missing unevenly: a mean of the processes' means would be another one."""
    found: list[dict[str, tuple[dict[str, Any], dict[str, float]]]] = []
    program: dict[str, Any] = {"__name__": "program"}
    exec(compile(PROGRAM, "program.py", "exec"), program)
    program["main"](1, tmp_path / "1.pt")
    run_ranks(lambda rank: program["main"](2, tmp_path / "2.pt"))
    found += [torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2)]
    one, two = found
    for weighting, (weights, metrics) in one.items():
        for name, value in weights.items():
            torch.testing.assert_close(
                two[weighting][0][name], value, rtol=0, atol=1e-6, equal_nan=True, msg=f"{weighting} {name}"
            )
        assert two[weighting][1] == pytest.approx(metrics, abs=2e-4), weighting
