import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from lit_cv.callbacks import PredictionWriter
from lit_cv.callbacks.prediction_rows import RowFile
from lit_cv.callbacks.prediction_table import ClassTable
from lit_cv.tasks import ClassificationTask, MultiLabelTask


class Dataset:
    def sample_name(self, index: int) -> str:
        return f"folder, with comma/{index}.jpg"


class Loader:
    def __init__(self, batches: list[dict[str, Tensor]], named: bool) -> None:
        self.batches = batches
        if named:
            self.dataset = Dataset()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)


class Echo(L.LightningModule):
    """Predicts what the batch contains."""

    def __init__(self, multi_label: bool = False, class_names: list[str] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters("multi_label")
        self.class_names = class_names

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return batch


def predict(
    folder: Path, model: Echo, batches: list[dict[str, Tensor]], named: bool = False, **kwargs: Any
) -> list[list[str]]:
    writer = PredictionWriter(str(folder), **kwargs)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(model, Loader(batches, named))
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


FIRST = {"probabilities": torch.tensor([[0.75, 0.25], [0.125, 0.875]]), "index": torch.tensor([2, 0])}
SECOND = {"probabilities": torch.tensor([[0.5, 0.5]]).sub(torch.tensor([0.0, 0.25])), "index": torch.tensor([1])}


def test_rows_are_in_dataset_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = predict(tmp_path / "new", Echo(class_names=["cat", "ärger"]), [FIRST, SECOND], named=True)
    assert rows[0] == ["image", "predicted", "probability", "p_cat", "p_ärger"]
    assert rows[1] == ["folder, with comma/0.jpg", "ärger", "0.875000", "0.125000", "0.875000"]
    assert rows[2] == ["folder, with comma/1.jpg", "cat", "0.500000", "0.500000", "0.250000"]
    assert rows[3] == ["folder, with comma/2.jpg", "cat", "0.750000", "0.750000", "0.250000"]
    assert str(tmp_path / "new" / "predictions.csv") in caplog.text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["predictions.csv"]


def test_positions_replace_missing_index_and_names(tmp_path: Path) -> None:
    batches = [{"probabilities": b["probabilities"]} for b in (FIRST, SECOND)]
    rows = predict(tmp_path, Echo(), batches)
    assert rows[0][0] == "index"
    assert [row[:2] for row in rows[1:]] == [["0", "0"], ["1", "1"], ["2", "0"]]


def test_many_classes_write_top_five(tmp_path: Path) -> None:
    probabilities = torch.zeros(1, 30)
    probabilities[0, [7, 3, 29, 0, 11]] = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    rows = predict(tmp_path, Echo(), [{"probabilities": probabilities}])
    assert rows[0][3:5] == ["top2", "top2_probability"]
    assert rows[1][:5] == ["0", "7", "0.400000", "3", "0.300000"]
    assert rows[1][-2:] == ["11", "0.050000"]
    assert len(rows[0]) == len(rows[1]) == 11


def test_multi_label_joins_labels(tmp_path: Path) -> None:
    probabilities = torch.tensor([[0.9, 0.1, 0.6], [0.1, 0.2, 0.3]])
    model = Echo(multi_label=True, class_names=["a", "b", "c"])
    rows = predict(tmp_path, model, [{"probabilities": probabilities}])
    assert rows[1] == ["0", "a|c", "0.900000", "0.900000", "0.100000", "0.600000"]
    assert rows[2][1:3] == ["", "0.300000"]


def test_ranks_are_merged_without_padding(tmp_path: Path) -> None:
    table = ClassTable(2)
    first, second = (RowFile(tmp_path / "predictions.csv", table.columns("index"), rank) for rank in (0, 1))
    for file, positions, probabilities in (
        (first, [0, 2], [[0.9, 0.1], [0.2, 0.8]]),
        (second, [1, 0], [[0.7, 0.3], [0.9, 0.1]]),
    ):
        file.add(positions, *table.rows(torch.tensor(probabilities), [str(position) for position in positions]))
    first.finish(tmp_path / "predictions.csv", [second.record()])
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[1] == "0,0,0.900000,0.900000,0.100000"
    assert lines[2] == "1,0,0.700000,0.700000,0.300000"
    assert lines[3:] == ["2,1,0.800000,0.200000,0.800000"]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_error_for_predict_step_without_probabilities(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Echo.predict_step returned a dict with \['image'\]: .* `probabilities` "):
        predict(tmp_path, Echo(), [{"image": torch.zeros(1)}])


def test_embeddings_are_in_dataset_order(tmp_path: Path) -> None:
    batches = [
        {"embedding": torch.tensor([[2.0, 2.5], [0.0, 0.5]]), "index": torch.tensor([2, 0])},
        {"embedding": torch.tensor([[1.0, 1.5], [2.0, 2.5]]), "index": torch.tensor([1, 2])},  # the last one is padding
    ]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[PredictionWriter(str(tmp_path))]
    )
    loader = Loader(batches, named=True)
    loader.dataset.labels = torch.tensor([7, -1, 9])  # type: ignore[attr-defined]
    trainer.predict(Echo(), loader)
    with np.load(tmp_path / "embeddings.npz") as arrays:
        np.testing.assert_array_equal(arrays["embedding"], np.array([[0, 0.5], [1, 1.5], [2, 2.5]], dtype=np.float32))
        assert arrays["image"].tolist() == [f"folder, with comma/{i}.jpg" for i in range(3)]
        assert arrays["label"].tolist() == [7, -1, 9]


def test_values_are_in_dataset_order(tmp_path: Path) -> None:
    batches = [
        {"values": torch.tensor([[2.5], [0.5]]), "index": torch.tensor([2, 0])},
        {"values": torch.tensor([[-1.25], [2.5]]), "index": torch.tensor([1, 2])},
    ]
    assert predict(tmp_path, Echo(), batches) == [["index", "value"], ["0", "0.5"], ["1", "-1.25"], ["2", "2.5"]]


def test_several_values_are_numbered(tmp_path: Path) -> None:
    batch = {"size_values": torch.tensor([[1.0, 2.0]]), "kind_probabilities": torch.tensor([[0.25, 0.75]])}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[PredictionWriter(str(tmp_path))]
    )
    trainer.predict(Echo(), Loader([batch], named=True))
    assert (tmp_path / "predictions_size.csv").read_text().splitlines()[0] == "image,size_0,size_1"
    assert (tmp_path / "predictions_kind.csv").read_text().splitlines()[0] == "image,predicted,probability,p_0,p_1"


