import csv
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import AnnotatedImagesDataModule
from lit_cv.annotations import Problems, load_mask, outline_mask, read_annotations, save_mask, write_coco
from lit_cv.callbacks import PredictionWriter
from lit_cv.callbacks.prediction_drafts import BoxDrafts, box_uncertainty
from lit_cv.cli import main
from tests.annotations.sets import content, example, save_image


class AnnotationEcho(L.LightningModule):
    """Predicts the annotated boxes with different scores, and one box with a very low score."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        junk = torch.tensor([[0.0, 0, 5, 5]])
        boxes = [torch.cat([true, junk]) for true in batch["boxes"]]
        labels = [torch.cat([true, torch.tensor([0])]) for true in batch["box_labels"]]
        scores = [torch.cat([torch.linspace(1, 0.5, len(true)), torch.tensor([0.05])]) for true in batch["boxes"]]
        return {"boxes": boxes, "box_labels": labels, "scores": scores, "index": batch["index"]}


class InstanceEcho(L.LightningModule):
    """Predicts the annotated objects with their masks, the first one with a low score."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        scores = [torch.linspace(0.2, 0.9, len(boxes)) for boxes in batch["boxes"]]
        entries = {name: batch[name] for name in ("boxes", "box_labels", "masks", "index")}
        return {**entries, "scores": scores}


class MaskPredictor(L.LightningModule):
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        # padding is never read
        confidence = (batch["mask"] != 1).float()
        return {"masks": batch["mask"].clamp(max=2), "index": batch["index"], "confidence": confidence}


def predict(model: L.LightningModule, data: AnnotatedImagesDataModule, folder: Path, **options: Any) -> None:
    writer = PredictionWriter(str(folder), **options)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(model, datamodule=data)


@pytest.fixture
def source(tmp_path: Path) -> AnnotatedImagesDataModule:
    sets = example(tmp_path / "source", ("train",))
    write_coco(sets, tmp_path / "source")
    shutil.copytree(tmp_path / "source/train", tmp_path / "source/test")
    (tmp_path / "source/annotations/instances_test.json").write_bytes(
        (tmp_path / "source/annotations/instances_train.json").read_bytes()
    )
    return AnnotatedImagesDataModule(
        str(tmp_path / "source"),
        images={"train": "train", "test": "test"},
        image_size=[100, 128],
        batch_size=2,
        num_workers=0,
        val_fraction=0,
    )


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_drafts_can_be_read_back(source: AnnotatedImagesDataModule, tmp_path: Path, format: Any) -> None:
    predict(AnnotationEcho(), source, tmp_path / "run", format=format)
    drafts = tmp_path / "run" / "predictions"
    original = read_annotations(tmp_path / "source", Problems(), folders={"train": tmp_path / "source/train"} | {
        "test": tmp_path / "source/train"
    })["train"]  # fmt: skip
    drafted = read_annotations(drafts, Problems(), folders={"all": tmp_path / "source/train"})["all"]
    assert drafted.categories == ["zebra", "cat", "dog"]
    before, after = content({"x": original}, 1)["x"], content({"x": drafted}, 1)["x"]
    for a, b in zip(before, after, strict=True):
        assert a[:3] == b[:3]
        assert [name for name, _ in a[3]] == [name for name, _ in b[3]]
        assert np.allclose([box for _, box in a[3]] or [0], [box for _, box in b[3]] or [0], atol=0.06)
    scores = {image.name: [item.score for item in image.objects] for image in drafted.images}
    assert scores["train_2.png"] == [1.0, 0.5]
    assert scores["deep/train.png"] == []
    data = AnnotatedImagesDataModule(str(drafts), images=str(tmp_path / "source/train"), image_size=64, val_fraction=0)
    data.setup()
    assert data.box_classes == ["zebra", "cat", "dog"]


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_masks_of_objects_in_drafts(tmp_path: Path, format: Any, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "instances").mkdir()
    values = {}
    for index, (height, width) in enumerate([(40, 60), (50, 20), (33, 33)]):
        save_image(tmp_path / "images" / f"{index}.png", height, width)
        values[f"{index}.png"] = drawn = np.zeros((height, width), np.uint8)
        drawn[2:20, 3:9], drawn[12:30, 9:17] = 4, 6
        Image.fromarray(drawn).save(tmp_path / "instances" / f"{index}.png")
    data = AnnotatedImagesDataModule(
        str(tmp_path), "instances", targets="instances", image_size=96, num_workers=0, val_fraction=0, test_fraction=0.6
    )
    predict(InstanceEcho(), data, tmp_path / "run", format=format)
    folders = {"all": tmp_path / "images"}
    drafts = read_annotations(tmp_path / "run" / "predictions", Problems(), folders=folders)["all"]
    assert len(drafts.images) == 2
    assert ("Only the boxes are written: `format='coco'`" in caplog.text) == (format == "voc")
    for image in drafts.images:
        (item,) = image.objects  # the other has a score below 0.3
        assert item.score == pytest.approx(0.9)
        if format == "coco":
            mask = outline_mask(item.segmentation, (image.height, image.width))
            assert np.array_equal(mask, values[image.name] == 6)


