"""Figure of both domains: its contents, and its file in the run's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lit_cv.callbacks.domain_embedding as domain_embedding
from lit_cv.callbacks import DomainEmbedding
from lit_cv.cli import main
from lit_cv.figures import map_embedding

pytestmark = pytest.mark.draws

FIT = [
    "fit", "--model", "DomainAdversarialModule", "--model.backbone", "conv4", "--data", "DomainAdaptationDataModule",
    "--data.source", "DigitsDataModule", "--data.target", "DigitsDataModule", "--data.target.val_fraction", "0.2",
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--trainer.callbacks+=DomainEmbedding", "--trainer.callbacks.n", "40", "--trainer.callbacks.method", "pca",
]  # fmt: skip


@pytest.mark.slow
def test_fit_draws_both_domains_before_and_after(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    draw = domain_embedding.domain_figure
    monkeypatch.setattr(domain_embedding, "domain_figure", lambda *args: drawn.append(args) or draw(*args))
    cli = main(FIT)
    assert cli is not None
    (maps, names, _), *_ = drawn
    assert [shown.title for shown in maps] == ["before training", "after 2 steps"]
    assert names == [str(digit) for digit in range(10)]
    for shown in maps:
        assert shown.places.shape == (80, 2)
        assert np.bincount(shown.domains).tolist() == [40, 40]
    data = cli.datamodule
    chosen = np.linspace(0, len(data.val_dataset) - 1, 40).astype(int)
    assert maps[0].labels[40:].tolist() == data.val_dataset.labels[chosen].tolist()
    dataset = [part.__getitems__(np.linspace(0, len(part) - 1, 40).astype(int).tolist())["image"]
               for part in (data.source_val_dataset, data.val_dataset)]  # fmt: skip
    with torch.no_grad():
        embedding = cli.model.eval().embed(torch.cat(dataset))
    np.testing.assert_allclose(maps[1].places, map_embedding(embedding.numpy(), "pca"), atol=1e-4)
    figure = Image.open(in_tmp / "lightning_logs" / "version_0" / "domain_embedding.png")
    assert len(figure.convert("RGB").getcolors(1 << 20) or []) > 100


def test_map_is_deterministic() -> None:
    points = np.random.RandomState(0).randn(40, 5).astype(np.float32)
    for method in ("tsne", "pca"):
        first, again = map_embedding(points, method), map_embedding(points, method)
        assert first.shape == (40, 2)
        assert np.array_equal(first, again)


def test_initial_embedding_is_in_checkpoints() -> None:
    callback, other = DomainEmbedding(), DomainEmbedding()
    callback._before = {"places": torch.zeros(2, 2)}
    other.load_state_dict(callback.state_dict())
    assert other._before is callback._before
    with pytest.raises(ValueError, match="n=1"):
        DomainEmbedding(n=1)
    with pytest.raises(ValueError, match="method='umap'"):
        DomainEmbedding(method="umap")  # type: ignore[arg-type]
