import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from datamodules import CSVDataModule
from lit_cv import SupervisedModule
from lit_cv.cli import main
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


def test_table_without_splits(root: Path) -> None:
    path = write(root, "path,label", ["10", "9"] * 10, encoding="utf-8-sig")
    data = module(path, val_fraction=0.25, test_fraction=0.2)
    assert sizes(data) == [12, 4, 4]
    assert data.class_names == ["9", "10"]  # in numerical order
    for index in range(12):
        row = int(data.train_dataset.sample_name(index)[7:9])
        assert data.class_names[int(data.train_dataset.labels[index])] == ("9" if row % 2 else "10")
    assert data.train_dataset[0]["image"].shape == (3, 8, 8)


def test_table_with_splits_and_unlabeled_rows(root: Path) -> None:
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


def test_table_with_semicolons(root: Path) -> None:
    path = write(root, "path,label", ["x", "y"] * 10)
    path.write_text(path.read_text().replace(",", ";"))
    assert module(path).class_names == ["x", "y"]


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


@pytest.mark.parametrize(
    ("meaning", "row", "text", "warns"),
    [
        (
            None,
            0,
            "5 of 20 images have an empty label: labeled with none of the classes (choose with `empty_labels='none'`",
            True,
        ),
        ("none", 0, "5 of 20 images have an empty label: labeled with none of the classes.", False),
        ("unlabeled", -1, "5 of 20 images have an empty label: unlabeled.", False),
    ],
)
def test_empty_labels_in_one_column(
    root: Path, caplog: pytest.LogCaptureFixture, meaning: Any, row: int, text: str, warns: bool
) -> None:
    path = write(root, "path,label", ["red|round", "round", "", "red | big"] * 5)
    with caplog.at_level("INFO", "lit_cv"):
        data = module(path, label_separator="|", empty_labels=meaning, val_fraction=0.0, test_fraction=0.0)
    record = next(record for record in caplog.records if "empty label" in record.getMessage())
    assert text in record.getMessage()
    assert (record.levelname == "WARNING") == warns
    labels = data.unlabeled_dataset.labels
    assert labels[2].tolist() == [row] * 3
    assert len(data.train_dataset) == (15 if meaning == "unlabeled" else 20)


def test_empty_labels_in_several_columns(root: Path) -> None:
    path = write(root, "path,red,round", ["1,0", ",", "0,1"] * 6)
    options: dict[str, Any] = {"label_columns": ["red", "round"], "val_fraction": 0.0, "test_fraction": 0.0}
    with pytest.raises(ValueError, match=r"contains '': use 0 or 1 .*\(set `empty_labels` for empty cells"):
        module(path, **options)
    assert module(path, empty_labels="none", **options).train_dataset.labels[1].tolist() == [0, 0]
    data = module(path, empty_labels="unlabeled", **options)
    assert (data.unlabeled_dataset.labels[1].tolist(), len(data.train_dataset)) == ([-1, -1], 12)
    with pytest.raises(ValueError, match="empty_labels needs several labels per image"):
        module(path, empty_labels="none")


