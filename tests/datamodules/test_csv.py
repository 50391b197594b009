from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import CSVDataModule
from tests.datamodules.files import save_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_images(tmp_path / "images", 20)
    return tmp_path


def write(root: Path, header: str, rows: list[str], name: str = "table.csv", encoding: str = "utf-8") -> Path:
    path = root / name
    lines = [f"images/{index:02}.png{',' if name.endswith('csv') else chr(9)}{row}" for index, row in enumerate(rows)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
    return path


def module(path: Path, **kwargs: Any) -> CSVDataModule:
    data = CSVDataModule(str(path), **{"image_size": 8, "num_workers": 0, "batch_size": 4} | kwargs)
    data.prepare_data()
    data.setup()
    return data


def sizes(data: CSVDataModule) -> list[int]:
    return [len(part or []) for part in (data.train_dataset, data.val_dataset, data.test_dataset)]


def test_a_table_without_splits(root: Path) -> None:
    path = write(root, "path,label", ["10", "9"] * 10, encoding="utf-8-sig")
    data = module(path, val_fraction=0.25, test_fraction=0.2)
    assert sizes(data) == [12, 4, 4]
    assert data.class_names == ["9", "10"]  # numbers in their order
    for index in range(12):
        row = int(data.train_dataset.sample_name(index)[7:9])
        assert data.class_names[int(data.train_dataset.labels[index])] == ("9" if row % 2 else "10")
    assert data.train_dataset[0]["image"].shape == (3, 8, 8)


def test_a_table_with_splits_and_unlabeled_rows(root: Path) -> None:
    rows = ["a,train"] * 6 + ["b,Train"] * 6 + [",train"] * 2 + ["a,valid"] * 2 + ["b,test"] * 2 + [",predict"] * 2
    data = module(write(root, "path,label,split", rows), val_fraction=0.5)
    assert sizes(data) == [12, 2, 2]
    assert len(data.unlabeled_dataset) == 14
    assert len(data.predict_dataset or []) == 2
    assert data.class_names == ["a", "b"]


def test_other_columns_and_tabs(root: Path) -> None:
    path = write(root / "images", "file\tkind", ["x", "y"] * 10, "table.tsv")
    data = module(path, root=str(root), path_column="file", label_columns=["kind"])
    assert data.class_names == ["x", "y"]


def test_several_labels_in_one_column(root: Path) -> None:
    path = write(root, "path,label", ["red|round", "round", "", "red | big"] * 5)
    data = module(path, label_separator="|", val_fraction=0.0, test_fraction=0.0)
    assert data.multi_label
    assert data.class_names == ["big", "red", "round"]
    assert data.train_dataset.labels[:4].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert next(iter(data.train_dataloader()))["label"].dtype == torch.float32


def test_several_label_columns(root: Path) -> None:
    path = write(root, "path,red,round", ["1,0", "true,1", "0,0"] * 6)
    data = module(path, label_columns=["red", "round"], val_fraction=0.0, test_fraction=0.0)
    assert data.class_names == ["red", "round"]
    assert data.train_dataset.labels[:3].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert data.class_counts().tolist() == [12, 6]


def test_missing_images(root: Path) -> None:
    path = write(root, "path,label", ["a", "b"] * 12)
    with pytest.raises(FileNotFoundError, match=r"4 of 24 images are not in .*'images/20\.png' first.*--data\.root"):
        module(path)
    data = module(path, on_error="skip", val_fraction=0.0, test_fraction=0.0)
    assert sizes(data) == [20, 0, 0]


@pytest.mark.parametrize(
    ("header", "row", "kwargs", "message"),
    [
        ("file,label", "a", {}, r"no column 'path' \(--data.path_column\)"),
        ("path,labels", "a", {}, r"no column 'label' \(--data.label_columns\): did you mean 'labels'"),
        ("path,label,split", "a,dev", {}, "'dev': allowed are train, val, test and predict"),
        ("path,a,b", "1,2", {"label_columns": ["a", "b"]}, "'2'.*holds 0 or 1"),
    ],
)
def test_a_table_that_does_not_fit(root: Path, header: str, row: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(write(root, header, [row] * 20), **kwargs)


def test_classes_without_training_images(root: Path) -> None:
    path = write(root, "path,label,split", ["a,train"] * 10 + ["z,test"] * 10)
    with pytest.raises(ValueError, match=r"test rows of .* classes without training images: z"):
        module(path)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table .*--data\.path"):
        module(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="has no rows"):
        module(tmp_path / "empty.csv")
