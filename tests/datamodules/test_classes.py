import json
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest
import torch
from torchvision.utils import save_image

from datamodules import CSVDataModule, DigitsDataModule, ImageFolderDataModule, InMemoryDataset, ShapesDataModule
from datamodules.classes import choose_classes, class_numbers


def test_labels_are_renumbered_in_given_order() -> None:
    whole, data = DigitsDataModule(), DigitsDataModule(classes=[7, 3, "0"], batch_size=8)
    whole.setup()
    data.setup()
    assert (data.num_classes, data.class_names) == (3, ["7", "3", "0"])
    for split in ("train", "val", "test"):
        part, full = getattr(data, f"{split}_dataset"), getattr(whole, f"{split}_dataset")
        assert set(part.labels.tolist()) == {0, 1, 2}
        if split == "test":
            kept = [i for i, label in enumerate(full.labels.tolist()) if label in (7, 3, 0)]
            assert np.array_equal(part.rows, full.rows[kept])
            assert [[7, 3, 0][label] for label in part.labels.tolist()] == full.labels[kept].tolist()
            assert torch.equal(part[5]["image"], full[kept[5]]["image"])
    assert data.class_counts().shape == (3,)
    assert "3 classes" in data.summary()


def test_unlabeled_images_are_kept() -> None:
    dataset = InMemoryDataset(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), [0, -1, 2, 1, -1], ["a", "b", "c"])
    chosen = choose_classes(dataset, [2, 1])
    assert chosen.labels.tolist() == [-1, 0, 1, -1]
    assert chosen.rows.tolist() == [1, 2, 3, 4]
    assert (dataset.class_names, len(dataset)) == (["a", "b", "c"], 5)


def test_with_few_labels_and_other_sources(tmp_path: Path) -> None:
    for name in ("cat", "cow", "dog"):
        (tmp_path / name).mkdir()
        for index in range(8):
            save_image(torch.rand(3, 9, 9), tmp_path / name / f"{index}.png")
    folder = ImageFolderDataModule(
        root=str(tmp_path), classes=["dog", "cat"], labels_per_class=2, image_size=8, num_workers=0
    )
    folder.setup()
    assert folder.class_names == ["dog", "cat"]
    assert folder.class_counts().tolist() == [2, 2]
    names = [folder.train_dataset.sample_name(i).partition("/")[0] for i in range(4)]
    assert [["dog", "cat"][label] for label in folder.train_dataset.labels.tolist()] == names
    shapes = ShapesDataModule(classes=[0, 5])
    shapes.setup()
    assert shapes.num_classes == 2
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{n}/{i}.png,{n}\n" for n in ("cat", "cow", "dog") for i in range(8)))
    csv = CSVDataModule(path=str(table), root=str(tmp_path), classes=["cow"], image_size=8, num_workers=0)
    csv.setup()
    assert csv.class_names == ["cow"]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([10], r"unknown class 10 \(`classes`\)\. The 10 classes, named by numbers: 0, 1"),
        (["sevn"], "unknown class 'sevn'"),
        ([], "must name at least one class, and each class once"),
        ([1, "1"], "each class once"),
    ],
)
def test_error_names_invalid_classes(classes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DigitsDataModule(classes=classes).setup()


@pytest.mark.parametrize("given", ["[2, 3]", '["2", "3"]', "[10, 2]", '["10", 2]'])
def test_numeric_class_names_take_precedence(tmp_path: Path, given: str) -> None:
    for name in range(12):
        (tmp_path / "images" / str(name)).mkdir(parents=True)
        save_image(torch.rand(3, 9, 9), tmp_path / "images" / str(name) / "a.png")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(ImageFolderDataModule, "data")
    arguments = [f"--data.root={tmp_path / 'images'}", f"--data.classes={given}", "--data.image_size=8"]
    config = parser.parse_args(arguments)
    data = parser.instantiate_classes(config).data
    data.setup()
    assert data.class_names == [str(name) for name in json.loads(given)]


def test_numbers_are_positions_without_numeric_names() -> None:
    assert class_numbers([1, 0], ["cat", "dog"]) == [1, 0]
    assert class_numbers([1, "03"], ["03", "02", "01"]) == [2, 0]
    with pytest.raises(ValueError, match=r"unknown class 0 .*named by numbers: 10, 20"):
        class_numbers([0], ["10", "20"])


def test_multi_label_images_are_refused() -> None:
    dataset = InMemoryDataset(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), [[0, 1], [1, 1]], ["a", "b"])
    with pytest.raises(ValueError, match=r"these have several: remove `classes`"):
        choose_classes(dataset, ["a"])


def test_samples_without_their_images() -> None:
    dataset = InMemoryDataset(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 1, 1, 0], ["a", "b"])
    bare = dataset.without_images()
    batch = bare.__getitems__([3, 1])
    assert {name: value.tolist() for name, value in batch.items()} == {"label": [0, 1], "index": [3, 1]}
    assert "image" in dataset[0]


def test_ordered_loader() -> None:
    data = DigitsDataModule(batch_size=100)
    data.setup()
    index = torch.cat([batch["index"] for batch in data.ordered_loader(data.train_dataset)])
    assert torch.equal(index, torch.arange(len(data.train_dataset)))
