"""Names of files and classes survive every table unchanged, and are escaped in messages."""

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from datamodules import CSVDataModule
from lit_cv.annotations import AnnotationError, Problems, convert, read_annotations, save_mask, write_coco
from lit_cv.annotations.reading import file_cell, read_rows
from lit_cv.annotations.votes import Votes
from lit_cv.callbacks import PredictionWriter
from lit_cv.cli import main
from tests.annotations.sets import example, save_image

BYTES = os.fsdecode(b"caf\xe9.png")  # not UTF-8
NAMES = [
    BYTES, "a\nb.png", "a\r\nb.png", 'quo"te,and;more.png', " first.png", "last.png ", "\ttab.png", "=cmd.png",
    "'=other.png", "+1.png", "-1.png", "@x.png", "it's.png", "\x1b[2Jclear.png", "plain.png", "d/=x.png",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images with difficult names, if the file system allows them."""
    save_image(tmp_path / "photos" / "plain.png", 9, 9)
    content = (tmp_path / "photos" / "plain.png").read_bytes()
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        try:
            path.write_bytes(content)
        except OSError:
            pytest.skip(f"the file system does not allow the name {name!r}")
    return tmp_path / "photos"


class Named:
    root = "."

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def sample_name(self, index: int) -> str:
        return self.names[index]


class Loader:
    def __init__(self, names: list[str], outputs: dict[str, Any]) -> None:
        self.dataset = Named(names)
        self.outputs = outputs

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield self.outputs


class Echo(L.LightningModule):
    """Returns the batch as its predictions."""

    class_names = ("=cat", "dog")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        return batch


def predict(folder: Path, names: list[str], outputs: dict[str, Any], **options: Any) -> None:
    callbacks: list[L.Callback] = [PredictionWriter(str(folder), **options)]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=callbacks)
    trainer.predict(Echo(), Loader(names, outputs))


def table(path: Path, root: Path, **options: Any) -> CSVDataModule:
    data = CSVDataModule(str(path), root=str(root), image_size=8, val_fraction=0.0, test_fraction=0.0, **options)
    data.setup()
    return data


@pytest.mark.parametrize("escape", [False, True])
def test_names_survive_predictions(photos: Path, tmp_path: Path, escape: bool) -> None:
    probabilities = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).repeat(len(NAMES) // 2, 1)
    predict(tmp_path / "run", NAMES, {"probabilities": probabilities}, escape_formulas=escape)
    path = tmp_path / "run/predictions.csv"
    data = table(path, photos, path_column="image", label_columns=["predicted"])
    assert [data.train_dataset.sample_name(index) for index in range(len(NAMES))] == NAMES
    assert data.class_names == ["=cat", "dog"]
    assert data.train_dataset.labels.tolist() == [0, 1] * (len(NAMES) // 2)
    assert data.train_dataset[0]["image"].shape == (3, 8, 8)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    computed = [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")]
    assert bool(computed) != escape
    assert rows[0] == ["image", "predicted", "probability", "p_=cat", "p_dog"]


def test_numbers_are_not_escaped(tmp_path: Path) -> None:
    predict(tmp_path, ["=a"], {"values": torch.tensor([[-1.5, 2.0]])}, escape_formulas=True)
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert list(csv.reader(file)) == [["image", "value_0", "value_1"], ["'=a", "-1.5", "2"]]


def test_names_in_embeddings_and_draft_order(tmp_path: Path) -> None:
    count = len(NAMES)
    box = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    outputs = {
        "embedding": torch.zeros(count, 2),
        "boxes": [box] * count,
        "box_labels": [torch.tensor([0])] * count,
        "scores": [torch.tensor([0.9])] * count,
        "image": torch.zeros(count, 3, 9, 9),
    }
    predict(tmp_path, NAMES, outputs, order="dataset", escape_formulas=True)
    with np.load(tmp_path / "embeddings.npz") as found:
        assert found["image"].tolist() == NAMES
    rows = read_rows(tmp_path / "predictions/order.csv", files=("image",))
    assert [file_cell(row["image"], tmp_path) for row in rows][7] == "=cmd.png"
    assert rows[0]["image"] == BYTES
    text = (tmp_path / "predictions/annotations/instances.json").read_bytes()
    assert b'"caf\\udce9.png"' in text


def test_names_survive_consensus(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes = tmp_path / "votes.csv"
    rows = [
        [name, who, "=a" if who == "@ann" or index % 2 else "b\x1b[2J"]
        for index, name in enumerate(NAMES)
        for who in ("@ann", "bob\x1b[2J")
    ]
    with open(votes, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([["path", "annotator", "label"], *rows])
    for escape in ("false", "true"):
        out = tmp_path / f"consensus_{escape}.csv"
        data = table(votes, photos, annotator_column="annotator")
        assert data.votes is not None
        assert data.votes.annotators == ["@ann", "bob\x1b[2J"]
        data.votes.write(out, escape == "true")
        again = table(out, photos)
        assert {again.train_dataset.sample_name(index) for index in range(len(NAMES))} == set(NAMES)
        assert set(again.class_names) <= {"=a", "b\x1b[2J"}
    assert b"'=a," in out.read_bytes()
    escaped = tmp_path / "again.csv"
    with open(escaped, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([["path", "annotator", "label"], *([p, f"'{w}", f"'{la}"] for p, w, la in rows)])
    data = table(escaped, photos, annotator_column="annotator")
    assert data.votes is not None
    assert data.votes.annotators == ["'bob\x1b[2J", "@ann"]  # an apostrophe that escapes no formula stays
    options = ["--escape_formulas", "true", "--out", str(tmp_path / "by_command.csv")]
    main(["agreement", "--path", str(votes), *options])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "bob\\x1b[2J: " in shown
    assert "caf\\xe9.png: " in shown
    assert b"'=a," in (tmp_path / "by_command.csv").read_bytes()


def test_columns_without_file_names_must_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"path,label\ncaf\xe9.png,caf\xe9\n")
    with pytest.raises(ValueError, match=r"t\.csv is not a table in UTF-8: 'utf-8' codec can't decode byte 0xe9"):
        read_rows(path, files=("path",))
    path.write_bytes(b"path,label\ncaf\xe9.png,x\n")
    assert read_rows(path, files=("path",)) == [{"path": BYTES, "label": "x"}]
    with pytest.raises(ValueError, match="is not a table in UTF-8"):
        read_rows(path)


def test_file_cell_prefers_existing_file(tmp_path: Path) -> None:
    for name in ("'=a.png", "b.png"):
        save_image(tmp_path / name, 9, 9)
    assert file_cell("'=a.png", tmp_path) == "'=a.png"
    assert file_cell("'=b.png", tmp_path) == "=b.png"
    assert file_cell(" b.png ", tmp_path) == "b.png"


def test_names_survive_conversion_to_table_and_back(tmp_path: Path) -> None:
    names = [name for name in NAMES if name.endswith(".png") and "/" not in name]
    for label in ("=x", "dog"):
        for name in names:
            save_image(tmp_path / "folders" / label / "plain.png", 9, 9)
            (tmp_path / "folders" / label / name).write_bytes((tmp_path / "folders" / label / "plain.png").read_bytes())
    convert(str(tmp_path / "folders"), str(tmp_path / "table"), "csv")
    convert(str(tmp_path / "table"), str(tmp_path / "again"), "folders")
    for label in ("=x", "dog"):
        assert sorted(os.listdir(tmp_path / "again" / label)) == sorted(names)
    (tmp_path / "folders/dog").rename(tmp_path / "folders" / os.fsdecode(b"h\xfcnd"))
    with pytest.raises(ValueError, match=r"csv cannot store the name 'h\\xfcnd' \(1 in total\).*`to`"):
        convert(str(tmp_path / "folders"), str(tmp_path / "no"), "csv")
    assert not (tmp_path / "no").exists()


@pytest.fixture
def named_in_bytes(tmp_path: Path) -> Path:
    sets = example(tmp_path / "source/images", ("train",))
    (tmp_path / "source/images/train/train_1.png").rename(tmp_path / "source/images/train" / BYTES)
    sets["train"].images[1].name = BYTES
    write_coco(sets, tmp_path / "source")
    return tmp_path / "source"


def test_non_utf_8_names_survive_formats(named_in_bytes: Path, tmp_path: Path) -> None:
    text = (named_in_bytes / "annotations/instances_train.json").read_text(encoding="utf-8")
    assert '"caf\\udce9.png"' in text
    for source, to in ((named_in_bytes, "yolo"), (tmp_path / "yolo", "coco"), (tmp_path / "coco", "yolo")):
        out = tmp_path / to if not (tmp_path / to).exists() else tmp_path / "last"
        convert(str(source), str(out), to)  # type: ignore[arg-type]
        assert BYTES in {image.name for image in read_annotations(out, Problems())["train"].images}
    assert (tmp_path / "yolo/labels/train" / BYTES).with_suffix(".txt").is_file()
    with pytest.raises(ValueError, match=r"voc cannot store the name 'caf\\xe9\.png' .*Rename it.*`to`"):
        convert(str(named_in_bytes), str(tmp_path / "voc"), "voc")
    assert not (tmp_path / "voc").exists()


def test_non_utf_8_mask_names(tmp_path: Path) -> None:
    save_image(tmp_path / "set/images" / BYTES, 9, 9)
    save_mask(np.ones((9, 9), int), tmp_path / "set/masks" / BYTES)
    convert(str(tmp_path / "set"), str(tmp_path / "out"), "masks")
    assert [image.name for image in read_annotations(tmp_path / "out", Problems())["all"].images] == [BYTES]


def test_coco_keeps_unicode_letters(tmp_path: Path) -> None:
    sets = example(tmp_path / "images", ("train",))
    sets["train"].categories[0] = "zèbre"
    (path,) = write_coco(sets, tmp_path)
    assert "zèbre" in path.read_text(encoding="utf-8")


def test_image_lists_with_special_names(tmp_path: Path) -> None:
    for name in (BYTES, "two words.png", " first.png", "a.png"):
        save_image(tmp_path / "yolo/images" / name, 9, 9)
    (tmp_path / "yolo/data.yaml").write_text("names: [x]\ntrain: train.txt\n")
    (tmp_path / "yolo/train.txt").write_bytes(b"images/caf\xe9.png\r\nimages/two words.png\n  images/a.png\n")
    found = read_annotations(tmp_path / "yolo", Problems())["train"]
    assert [image.name for image in found.images] == [BYTES, "two words.png", "a.png"]
    sets = example(tmp_path / "source", ("train",))
    (tmp_path / "source/train/train_1.png").rename(tmp_path / "source/train/ two words.png")
    sets["train"].images[1].name = " two words.png"
    write_coco(sets, tmp_path / "source")
    convert(str(tmp_path / "source"), str(tmp_path / "voc"), "voc")
    problems = Problems()
    found = read_annotations(tmp_path / "voc", problems)["train"]
    assert not problems.entries
    assert found.images[1].name == " two words.png"


def test_voc_is_refused_before_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: Any) -> None:
        raise AssertionError("it predicted")

    monkeypatch.setattr(Echo, "predict_step", worked)
    with pytest.raises(ValueError, match=r"cannot hold the name 'caf\\xe9\.png' \(4 such names\).*`format`"):
        predict(tmp_path / "run", NAMES, {"boxes": []}, format="voc")


def test_annotation_messages_escape_control_characters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "\x1b[2J" + BYTES
    problems = Problems()
    problems.add(tmp_path / name, "line 1\n", f"unknown category {name}")
    for text in (str(problems), str(AnnotationError(f"{name} is no file"))):
        assert "\x1b" not in text
        assert text.encode()
    assert len(str(problems).splitlines()) == 1
    votes = Votes.of([name], [(name, "x", name), (name, "y", "dog")], [name, "dog"])
    assert "\x1b" not in str(votes)
    assert str(votes).encode()
    caplog.set_level(logging.INFO, "lit_cv")
    predict(tmp_path / name, ["a"], {"probabilities": torch.tensor([[0.5, 0.5]])})
    assert "\\x1b[2Jcaf\\xe9.png/predictions.csv" in caplog.text
    assert "\x1b" not in caplog.text
