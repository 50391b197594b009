from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_cv import EmbeddingProjector
from lit_cv.callbacks.embedding_projector import _sprites
from lit_cv.cli import main


def test_projector_files(in_tmp: Path) -> None:
    options = ["--model", "SimCLRModule", "--model.backbone", "conv4", "--data", "DigitsDataModule"]
    options += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
    options += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    cli = main(["fit", *options, "--trainer.callbacks+=EmbeddingProjector", "--trainer.callbacks.n", "50"])
    assert cli is not None
    folder = in_tmp / "lightning_logs" / "version_0"
    config = (folder / "projector_config.pbtxt").read_text()
    assert "sprite.png" in config
    assert "metadata.tsv" in config
    tensors = next(folder.rglob("tensors.tsv"))
    rows = [line.split("\t") for line in tensors.read_text().splitlines()]
    assert [len(rows), len(rows[0])] == [50, 64]
    labels = (tensors.parent / "metadata.tsv").read_text().splitlines()
    total = len(cli.datamodule.val_dataset)
    spread = [int((k + 0.5) * total / 50) for k in range(50)]
    expected = [cli.datamodule.class_names[label] for label in cli.datamodule.val_dataset.labels[spread]]
    assert labels == expected
    assert Image.open(tensors.parent / "sprite.png").size == (64, 64)  # 8 times 8 images of 8 pixels


def test_sprites_fit_into_one_texture() -> None:
    assert _sprites(torch.zeros(4, 1, 224, 200, dtype=torch.uint8)).shape == (4, 3, 64, 64)
    assert _sprites(torch.zeros(20_000, 3, 2, 2)).shape[2] * 142 <= 8192
    with pytest.raises(ValueError, match="n=1"):
        EmbeddingProjector(n=1)
