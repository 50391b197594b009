import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import lit_cv.callbacks.classification_figures as module
from lit_cv import MultiTaskModule
from lit_cv.callbacks import ClassificationFigures
from lit_cv.callbacks.error_counts import ErrorCounts, MultiLabelCounts, WorstImages
from tests.callbacks.classifier import Batches, Data, Oracle, board, images_predicting, run_trainer, train_batches

pytestmark = pytest.mark.draws

NAMES = ["ant", "bee", "cat", "dog"]


def validation() -> Batches:
    first = {"image": images_predicting([0, 1, 2, 3, 3], [2, 2, 2, 9, 2]), "label": torch.tensor([0, 1, 1, 0, 3])}
    second = {"image": images_predicting([1, 2], [5, 2]), "label": torch.tensor([2, -1])}
    return Batches(first, second)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Arguments of all figures drawn."""
    calls: dict[str, list[Any]] = {"confusion_figure": [], "image_grid": [], "precision_recall_figure": []}
    for name, made in calls.items():
        draw = getattr(module, name)

        def spy(*args: Any, made: list[Any] = made, draw: Any = draw) -> Any:
            made.append(args)
            return draw(*args)

        monkeypatch.setattr(module, name, spy)
    return calls


def test_best_epoch_is_drawn_once(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    folder = tmp_path / "run"
    trainer = run_trainer(folder, [ClassificationFigures(n_wrong=3)], max_epochs=3)
    trainer.fit(Oracle(scores=[0.3, 0.6, 0.5]), datamodule=Data(train_batches(), validation(), NAMES))
    ((matrix, names, heading),) = drawn["confusion_figure"]
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert names == NAMES
    assert "epoch 2" in heading
    ((images, titles, _, colors),) = drawn["image_grid"]
    assert images[:, 0, 0, 0].tolist() == [3, 1, 2]  # losses about 9, 5 and 2.2
    assert titles == ["ant\n→ dog (100 %)", "cat\n→ bee (98 %)", "bee\n→ cat (71 %)"]
    assert len(set(colors)) == 1
    for name in ("confusion_matrix", "most_wrong"):
        assert (folder / f"{name}.png").is_file()
        assert [event.step for event in board(folder).Images(f"val/{name}")] == [6]
    texts = [f"val/{name}/text_summary" for name in ("confusion_counts", "class_metrics", "highest_losses")]
    assert [event.step for text in texts for event in board(folder).Tensors(text)] == [6, 6, 6]


class Named(Batches):
    """Batches of a dataset whose images have names."""

    dataset = SimpleNamespace(sample_name="photo {}.jpg".format)


def read(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_tables(tmp_path: Path) -> None:
    batches = [{**batch, "index": 10 * n + torch.arange(len(batch["label"]))} for n, batch in enumerate(validation())]
    trainer = run_trainer(tmp_path, [ClassificationFigures(n_wrong=4)], max_epochs=1)
    trainer.fit(Oracle(), datamodule=Data(train_batches(), Named(*batches), NAMES))
    assert read(tmp_path / "confusion_counts.csv") == [
        ["true / predicted", *NAMES], ["ant", "1", "0", "0", "1"], ["bee", "0", "1", "1", "0"],
        ["cat", "0", "1", "0", "0"], ["dog", "0", "0", "0", "1"],
    ]  # fmt: skip
    target, predicted = torch.tensor([0, 1, 1, 0, 3, 2]), torch.tensor([0, 1, 2, 3, 3, 1])
    scores = precision_recall_fscore_support(target, predicted, zero_division=0)
    columns, *rows = read(tmp_path / "class_metrics.csv")
    assert columns == ["class", "images", "predicted", "correct", "recall", "precision", "f1"]
    for k, key in enumerate(("precision", "recall", "f1", "images")):
        assert [float(row[columns.index(key)]) for row in rows] == pytest.approx(scores[k].tolist(), abs=1e-6)
    losses = read(tmp_path / "highest_losses.csv")
    assert [row[:3] for row in losses] == [
        ["image", "true", "predicted"], ["photo 3.jpg", "ant", "dog"], ["photo 10.jpg", "cat", "bee"],
        ["photo 2.jpg", "bee", "cat"], ["photo 0.jpg", "ant", "ant"],
    ]  # fmt: skip
    loss = F.cross_entropy(torch.tensor([0.0, 0, 0, 9]), torch.tensor(0))
    assert float(losses[1][4]) == pytest.approx(float(loss), abs=1e-5)


def test_new_best_epoch_is_drawn_immediately(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    figures = ClassificationFigures(every_n_seconds=0)
    trainer = run_trainer(tmp_path / "run", [figures], max_epochs=4)
    trainer.fit(Oracle(scores=[0.3, 0.2, 0.6, 0.5]), datamodule=Data(train_batches(), validation()))
    assert len(drawn["confusion_figure"]) == 2


def test_best_epoch_is_drawn_after_interrupt(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    model = Oracle(scores=[0.3, 0.2])
    model.fail_at = (7, RuntimeError)
    trainer = run_trainer(tmp_path / "run", [ClassificationFigures()], max_epochs=4)
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.fit(model, datamodule=Data(train_batches(), validation()))
    assert len(drawn["image_grid"]) == 1
    assert "epoch 1" in drawn["confusion_figure"][0][2]
    assert [event.step for event in board(tmp_path / "run").Images("val/most_wrong")] == [
        3
    ]  # not step 0 of the sanity check


def test_best_value_is_restored_only_with_its_figures(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ClassificationFigures()
    data = Data(train_batches(), validation())
    run_trainer(folder, [first], max_epochs=1).fit(Oracle(scores=[0.7]), datamodule=data)
    stamp = (folder / "most_wrong.png").stat().st_mtime_ns
    for other, changed in ((folder, False), (tmp_path / "other", True)):
        again = ClassificationFigures()
        again.load_state_dict(first.state_dict())
        run_trainer(other, [again], max_epochs=1).fit(Oracle(scores=[0.6]), datamodule=data)
        assert ((other / "most_wrong.png").stat().st_mtime_ns != stamp) is changed


def test_multi_label_draws_precision_and_recall(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    batch = {
        "image": images_predicting([0, 1, 1], [2, 2, 2]),
        "label": torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]),
    }
    trainer = run_trainer(tmp_path / "run", [ClassificationFigures(n_wrong=1)], max_epochs=1)
    trainer.fit(Oracle(), datamodule=Data(train_batches(), Batches(batch), NAMES))
    assert drawn["precision_recall_figure"][0][0].tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [2, 1, 0, 1]]
    assert drawn["image_grid"][0][1] == ["ant\n→ bee"]
    assert (tmp_path / "run" / "precision_recall.png").is_file()
    assert not drawn["confusion_figure"]
    assert [row[1:5] for row in read(tmp_path / "run" / "class_metrics.csv")[1:]] == [
        ["2", "1", "1", "0.5"], ["1", "2", "1", "1.0"], ["0", "0", "0", ""], ["1", "0", "0", "0.0"],
    ]  # fmt: skip
    assert read(tmp_path / "run" / "highest_losses.csv")[1][:4] == ["", "ant", "bee", ""]


def test_images_returned_by_the_step_are_shown(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    class Rotating(Oracle):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return super().validation_step(batch, batch_idx) | {"images": batch["image"].flip(3)}

    trainer = run_trainer(tmp_path / "run", [ClassificationFigures(n_wrong=3)], max_epochs=1)
    trainer.fit(Rotating(), datamodule=Data(train_batches(), validation()))
    ((images, *_),) = drawn["image_grid"]
    assert images[:, 0, 0, -1].tolist() == [3, 1, 2]


def test_no_figures_for_other_modules_or_without_loggers(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    class Silent(Oracle):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": torch.zeros(())}

    data = Data(train_batches(), validation())
    run_trainer(tmp_path / "a", [ClassificationFigures()]).fit(Silent(), datamodule=data)
    run_trainer(tmp_path / "b", [ClassificationFigures()], logger=False).fit(Oracle(), datamodule=data)
    run_trainer(tmp_path / "c", [ClassificationFigures()], fast_dev_run=True).fit(Oracle(), datamodule=data)
    run_trainer(tmp_path / "d", [ClassificationFigures()]).validate(Oracle(), datamodule=data)
    assert not any(drawn.values())


def test_counts_match_an_independent_implementation() -> None:
    generator = torch.Generator().manual_seed(0)
    counts, logits, labels = ErrorCounts(7, torch.device("cpu")), [], []
    for size in (32, 1, 19):
        logits.append(torch.randn(size, 7, generator=generator))
        labels.append(torch.randint(0, 7, (size,), generator=generator))
        counts.update(logits[-1], labels[-1])
    expected = confusion_matrix(torch.cat(labels), torch.cat(logits).argmax(1), labels=range(7))
    assert counts.matrix.tolist() == expected.tolist()


def test_zero_logit_is_not_predicted() -> None:
    counts = MultiLabelCounts(2, torch.device("cpu"))
    counts.update(torch.tensor([[0.0, 1.0], [-1.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert counts.table.tolist() == [[0, 1], [0, 2], [1, 1]]


def test_worst_images_over_all_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8, generator=generator)
    logits = 3 * torch.randn(60, 5, generator=generator)
    labels = torch.randint(0, 5, (60,), generator=generator)
    worst = WorstImages(6)
    for part in torch.arange(60).split(13):
        worst.update(images[part], logits[part], labels[part])
    worst.update(torch.zeros(2, 3, 8, 8), logits[:2], labels[:2])  # another size: skipped
    order = F.cross_entropy(logits, labels, reduction="none").argsort(descending=True)[:6]
    assert worst.images is not None
    assert torch.equal(worst.images, images[order])
    assert torch.equal(worst.targets, labels[order])
    assert torch.allclose(worst.scores, logits[order].softmax(1))


def test_error_names_argument() -> None:
    with pytest.raises(ValueError, match="n_wrong=0"):
        ClassificationFigures(n_wrong=0)
    with pytest.raises(ValueError, match="every_n_seconds"):
        ClassificationFigures(every_n_seconds=-1)


def test_class_names_of_the_task(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    class Task(Oracle):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {**super().validation_step(batch, batch_idx), "class_names": ["red", "green", "blue", "white"]}

    trainer = run_trainer(tmp_path / "run", [ClassificationFigures()], max_epochs=1)
    trainer.fit(Task(scores=[0.3]), datamodule=Data(train_batches(), validation(), NAMES))
    ((_, names, _),) = drawn["confusion_figure"]
    assert names == ["red", "green", "blue", "white"]


def test_multi_task_module_returns_class_names() -> None:
    task = {"type": "classification", "num_classes": 3, "key": "color"}
    model = MultiTaskModule({"color": task}, backbone="conv4")
    model.trained_classes = {"class_names": ["ball", "box", "cone"], "color_classes": ["red", "green", "blue"]}
    batch = {"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "color": torch.tensor([0, 2])}
    assert model.step(batch, "val")["class_names"] == ["red", "green", "blue"]
