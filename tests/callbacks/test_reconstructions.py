from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_cv.callbacks.reconstructions as module
from lit_cv.callbacks import Reconstructions
from tests.callbacks.classifier import Batches, Data, Oracle, board, run_trainer, train_batches

pytestmark = pytest.mark.draws


class Reconstructor(Oracle):
    """Hides the left half of each image and reconstructs it in black, and the right half a little darker."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, bool, bool]] = []

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append((len(images), self.training, torch.is_grad_enabled()))
        hidden = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
        hidden[..., :2] = True
        return torch.where(hidden, 0.0, images / 255 * 0.9), hidden


class Broken(Reconstructor):
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("on purpose")


def validation(n: int = 5) -> Batches:
    image = torch.full((n, 3, 4, 4), 200, dtype=torch.uint8)
    image[:, :, 0, 0] = torch.arange(n, dtype=torch.uint8)[:, None] % 4
    batch = {"image": image, "label": torch.zeros(n, dtype=torch.int64)}
    return Batches(batch, batch)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    draw = module.image_grid

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs))
        return draw(*args, **kwargs)

    monkeypatch.setattr(module, "image_grid", spy)
    return calls


def test_four_rows_of_last_validation(tmp_path: Path, drawn: list[Any]) -> None:
    model = Reconstructor()
    run_trainer(tmp_path / "run", [Reconstructions(n=3)], max_epochs=2).fit(
        model, datamodule=Data(train_batches(), validation())
    )
    assert model.asked == [(3, False, False)] * 2
    ((rows, titles, heading, options),) = drawn
    assert options == {"columns": 3}
    assert heading.endswith("epoch 2")
    assert [title for title in titles if title] == ["original", "masked", "reconstruction", "pasted"]
    assert rows.shape == (12, 3, 4, 4)
    original, masked, rebuilt, pasted = rows.view(4, 3, 3, 4, 4)[:, 1, 0]
    seen, hidden = slice(2, None), slice(None, 2)
    torch.testing.assert_close(original[0], torch.tensor([0, 200, 200, 200]) / 255)  # the second batch's first image
    assert (masked[:, hidden] == 0.5).all()
    assert torch.equal(masked[:, seen], original[:, seen])
    assert (rebuilt[:, hidden] == 0).all()
    torch.testing.assert_close(rebuilt[:, seen], original[:, seen] * 0.9)
    assert (pasted[:, hidden] == 0).all()
    assert torch.equal(pasted[:, seen], original[:, seen])
    assert (tmp_path / "run" / "reconstructions.png").is_file()
    assert [event.step for event in board(tmp_path / "run").Images("val/reconstructions")] == [6]


def test_drawn_during_training(tmp_path: Path, drawn: list[Any]) -> None:
    figures = Reconstructions(every_n_seconds=0)
    run_trainer(tmp_path / "run", [figures], max_epochs=3).fit(
        Reconstructor(), datamodule=Data(train_batches(), validation())
    )
    assert len(drawn) == 3


def test_no_figure_for_other_modules(tmp_path: Path, drawn: list[Any]) -> None:
    run_trainer(tmp_path / "run", [Reconstructions()]).fit(Oracle(), datamodule=Data(train_batches(), validation()))
    assert not drawn
    assert not (tmp_path / "run" / "reconstructions.png").exists()


def test_error_does_not_end_the_run(tmp_path: Path, drawn: list[Any]) -> None:
    trainer = run_trainer(tmp_path / "run", [Reconstructions()])
    trainer.fit(Broken(), datamodule=Data(train_batches(), validation()))
    assert trainer.current_epoch == 2
    assert not drawn


def test_error_names_argument() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Reconstructions(n=0)
    with pytest.raises(ValueError, match="every_n_seconds=-1"):
        Reconstructions(every_n_seconds=-1)
