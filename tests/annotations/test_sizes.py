"""Sizes of images as they are to be looked at, which boxes are drawn on."""

from pathlib import Path

import pytest
from PIL import Image

from datamodules.images import read_whole
from lit_cv.annotations import Problems, file_size, read_coco
from lit_cv.annotations.checks import check_set
from lit_cv.annotations.sizes import file_sizes
from tests.annotations.sets import save_coco


def save_turned(path: Path, orientation: int | None) -> None:
    """Write an image of 60 x 40 stored pixels, with the way the camera was held."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (60, 40)).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 7, 8])
def test_sizes_are_those_that_are_decoded(tmp_path: Path, suffix: str, orientation: int | None) -> None:
    path = tmp_path / f"a.{suffix}"
    save_turned(path, orientation)
    expected = (60, 40) if (orientation or 1) >= 5 else (40, 60)
    assert file_size(path) == expected
    assert read_whole(path, None, 3, expected).shape == (3, *expected)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_exif_is_named_only_where_it_says_so(tmp_path: Path, suffix: str) -> None:
    said = []
    for orientation, height in ((6, 40), (None, 60), (1, 60)):
        save_turned(tmp_path / f"a.{suffix}", orientation)
        image = {"id": 1, "file_name": f"a.{suffix}", "height": height, "width": 100 - height}
        save_coco(tmp_path / "instances.json", [], images=[image])
        problems = Problems()
        part = read_coco(tmp_path, problems)["all"]
        check_set(part, file_sizes(part.folder, [image.name for image in part.images]), problems)
        said.append(str(problems))
    assert (
        "the file has 40 x 60 pixels (it says by EXIF that it lies on its side), its annotation says 60 x 40" in said[0]
    )
    assert all("the file has 60 x 40 pixels, its annotation says 40 x 60" in text for text in said[1:])
