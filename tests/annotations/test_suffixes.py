"""Variants of file suffixes in every format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_cv.annotations import Problems, read_annotations
from lit_cv.annotations.classes import read_folders
from lit_cv.image_formats import IMAGE_SUFFIXES

NAMES = ["a.Jpg", "b.TIF", "c.gif", "d.BMP", "e.WEBP", "f.jfif", "g.PPM"]
KINDS = {"jpg": "JPEG", "tif": "TIFF", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "jfif": "JPEG", "ppm": "PPM"}


def save_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (60, 40), (9, 9, 9)).save(folder / name, format=KINDS[name.partition(".")[2].lower()])
    (folder / "._a.Jpg").write_bytes(b"\0\5\x16\7")  # left by macOS on other file systems
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "thumb.jpg").write_bytes(b"")


def found(root: Path) -> tuple[list[str], int]:
    """Return the names of the images read and the number of objects."""
    problems = Problems()
    part = read_annotations(root, problems)["all"]
    problems.stop()
    return sorted(image.name for image in part.images), sum(len(image.objects) for image in part.images)


@pytest.mark.parametrize("end", [".txt", ".TXT"])
def test_yolo_finds_every_suffix(tmp_path: Path, end: str) -> None:
    save_images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "._a.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "classes.txt").write_text("x\n")
    for name in NAMES:
        (tmp_path / "labels" / f"{name[0]}{end}").write_text("0 0.5 0.5 0.5 0.5\n")
    assert found(tmp_path) == (NAMES, 7)


@pytest.mark.parametrize("end", [".xml", ".XML"])
def test_voc_finds_every_suffix(tmp_path: Path, end: str) -> None:
    save_images(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "._a.xml").write_bytes(b"\0\5\x16\7")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in NAMES:
        text = f"<annotation><object><name>x</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{name[0]}{end}").write_text(text)
    assert found(tmp_path) == (NAMES, 7)


@pytest.mark.parametrize(("end", "kind"), [(".png", "PNG"), (".PNG", "PNG"), (".bmp", "BMP"), (".Tif", "TIFF")])
def test_masks_find_every_suffix(tmp_path: Path, end: str, kind: str) -> None:
    save_images(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for name in [*(name[0] for name in NAMES), "._a"]:
        Image.fromarray(np.ones((40, 60), np.uint8)).save(tmp_path / "masks" / f"{name}{end}", format=kind)
    assert found(tmp_path) == (NAMES, 0)


def test_class_folders_find_every_suffix(tmp_path: Path) -> None:
    save_images(tmp_path / "cat")
    (part,) = read_folders(tmp_path, Problems()).values()
    assert [image.name for image in part.images] == [f"cat/{name}" for name in NAMES]


def test_suffixes_are_defined_once() -> None:
    """A format with a separate list could ignore images that others read."""
    package = Path(__file__).parents[2] / "lit_cv"
    ends = [f'"{suffix}"' for suffix in sorted(IMAGE_SUFFIXES)]
    lists = [
        path.name
        for path in [*package.rglob("*.py"), *(package.parent / "datamodules").rglob("*.py")]
        if sum(end in path.read_text(encoding="utf-8") for end in (*ends, '".JPG"')) > 2
    ]
    assert lists in ([], ["walk.py"])  # the list of lossless mask suffixes
