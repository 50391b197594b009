"""BYOL as a user writes it in a file: killed and continued it ends as if it had not been, and two processes are one."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from lit_cv.nn import create_backbone
from tests.processes import run_program
from tests.test_resume import CALLBACKS, assert_same_end, final, run_until_killed

BYOL = '''
import torch.nn.functional as F
from torch import nn

from lit_cv import BaseModule
from lit_cv.nn import MovingAverage, cosine_decay


class OwnBYOL(BaseModule):
    """Predicts what a moving average of the network makes of the mirrored image (Grill et al. 2020)."""

    def __init__(self, decay: float = 0.8, **kwargs) -> None:
        super().__init__(**kwargs)

    def configure_head(self, num_features):
        return nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 16))

    def configure_networks(self):
        super().configure_networks()
        self.predictor = nn.Linear(16, 16)
        self.target = MovingAverage(nn.ModuleDict({"backbone": self.backbone, "head": self.head}))

    def step(self, batch, stage):
        image = batch["image"]
        views = [image, image.flip(-1)]
        return {"loss": (self.distance(*views) + self.distance(*reversed(views))) / 2}

    def distance(self, view, other):
        target = self.target.module
        expected = target.head(target.backbone(other))
        return 2 - 2 * F.cosine_similarity(self.predictor(self(view)).float(), expected.float()).mean()

    def after_step(self):
        steps = self.trainer.estimated_stepping_batches
        self.target.update(cosine_decay(self.hparams.decay, self.global_step, steps))
'''
FIT = [
    "fit", "--trainer.callbacks", "null", "--model", "OwnBYOL", "--data", "ShapesDataModule",
    "--data.image_size", "28", "--data.num_images", "100", "--trainer.accelerator", "cpu",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
RUN = [
    *FIT, "--model.backbone", "conv4", "--data.batch_size", "16", "--trainer.max_epochs", "3",
    "--checkpoint.every_n_steps", "1", "--trainer.callbacks+=Augmentation", "--trainer.callbacks.policy", "symbols",
]  # fmt: skip


@pytest.fixture
def root(in_tmp: Path) -> Path:
    (in_tmp / "byol.py").write_text(BYOL)
    (in_tmp / "killer.py").write_text(CALLBACKS)
    return in_tmp


def test_killed_at_step_7(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in eval mode")
        main([*RUN, "--trainer.default_root_dir", str(root / "whole")])
    killed = [*RUN, "--trainer.default_root_dir", str(root / "killed")]
    run_until_killed([*killed, "--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=7"])
    assert final(root / "killed")["global_step"] == 7
    main([*killed, "--ckpt_path", "last"])
    assert final(root / "killed")["global_step"] == 15
    assert_same_end(root / "killed", root / "whole")
    state = final(root / "whole")["state_dict"]
    differing = [key for key in state if key.startswith("target.") and not torch.equal(state[key], state[key[7:]])]
    assert "target.backbone.body.blocks.0.0.weight" in differing
    # What was learned is the part of the file that a later run starts from.
    path = root / "whole" / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    taken = create_backbone("conv4", weights=f"{path}:target").state_dict()
    assert all(torch.equal(value, state[f"target.backbone.{key}"]) for key, value in taken.items())


def test_two_processes_are_one(root: Path) -> None:
    """Without BatchNorm they learn what one learns from their joined batches, and so do their averages."""
    fit = [
        *FIT, "--model.backbone", "lenet", "--model.optimizer", "sgd", "--model.lr", "0.01", "--trainer.max_epochs",
        "1", "--trainer.limit_val_batches", "0", "--trainer.logger", "false",
    ]  # fmt: skip
    found: dict[str, Any] = {}
    for ranks, name, options in (
        (1, "one", ["--data.batch_size", "16"]),
        (2, "two", ["--data.batch_size", "8", "--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ):
        for rank in run_program([*fit, *options, "--trainer.default_root_dir", str(root / name)], root, ranks):
            assert rank.returncode == 0, rank.stderr
        found[name] = torch.load(root / name / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["one"]["global_step"] == found["two"]["global_step"] == 5
    for key, value in found["one"]["state_dict"].items():
        torch.testing.assert_close(found["two"]["state_dict"][key], value, rtol=0, atol=2e-5, msg=key)
