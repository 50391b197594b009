from pathlib import Path

import pytest
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from datamodules.images import read_whole
from lit_cv.annotations import AnnotatedImage, AnnotationSet, Problems, file_size
from lit_cv.annotations.checks import check_set


def save(path: Path, orientation: int | None = None) -> Path:
    """Write an image of 30 x 20 pixels with an EXIF rotation."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (30, 20), (200, 100, 50)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_size_is_after_exif_rotation(tmp_path: Path, suffix: str, orientation: int | None) -> None:
    path = save(tmp_path / f"a.{suffix}", orientation)
    expected = (30, 20) if (orientation or 1) >= 5 else (20, 30)
    assert file_size(path) == expected
    assert read_whole(path, None, 3, expected).shape == (3, *expected)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_size_error_mentions_exif_only_if_present(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"turned.{suffix}", 6)
    save(tmp_path / f"plain.{suffix}")
    problems = Problems()
    images = [AnnotatedImage(f"turned.{suffix}", 20, 30), AnnotatedImage(f"plain.{suffix}", 30, 20)]
    check_set(AnnotationSet(tmp_path, [], images), [file_size(tmp_path / image.name) for image in images], problems)
    turned, plain = str(problems).splitlines()
    assert "the file has 20 x 30 pixels after EXIF rotation, but its annotation says 30 x 20" in turned
    assert plain.endswith("the file has 30 x 20 pixels, but its annotation says 20 x 30")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("cache", [False, True])
def test_rotated_tiff_with_boxes(tmp_path: Path, orientation: int, cache: bool) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        save(tmp_path / split / "images" / "a.tif", orientation)
        (tmp_path / split / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [box]\ntrain: train/images\nval: val/images\n")
    data = AnnotatedImagesDataModule(str(tmp_path), image_size=None, cache=cache, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    sample = data.train_dataset[0]
    assert sample["size"].tolist() == ([30, 20] if orientation == 6 else [20, 30])
    expected = [5, 7.5, 15, 22.5] if orientation == 6 else [7.5, 5, 22.5, 15]
    assert sample["boxes"][0].tolist() == expected
