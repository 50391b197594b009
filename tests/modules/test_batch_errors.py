"""One-line explanations of errors caused by a batch; other errors are not changed."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv import SimCLRModule
from lit_cv.cli import console
from lit_cv.modules.batch_errors import explain_batch, explain_local_size
from lit_cv.nn import create_backbone

IMAGE, LABEL = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
EPISODE = {"support": {"label": LABEL}, "query": {"image": IMAGE, "label": LABEL}}


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        ((IMAGE, LABEL), TypeError(), "M needs batches that are dicts, .*, but this one is a tuple: return dicts"),
        ({"label": LABEL}, KeyError("image"), "M needs batches with `image`, but this one has label.$"),
        ({}, KeyError("image"), "M needs batches with `image`, but this one has nothing.$"),
        (EPISODE, KeyError("image"), r"with `image`, but this one has support \(label\), query \(image, label\).$"),
        ({"image": IMAGE.int()}, TypeError(), r"`image` of uint8 or float in \[0, 1\], but this batch has torch.int32"),
        ({"image": IMAGE, "label": LABEL.bool()}, RuntimeError(), "`label` of int64 .*, but this batch has torch.bool"),
        ({"image": IMAGE, "boxes": [LABEL]}, RuntimeError(), "`boxes` of float, but this batch has torch.int64"),
        ({"source": {"image": IMAGE.long()}}, TypeError(), "`image` of uint8"),
    ],
)
def test_error_names_class_and_entry(batch: Any, error: Exception, text: str) -> None:
    line = explain_batch("M", batch, error)
    assert line is not None
    assert re.search(text, line)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ({"image": IMAGE, "label": LABEL}, RuntimeError("out of memory")),
        ({"image": IMAGE.float(), "label": torch.eye(2)}, ValueError()),
        ({"image": IMAGE, "name": LABEL.bool()}, ValueError()),
        ({"image": IMAGE, "boxes": []}, KeyError(0)),
        ({"image": IMAGE}, KeyError("image")),
    ],
)
def test_other_errors_are_not_explained(batch: Any, error: Exception) -> None:
    assert explain_batch("M", batch, error) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "side", "text"),
    [
        ("vit_micro_p8", 12, "vit_micro_p8 supports local views of 16x16 pixels, not 12x12: change `local_size`"),
        ("timm/vit_tiny_patch16_224", 20, "patch16_224 supports local views of 16x16 pixels, not 20x20"),
        ("vit_b_16", 16, "vit_b_16 does not support local views of 16x16 pixels, nor of .*, or change the backbone"),
    ],
)
def test_error_names_size_of_local_views(backbone: str, side: int, text: str) -> None:
    with torch.device("meta"):
        network = create_backbone(backbone, image_size=64)
    views = {"views": torch.empty(2, 2, 3, 64, 64, device="meta")}
    line = explain_local_size(network, views | {"local_views": torch.empty(6, 2, 3, side, side, device="meta")})
    assert line is not None
    assert re.search(text, line)
    assert "\n" not in line
    assert explain_local_size(network, views | {"local_views": views["views"]}) is None
    assert explain_local_size(network, views) is None


class LocalModule(SimCLRModule):
    def step(self, batch: Any, stage: Any) -> Any:
        return {"loss": self.backbone(batch["local_views"].flatten(0, 1)).square().mean()}


def test_step_reports_size_of_local_views() -> None:
    module = LocalModule(backbone="vit_micro_p8", image_size=32, in_channels=3)
    module.configure_model()
    batch = {"views": torch.zeros(2, 2, 3, 32, 32), "local_views": torch.zeros(2, 2, 3, 12, 12)}
    with pytest.raises(ValueError, match="supports local views of 16x16 pixels, not 12x12"):
        module.training_step(batch, 0)


TUPLES = """
import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class TuplesDataModule(L.LightningDataModule):
    num_classes, in_channels, image_size = 2, 3, (8, 8)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2), batch_size=4)

    val_dataloader = train_dataloader
"""


def test_cli_error_is_one_line(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "tuples.py").write_text(TUPLES)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4"]
    monkeypatch.setattr(sys, "argv", ["lit-cv", "fit", *model, "--data", "TuplesDataModule", *quiet])
    with pytest.raises(SystemExit) as error:
        console()
    line = r"lit-cv: error: SupervisedModule needs batches .* dicts, .*is a list: return dicts from the DataModule\."
    assert re.fullmatch(line, str(error.value))
