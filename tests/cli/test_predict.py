"""`predict --images` reads images as in the training of the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_cv.cli import main
from tests.annotations.sets import save_coco

FIT = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--data.num_workers", "0", "--data.batch_size", "4", "--trainer.enable_model_summary", "false"),
]
PREDICT = ["predict", "--ckpt_path", "best"]


@pytest.mark.slow
def test_images_are_scaled_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label, start in (("low 😀", 0), ("hîgh", 2000)):
        for number in range(8):
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            values = np.random.RandomState(number).randint(start, start + 2000, (16, 16)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "data" / label / f"{number}.tif")
    data = ["--data", "ImageFolderDataModule", "--data.root", "data", "--data.image_size", "16"]
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4"]
    main(["fit", *data, "--data.value_range", "[0, 4095]", *model, *FIT])
    main([*PREDICT, "--images", "data"])
    main([*PREDICT, "--data.predict_root", "data"])
    tables = [tmp_path / "lightning_logs" / "version_0" / name for name in ("predictions.csv", "predictions_1.csv")]
    assert tables[0].read_text() == tables[1].read_text()


def test_multi_label_predictions_of_unlabeled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["path,label"]
    for number in range(20):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(f"{number}.png")
        rows.append(f"{number}.png,{'even' if number % 2 == 0 else 'odd;odd or three' if number == 3 else 'odd'}")
    Path("images.csv").write_text("\n".join(rows))
    data = ["--data", "CSVDataModule", "--data.label_separator", ";", "--data.image_size", "16"]
    main(["fit", *data, "--model", "SupervisedModule", "--model.backbone", "conv4", *FIT])
    main([*PREDICT, "--images", "3.png"])
    header = (tmp_path / "lightning_logs" / "version_0" / "predictions.csv").read_text().splitlines()[0]
    assert all(name in header for name in ("even", "odd", "odd or three"))


@pytest.mark.parametrize("size", [pytest.param("48", marks=pytest.mark.slow), "[32, 64]"])
@pytest.mark.slow
def test_boxes_in_uncropped_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.chdir(tmp_path)
    boxes = [{"id": k, "image_id": image, "category_id": 18, "bbox": [20, 2, 6, 6]} for k, image in ((1, 5), (2, 11))]
    save_coco(tmp_path / "set" / "instances.json", boxes)
    images = json.loads((tmp_path / "set" / "instances.json").read_text())["images"]
    for entry in images:
        pixels = np.random.RandomState(entry["id"]).randint(0, 256, (entry["height"], entry["width"], 3))
        (tmp_path / "set" / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / "images" / entry["file_name"])
    data = ["--data", "AnnotatedImagesDataModule", "--data.root", "set", "--data.image_size", size]
    split = ["--data.val_fraction", "0", "--data.test_fraction", "0"]
    model = ["--model", "DetectionModule", "--model.backbone", "resnet9_small", "--model.channels", "32"]
    main(["fit", *data, *split, *model, *FIT])
    predict = ["predict", "--ckpt_path", "last", "--predictions.threshold", "0"]
    main([*predict, "--images", "set/images"])
    main([*predict, "--data.predict_root", "set/images"])
    files = [
        json.loads((tmp_path / "lightning_logs" / "version_0" / name / "annotations/instances.json").read_text())
        for name in ("predictions", "predictions_1")
    ]
    assert files[0] == files[1]
    assert [entry["name"] for entry in files[0]["categories"]] == ["person", "dog"]
    sizes = {(entry["file_name"], entry["height"], entry["width"]) for entry in files[0]["images"]}
    assert sizes == {(entry["file_name"], entry["height"], entry["width"]) for entry in images}


@pytest.mark.slow
def test_masks_of_uncropped_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        pixels = np.random.RandomState(number).randint(0, 256, (30, 50, 3)).astype(np.uint8)
        for folder, content in (("images", pixels), ("masks", pixels[..., 0] % 2)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(tmp_path / "set" / folder / f"{number}.png")
    (tmp_path / "set" / "classes.txt").write_text("ground\ncell\n")
    data = ["--data", "AnnotatedImagesDataModule", "--data.root", "set", "--data.image_size", "32"]
    model = ["--model", "SegmentationModule", "--model.backbone", "resnet9_small", "--model.channels", "32"]
    main(["fit", *data, *model, *FIT])
    main([*PREDICT, "--images", "set/images"])
    main([*PREDICT, "--data.predict_root", "set/images"])
    folders = [tmp_path / "lightning_logs" / "version_0" / name for name in ("predictions", "predictions_1")]
    for number in range(6):
        first, second = (Image.open(folder / "masks" / f"{number}.png") for folder in folders)
        assert first.size == (50, 30)
        assert np.array_equal(np.asarray(first), np.asarray(second))
    assert [(folder / "classes.txt").read_text() for folder in folders] == ["ground\ncell\n"] * 2


@pytest.mark.parametrize("option", ["--images", pytest.param("--data.predict_root", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_undecodable_images_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    test_masks_of_uncropped_images(tmp_path, monkeypatch)
    whole = (tmp_path / "set" / "images" / "0.png").read_bytes()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "new" / "whole.png").write_bytes(whole)
    main([*PREDICT, option, "new", "--data.on_error", "skip", "--predictions.folder", "out"])
    assert [path.name for path in (tmp_path / "out" / "predictions" / "masks").iterdir()] == ["whole.png"]