@pytest.mark.parametrize(("format", "warned"), [("coco", False), ("voc", True)])
def test_warning_for_box_format_without_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format: Any, warned: bool
) -> None:
    predict(tmp_path, Echo(), [FIRST], format=format)
    assert ("`format='voc'` has no effect" in caplog.text) == warned


def test_existing_files_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    batch = {**FIRST, "embedding": torch.zeros(2, 3)}
    predict(tmp_path, Echo(), [batch])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"predictions.csv", "embeddings.npz"}
    (tmp_path / "predictions.csv").write_text("corrected")
    predict(tmp_path, Echo(), [batch])
    assert (tmp_path / "predictions.csv").read_text() == "corrected"
    assert (tmp_path / "predictions_1.csv").read_bytes() == before["predictions.csv"]
    assert f"{tmp_path / 'predictions_1.csv'} (predictions.csv exists and was not overwritten)" in caplog.text
    assert (tmp_path / "embeddings_1.npz").is_file()
    predict(tmp_path, Echo(), [batch])
    assert (tmp_path / "predictions_2.csv").is_file()


def test_classes_of_each_task(tmp_path: Path) -> None:
    model = Echo(class_names=["ball", "box", "cone"])
    model.tasks = {  # type: ignore[assignment]
        "shape": ClassificationTask("shape", num_classes=3),
        "color": ClassificationTask("color", num_classes=3, key="color"),
        "marks": MultiLabelTask("marks", num_classes=3, key="marks"),
        "spots": MultiLabelTask("spots", num_classes=3, key="spots"),  # without class names
    }
    model.trained_classes = {  # type: ignore[assignment]
        "class_names": ["ball", "box", "cone"], "color_classes": ["red", "green", "blue"], "marks_classes": list("xyz"),
    }  # fmt: skip
    probabilities = torch.tensor([[0.6, 0.7, 0.1]])
    writer = PredictionWriter(str(tmp_path))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(model, Loader([{f"{task}_probabilities": probabilities for task in model.tasks}], named=False))
    predicted = {}
    for task in model.tasks:
        with open(tmp_path / f"predictions_{task}.csv", newline="") as file:
            predicted[task] = next(csv.DictReader(file))["predicted"]
    assert predicted == {"shape": "box", "color": "green", "marks": "y|x", "spots": "1|0"}
