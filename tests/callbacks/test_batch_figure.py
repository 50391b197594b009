from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

import lit_cv.callbacks.batch_figure as batch_figure
from lit_cv.callbacks import BatchFigure
from lit_cv.callbacks.batch_figure import _find_images
from tests.callbacks.classifier import Batches, Data, Oracle, board, run_trainer, train_batches

pytestmark = pytest.mark.draws


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of all image grids drawn."""
    calls: list[dict[str, Any]] = []
    draw = batch_figure.image_grid

    def spy(images: torch.Tensor, titles: list[str], heading: str, columns: int) -> Any:
        calls.append({"images": images.clone(), "titles": titles, "heading": heading, "columns": columns})
        return draw(images, titles, heading, columns=columns)

    monkeypatch.setattr(batch_figure, "image_grid", spy)
    return calls


class Brighten(L.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch["image"] = torch.full((4, 1, 4, 4), (trainer.current_epoch + 1) / 10)


def test_first_batch_is_augmented_and_titled(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    folder = tmp_path / "run"
    data = Data(train_batches(), class_names=["a $x$ b", "b", "c", "d"])
    run_trainer(folder, [Brighten(), BatchFigure(n=3)]).fit(Oracle(), datamodule=data)
    assert len(drawn) == 1
    assert drawn[0]["images"].shape == (3, 1, 4, 4)
    assert torch.allclose(drawn[0]["images"], torch.tensor(0.1))
    assert drawn[0]["titles"] == ["a $x$ b", "b", "c"]
    with Image.open(folder / "train_batch.png") as image:
        size = image.size
    events = board(folder).Images("train/batch")
    assert len(events) == 1
    assert (events[0].width, events[0].height) == size


def test_images_returned_by_the_step_are_shown(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    class Rotating(Oracle):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, target = batch["image"].flip(3), torch.tensor([1, 0, 1, 0])
            return super().training_step(batch, batch_idx) | {
                "images": images, "target": target, "logits": torch.zeros(4, 2)
            }  # fmt: skip

    data = Data(train_batches(), class_names=["ant", "bee", "cat", "dog"])
    run_trainer(tmp_path / "run", [BatchFigure()]).fit(Rotating(), datamodule=data)
    assert drawn[0]["images"][:, 0, 0, -1].tolist() == [0, 1, 2, 3]
    assert drawn[0]["titles"] == ["1", "0", "1", "0"]  # the class names belong to other classes


def test_every_n_epochs(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    callbacks = [Brighten(), BatchFigure(every_n_epochs=2)]
    run_trainer(tmp_path / "run", callbacks, max_epochs=4).fit(Oracle(), train_batches())
    assert [round(float(call["images"].max()), 3) for call in drawn] == [0.1, 0.3]


def test_views_are_side_by_side(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    views = torch.stack([torch.full((4, 3, 2, 2), 0.2), torch.full((4, 3, 2, 2), 0.8)])
    batch = {"views": views, "label": torch.tensor([2, 0, 1, 3])}
    run_trainer(tmp_path / "run", [BatchFigure(n=6)]).fit(Oracle(), Batches(batch))
    assert drawn[0]["images"][:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.8] * 3)
    assert drawn[0]["titles"] == ["2", "2", "0", "0", "1", "1"]
    assert drawn[0]["columns"] == 8


@pytest.mark.parametrize(
    "batch",
    [
        {"source": {"image": torch.rand(2, 3, 4, 4), "label": torch.tensor([0, 1])}},
        {"views": [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)]},
        {"image": torch.rand(2, 5, 4, 4)},
        {"image": torch.rand(2, 3, 4, 4), "label": torch.tensor([[0.7, 0.3], [1.0, 0.0]])},
    ],
    ids=["parts", "crops", "no labels, 5 channels", "mixed"],
)
def test_other_batches(tmp_path: Path, drawn: list[dict[str, Any]], batch: dict[str, Any]) -> None:
    run_trainer(tmp_path / "run", [BatchFigure()], max_epochs=1).fit(Oracle(), Batches(batch))
    assert len(drawn) == 1
    assert (tmp_path / "run" / "train_batch.png").is_file()


def test_no_figure_without_loggers_or_in_a_dry_run(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    run_trainer(tmp_path / "a", [BatchFigure()], logger=False).fit(Oracle(), train_batches())
    run_trainer(tmp_path / "b", [BatchFigure()], fast_dev_run=True).fit(Oracle(), train_batches())
    run_trainer(tmp_path / "c", [BatchFigure()], max_epochs=1).fit(Oracle(), Batches({"boxes": torch.ones(1)}))
    assert drawn == []


def test_figure_error_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(batch_figure, "image_grid", fail)
    trainer = run_trainer(tmp_path / "run", [BatchFigure()])
    trainer.fit(Oracle(), train_batches())
    assert trainer.global_step == 6
    assert "no ink" in caplog.text
    assert "the run continues" in caplog.text


def test_error_names_argument() -> None:
    with pytest.raises(ValueError, match="every_n_epochs=-1"):
        BatchFigure(every_n_epochs=-1)
    with pytest.raises(ValueError, match="n=0"):
        BatchFigure(n=0)


def test_boxes_and_masks_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    draw = batch_figure.draw_objects
    monkeypatch.setattr(
        batch_figure, "draw_objects", lambda *args, **kwargs: calls.append(args) or draw(*args, **kwargs)
    )
    batch = {
        "image": torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
        "label": torch.tensor([0, 1, 2, 3]),
        "boxes": [torch.tensor([[1.0, 1, 9, 9]])] * 4,
        "box_labels": [torch.tensor([1])] * 4,
        "mask": torch.zeros(4, 16, 16, dtype=torch.int64),
    }
    data = Data(Batches(batch))
    data.box_classes, data.mask_classes = ["cat", "dog"], ["background", "cat"]
    run_trainer(tmp_path / "run", [BatchFigure(n=3)]).fit(Oracle(), datamodule=data)
    ((images, boxes, _, mask, *names),) = calls
    assert images.shape == (3, 3, 16, 16)
    assert len(boxes) == len(mask) == 3
    assert names == [["cat", "dog"], ["background", "cat"]]
    with Image.open(tmp_path / "run" / "train_batch.png") as image:
        assert image.width > 600


def test_source_and_target_alternate_by_row() -> None:
    source, target = torch.zeros(17, 1, 4, 4), torch.ones(20, 1, 4, 4)
    batch_images = _find_images({"source": {"image": source, "label": torch.arange(17)}, "target": {"image": target}})
    assert batch_images is not None
    images, labels, views = batch_images
    assert images[:, 0, 0, 0].tolist() == ([0.0] * 8 + [1.0] * 8) * 2
    assert labels is not None
    assert labels.tolist() == [*range(8), *[-1] * 8, *range(8, 16), *[-1] * 8]
    assert views == 1


@pytest.mark.parametrize(("side", "local_side", "tiles"), [(32, 16, 2), (28, 12, 2), (32, 20, 6), (8, 8, 6)])
def test_local_views_are_smaller_tiles_beside_their_views(side: int, local_side: int, tiles: int) -> None:
    views = torch.full((2, 3, 3, side, side), 0.5)
    local = (torch.arange(18) / 40).view(6, 3, 1, 1, 1).expand(6, 3, 3, local_side, local_side)
    images_and_labels = _find_images({"views": views, "local_views": local})
    assert images_and_labels is not None
    images, _, count = images_and_labels
    assert (count, len(images)) == (2 + tiles, 3 * (2 + tiles))
    for image, shown in enumerate(images.unflatten(0, (3, -1))):
        assert (shown[:2] == 0.5).sum() == 2 * 3 * side**2
        for crop in local[:, image]:
            assert (shown[2:] == crop[0, 0, 0]).sum() == 3 * local_side**2
        edges = torch.cat([shown[2:, :, 0], shown[2:, :, :, 0], shown[2:, :, -1], shown[2:, :, :, -1]])
        assert (edges == 1).all()