def test_order_by_uncertainty(source: AnnotatedImagesDataModule, tmp_path: Path) -> None:
    assert box_uncertainty(torch.tensor([0.5, 1.0, 0.75, 0.05])) == pytest.approx((1 + 0 + 0.5) / 3)
    predict(AnnotationEcho(), source, tmp_path / "run", threshold=0.7)
    drafts = read_annotations(tmp_path / "run/predictions", Problems(), folders={"all": tmp_path / "source/train"})
    images = drafts["all"].images
    assert [image.name for image in images] == [f"train_{i}.png" for i in (2, 3, 4)] + ["deep/train.png", "train_1.png"]
    assert [len(image.objects) for image in images] == [1, 2, 2, 0, 1]  # with scores of at least 0.7
    with open(tmp_path / "run/predictions/order.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "uncertainty", "objects"]
    assert rows[1] == ["train_2.png", "0.5000", "1"]
    assert rows[-1] == ["train_1.png", "0.0000", "1"]
    predict(AnnotationEcho(), source, tmp_path / "run", order="dataset")  # the previous drafts remain
    drafts = read_annotations(tmp_path / "run/predictions_1", Problems(), folders={"all": tmp_path / "source/train"})
    assert next(image.name for image in drafts["all"].images) == "deep/train.png"


def test_masks_have_file_sizes(tmp_path: Path) -> None:
    for index, (height, width) in enumerate([(40, 60), (50, 20), (33, 33)] * 4):
        save_image(tmp_path / "images" / f"{index}.png", height, width)
        mask = np.zeros((height, width), int)
        mask[: height // 2] = index % 3
        save_mask(mask, tmp_path / "masks" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("ground\ntree\nhouse\n")
    data = AnnotatedImagesDataModule(
        str(tmp_path), image_size=96, batch_size=3, num_workers=0, val_fraction=0, test_fraction=0.4
    )
    predict(MaskPredictor(), data, tmp_path / "run")
    drafts = tmp_path / "run" / "predictions"
    names = [data.test_dataset.sample_name(i) for i in range(len(data.test_dataset or []))]  # type: ignore[union-attr]
    assert len(names) == 5
    for name in names:
        assert np.array_equal(load_mask(drafts / "masks" / name), load_mask(tmp_path / "masks" / name))
    with open(drafts / "order_masks.csv") as file:
        rows = list(csv.reader(file))[1:]
    assert sorted(row[0] for row in rows) == sorted(names)
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    again = read_annotations(drafts, Problems(), folders={"all": tmp_path / "images"})
    assert again["all"].mask_classes == ["ground", "tree", "house"]
    assert len(again["all"].images) == 5


def test_cli_orders_table_by_uncertainty(in_tmp: Path) -> None:
    common = ["predict", "--model", "SupervisedModule", "--data", "DigitsDataModule", "--data.num_workers", "0"]
    options = {"order": "uncertainty", "threshold": "0.15", "folder": "drafts"}
    main([*common, *(text for name, value in options.items() for text in (f"--predictions.{name}", value))])
    with open("drafts/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities)
    assert all((row["predicted"] == "") == (float(row["probability"]) < 0.15) for row in rows)
    with pytest.raises(SystemExit):
        main([*common, "--predictions.format", "csv"])
    with pytest.raises(ValueError, match=r"threshold=2.*must be a probability"):
        main([*common, "--predictions.threshold", "2"])


class Several(L.LightningModule):
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        count = len(batch["image"])
        return {
            "kind_probabilities": torch.tensor([[0.25, 0.75]]).expand(count, 2),
            "color_probabilities": torch.tensor([[0.5, 0.2, 0.3]]).expand(count, 3),
            "objects_boxes": batch["boxes"],
            "objects_labels": batch["box_labels"],
            "objects_scores": [torch.ones(len(boxes)) for boxes in batch["boxes"]],
            "index": batch["index"],
        }


def test_several_tasks(source: AnnotatedImagesDataModule, tmp_path: Path) -> None:
    predict(Several(), source, tmp_path / "run")
    for name, predicted in (("kind", "1"), ("color", "0")):
        with open(tmp_path / "run" / f"predictions_{name}.csv") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 5
        assert {row["predicted"] for row in rows} == {predicted}
    drafts = read_annotations(tmp_path / "run/predictions", Problems(), folders={"all": tmp_path / "source/train"})
    assert sum(len(image.objects) for image in drafts["all"].images) == 10


def test_ranks_are_merged(source: AnnotatedImagesDataModule, tmp_path: Path) -> None:
    source.setup()
    batch = next(iter(source.train_dataloader()))
    boxes = BoxDrafts()
    boxes.add(AnnotationEcho().predict_step(batch, 0), batch, batch["index"])
    torch.save({"boxes": boxes.parts, "masks": [(3, 0.5)]}, tmp_path / "part.pt")
    again = torch.load(tmp_path / "part.pt", weights_only=True)
    assert again["masks"] == [(3, 0.5)]
    assert [part[:3] for part in again["boxes"]] == [part[:3] for part in boxes.parts]
    images = {index: f"{index}.png" for index in range(5)}
    # an image seen by two ranks is written once
    count, _ = boxes.write(again["boxes"] * 2, images, tmp_path, ["a"], tmp_path / "out", "voc", 0.3, True)
    assert count == 2