def test_classes_without_training_images_are_skipped(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["a|b,train", "b,train", "a|rare,val", "rare,val", "odd,test", "a,test"] * 3
    path = write(root, "path,label,split", rows)
    with pytest.raises(ValueError, match=r"without training images: rare \(`unseen_classes='skip'` skips them"):
        module(path, label_separator="|")
    data = module(path, label_separator="|", unseen_classes="skip")
    assert data.class_names == ["a", "b"]
    assert sizes(data) == [6, 3, 3]
    assert data.val_dataset is not None
    assert data.val_dataset.labels.tolist() == [[1, 0]] * 3
    assert "skipped, along with 6 images that have no other class: odd, rare" in caplog.text
    path = write(root, "path,label,split", ["a,train", "b,train", "a,val", "rare,val"] * 3)
    assert sizes(module(path, unseen_classes="skip", test_fraction=0.0)) == [6, 3, 0]
    path = write(root, "path,a,b,rare,split", ["1,0,0,train", "0,1,0,train", "1,0,1,val"] * 3)
    data = module(path, label_columns=["a", "b", "rare"], unseen_classes="skip")
    assert data.class_names == ["a", "b"]
    assert data.train_dataset.labels.shape[1] == 2


def test_missing_images(root: Path) -> None:
    path = write(root, "path,label", ["a", "b"] * 12)
    with pytest.raises(FileNotFoundError, match=r"4 of 24 images are not in .*starting with 'images/20\.png'.*`root`"):
        module(path)
    data = module(path, on_error="skip", val_fraction=0.0, test_fraction=0.0)
    assert sizes(data) == [20, 0, 0]


@pytest.mark.parametrize(
    ("header", "row", "kwargs", "message"),
    [
        ("file,label", "a", {}, r"no column 'path' \(`path_column`\)"),
        ("path,labels", "a", {}, r"no column 'label' \(`label_columns`\): did you mean 'labels'"),
        ("path,label,split", "a,later", {}, "'later': use train, val, test or predict"),
        ("path,a,b", "1,2", {"label_columns": ["a", "b"]}, "contains '2': use 0 or 1"),
    ],
)
def test_invalid_tables(root: Path, header: str, row: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(write(root, header, [row] * 20), **kwargs)


def test_classes_without_training_images(root: Path) -> None:
    path = write(root, "path,label,split", ["a,train"] * 10 + ["z,test"] * 10)
    with pytest.raises(ValueError, match=r"test rows of .* classes without training images: z"):
        module(path)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"table .* not found: set `path`"):
        module(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="has no rows"):
        module(tmp_path / "empty.csv")


def crowd(root: Path, votes: list[tuple[int, str, str]], split: str = "") -> Path:
    path = root / "crowd.csv"
    lines = [f"images/{index:02}.png,{who},{label}" for index, who, label in votes]
    path.write_text("\n".join(["path,annotator,label", *lines]) + "\n")
    return path


def test_several_annotators(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lit_cv")
    votes = [(index, who, "ab"[index % 2]) for index in range(20) for who in ("x", "y")]
    votes += [(0, "z", "b"), (3, "z", "b"), (4, "z", "b"), (4, "w", "b")]
    path = crowd(root, votes)
    kwargs: dict[str, Any] = {"annotator_column": "annotator", "val_fraction": 0.0, "test_fraction": 0.0}
    data = module(path, **kwargs)
    assert len(data.train_dataset) == 20
    assert data.train_dataset.labels.tolist() == [0, 1] * 10  # a tie of two votes: the first class
    assert "44 votes of 4 annotators on 20 images, Fleiss' kappa 0.87, 2 images disputed:" in caplog.text
    assert "  images/00.png: a 2, b 1\n  images/04.png: a 2, b 2" in caplog.text
    soft = module(path, consensus="soft", **kwargs | {"val_fraction": 0.2})
    assert not soft.multi_label
    assert soft.num_classes == 2
    batch = next(iter(soft.train_dataloader()))
    assert batch["label"].dtype == torch.float32
    assert torch.allclose(batch["label"].sum(1), torch.ones(4))
    labels = {soft.train_dataset.sample_name(i)[7:9]: soft.train_dataset.labels[i].tolist() for i in range(16)}
    labels |= {soft.val_dataset.sample_name(i)[7:9]: [] for i in range(4)}  # type: ignore[union-attr]
    assert labels["00"] in ([], pytest.approx([2 / 3, 1 / 3]))
    assert labels["04"] in ([], [0.5, 0.5])
    assert soft.val_dataset.labels.ndim == 1  # type: ignore[union-attr]
    assert sorted(soft.val_dataset.labels.tolist()) == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert next(iter(soft.labeled_dataloader()))["label"].dtype == torch.int64
    assert module(path, consensus="soft", cache=True, **kwargs).train_dataset.soft_labels
    assert module(path, consensus="dawid_skene", **kwargs).train_dataset.labels[2].item() == 0
    few = module(path, consensus="soft", labels_per_class=3, **kwargs)
    assert (len(few.train_dataset), len(few.unlabeled_dataset)) == (6, 20)
    assert (few.unlabeled_dataset.labels.amin(1) < 0).sum() == 14


@pytest.mark.slow
@pytest.mark.learns
def test_soft_labels_are_trained_on(root: Path, seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    for index in range(20):  # images with even numbers are dark
        Image.new("L", (12, 10), 200 * (index % 2) + 2 * index).save(root / "images" / f"{index:02}.png")
    votes = [(index, who, "ab"[index % 2]) for index in range(20) for who in ("x", "y")]
    votes += [(index, "z", "b") for index in range(20)]
    data = CSVDataModule(
        str(crowd(root, votes)), annotator_column="annotator", consensus="soft", image_size=8, batch_size=5
    )
    model = SupervisedModule(backbone="conv4", lr=1e-2, spatial_dropout=0.0)
    trainer = L.Trainer(
        max_epochs=12, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, data)
    assert model.hparams["multi_label"] is False
    assert 0.9 < float(trainer.callback_metrics["val_acc"]) <= 1
    batch = next(iter(data.train_dataloader()))
    model.eval()
    log_p = model(batch["image"]).log_softmax(1)
    expected = -(batch["label"] * log_p).sum(1).mean()
    assert torch.allclose(model.step(batch, "train")["loss"], expected)


def test_invalid_votes(root: Path) -> None:
    path = crowd(root, [(0, "", "a"), (1, "x", "b")])
    with pytest.raises(ValueError, match=r"1 votes have no annotator, the first one is for 'images/00.png'"):
        module(path, annotator_column="annotator")
    with pytest.raises(ValueError, match=r"no column 'who' \(`annotator_column`\)"):
        module(path, annotator_column="who")
    with pytest.raises(ValueError, match="needs one label per image"):
        module(path, annotator_column="annotator", label_separator="|")
    table = write(root, "path,label,split,annotator", ["a,train,x"] * 10)
    table.write_text(table.read_text() + "images/00.png,a,test,y\n")
    with pytest.raises(ValueError, match=r"'images/00.png' is in both 'train' and 'test'"):
        module(table, annotator_column="annotator")


def test_agreement_errors_name_its_options(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set --path"):
        main(["agreement", "--path", str(root / "nowhere.csv")])


def test_agreement_verb(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes = [(index, who, "ab"[index % 2]) for index in range(20) for who in ("x", "y", "v")]
    path = crowd(root, [*votes, (7, "z", "a")])
    main(["agreement", "--path", str(path), "--out", str(root / "images.csv")])
    shown = capsys.readouterr().out
    assert "61 votes of 4 annotators on 20 images, Fleiss' kappa 0.9" in shown
    assert "x: 100.0 % of the votes agree with the consensus" in shown
    lines = (root / "images.csv").read_text().splitlines()
    assert lines[0] == "path,label,probability,agreement,votes_a,votes_b"
    assert lines[1].startswith("images/07.png,b,")
    assert lines[1].endswith(",0.5000,1,3")
    assert len(lines) == 21
    data = module(root / "images.csv", val_fraction=0.0, test_fraction=0.0)  # read again directly
    assert data.train_dataset.labels.sum() == 10


def test_numeric_labels(root: Path) -> None:
    rows = [label for label in ("10.0", "2.0", "-1.5", "x") for _ in range(5)]
    assert module(write(root, "path,label", rows)).class_names == ["-1.5", "2.0", "10.0", "x"]
    rows = [label for label in ("1", "1.0") for _ in range(10)]
    with pytest.raises(ValueError, match=r"writes the label 1 in two ways, '1' and '1\.0'"):
        module(write(root, "path,label", rows))


def test_paths_outside_root_are_only_read(root: Path, tmp_path: Path) -> None:
    """Tables are trusted: absolute paths and paths above their folder are common."""
    first = next(path for path in sorted(root.rglob("*.png")))
    for path in (str(first.absolute()), f"../{root.name}/{first.relative_to(root)}"):
        others = "".join(f"images/{index:02}.png,{'ab'[index % 2]}\n" for index in range(1, 20))
        (root / "t.csv").write_text(f"path,label\n{path},a\n{others}")
        assert module(root / "t.csv").train_dataset[0]["image"].dtype == torch.uint8


def test_error_names_image_with_two_labels(root: Path) -> None:
    path = root / "votes.csv"
    rows = [
        f"images/{index:02}.png,{label},{who}"
        for index in range(8)
        for who, label in (("a", "x"), ("b", "xy"[index % 2]))
    ]
    path.write_text("\n".join(["path,label,annotator", *rows]))
    with pytest.raises(ValueError, match=r"'images/01\.png' has the label 'x' and the label 'y'. Name the column"):
        module(path)
    assert module(path, annotator_column="annotator").votes is not None
    with pytest.raises(ValueError, match="consensus='soft': it needs several annotators"):
        module(path, consensus="soft")
    path.write_text(path.read_text() + "\nimages/00.png,y,a")
    with pytest.raises(ValueError, match=r"'a' labels 'images/00\.png' both 'x' and 'y'"):
        module(path, annotator_column="annotator")


def test_agreement_overwrites_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = crowd(root, [(0, "x", "a"), (0, "y", "b"), (1, "x", "b"), *((k, w, w) for k in range(2, 9) for w in "ab")])
    monkeypatch.chdir(root)
    Path("consensus.csv").write_text("corrected")
    main(["agreement", "--path", str(path)])
    assert Path("consensus.csv").read_text() == "corrected"
    assert len(Path("consensus_1.csv").read_text().splitlines()) == 10
    said = capsys.readouterr().out
    assert "and 3 more (all are in consensus_1.csv)" in said
    assert "Written: consensus_1.csv (consensus.csv exists and was not overwritten)" in said
    with pytest.raises(ValueError, match=r"consensus_1\.csv already exists.*--out"):
        main(["agreement", "--path", str(path), "--out", "consensus_1.csv"])


def test_unlabeled_rows_of_any_split_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("cat", "train")] * 3 + [("dog", "train")] * 3 + [("", "train"), ("dog", "val"), ("", "val"), ("", "test")]
    lines = [f"{number:02}.png,{label},{split}" for number, (label, split) in enumerate(rows)]
    (root / "some.csv").write_text("\n".join(["path,label,split", *lines]))
    data = CSVDataModule(str(root / "some.csv"), str(root / "images"), image_size=8)
    with caplog.at_level("INFO", "lit_cv"):
        data.setup()
    assert "2 to validate (1 without a label), 1 to test (1 without a label)" in caplog.text
    assert data.val_dataset is not None
    assert data.val_dataset.labels.tolist() == [1, -1]


def test_error_names_file_with_two_labels(root: Path) -> None:
    (root / "twice.csv").write_text("path,label\n00.png,cat\n01.png,dog\n./00.png,dog\n")
    with pytest.raises(ValueError, match=r"'./00\.png' has the label 'cat' and the label 'dog'"):
        CSVDataModule(str(root / "twice.csv"), str(root / "images"), image_size=8).setup()


@pytest.mark.parametrize("column", ["Split", "SPLIT", " split "])
def test_split_column_in_another_case(root: Path, column: str) -> None:
    rows = [f"{'cat' if n % 2 else 'dog'},{'train' if n < 14 else 'test'}" for n in range(20)]
    assert sizes(module(write(root, f"path,label,{column}", rows), val_fraction=0.0)) == [14, 0, 6]


def test_warns_about_split_column(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{'cat' if n % 2 else 'dog'},{'train' if n < 14 else 'Test'}" for n in range(20)]
    path = write(root, "path,label,fold", rows)
    module(path)
    assert "so its images have no splits, but its column fold contains splits: use `split_column='fold'`" in caplog.text
    with pytest.raises(ValueError, match=r"has no column 'flod' \(`split_column`\): did you mean 'fold'"):
        module(path, split_column="flod")


def test_names_without_suffix(root: Path) -> None:
    rows = "".join(f"{n:02},{'cat' if n % 2 else 'dog'}\n" for n in range(20))
    (root / "ids.csv").write_text(f"path,label\n{rows}")
    data = module(root / "ids.csv", root=str(root / "images"))
    assert {data.train_dataset.sample_name(n)[2:] for n in range(len(data.train_dataset))} == {".png"}


def test_warns_about_odd_labels(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    module(write(root, "path,label", ["cat", "Cat", "dog", "nan"] * 5))
    assert "nan is read as a class. Leave the cells of unlabeled images empty." in caplog.text
    assert "has class names that differ only in case: Cat, cat." in caplog.text


def test_error_names_unclosed_quotation_mark(root: Path) -> None:
    with pytest.raises(ValueError, match=r"the label 'cat\\nimages/01\.png,dog' has several lines"):
        module(write(root, "path,label", ['"cat', 'dog"', *["cat", "dog"] * 9]))


def test_annotators_with_other_path_spellings(root: Path) -> None:
    rows = [f"{dots}images/{n:02}.png,{'cat' if n % 2 else 'dog'},{who}" for n in range(6)
            for who, dots in enumerate(("", "./"))]  # fmt: skip
    (root / "votes.csv").write_text("\n".join(["path,label,who", *rows]))
    data = module(root / "votes.csv", annotator_column="who", val_fraction=0.0, test_fraction=0.0)
    assert len(data.train_dataset) == 6
