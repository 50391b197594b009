"""Meaning of the numbers and colors in mask files."""

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_cv.annotations import (
    AnnotationError,
    AnnotationSet,
    MaskOptions,
    Problems,
    class_code,
    load_mask,
    read_annotations,
    save_mask,
    write_masks,
)
from lit_cv.annotations.mask_naming import read_palette
from tests.annotations.sets import png16, save_image


def save_gray(path: Path, values: list[list[int]], bits: int, color_type: int = 0) -> None:
    """Write a PNG with a given bit depth, as gray values (color type 0) or palette indices (3)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(values[0])
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, len(values), bits, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(k % 256 for k in range(3 * 2**bits))) if color_type == 3 else b""
    content = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def save_set(root: Path, *masks: np.ndarray, names: str = "") -> None:
    """Write masks (H, W) or (H, W, 3) with unchanged values, and an image for each."""
    for index, mask in enumerate(masks):
        save_image(root / "images" / f"{index}.png", *mask.shape[:2])
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{index}.png")
    if names:
        (root / "classes.txt").write_text(names)


def read(root: Path, **options: object) -> tuple[AnnotationSet, list[list[list[int]]]]:
    """Read a folder of masks, and return the set and the pixel classes of each mask."""
    problems = Problems()
    part = read_annotations(root, problems, masks=MaskOptions(**options))["all"]  # type: ignore[arg-type]
    problems.stop()
    return part, [load_mask(image.mask, code=part.mask_code).tolist() for image in part.images if image.mask]


@pytest.mark.parametrize(("bits", "color_type"), [(1, 0), (2, 0), (4, 0), (8, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_values_at_every_bit_depth(tmp_path: Path, bits: int, color_type: int) -> None:
    values = [[0, 1, 2**bits - 1], [min(3, 2**bits - 1), 0, 0]]
    save_gray(tmp_path / "m.png", values, bits, color_type)
    assert load_mask(tmp_path / "m.png").tolist() == values


def test_values_of_16_bits_and_gray_colors(tmp_path: Path) -> None:
    values = np.array([[0, 7], [200, 255]])
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.stack([values] * 3, -1).astype(np.uint8)).save(tmp_path / "rgb.png")
    for name in ("16.png", "rgb.png"):
        assert np.array_equal(load_mask(tmp_path / name), values)
    Image.fromarray((values + 1).astype(np.uint16)).save(tmp_path / "16.png")
    with pytest.raises(ValueError, match="contains the value 256"):
        load_mask(tmp_path / "16.png")


BINARY = np.array([[0, 255, 255], [0, 0, 255]])


@pytest.mark.parametrize(("names", "expected"), [("ground\ncell\n", ["ground", "cell"]), ("", ["0", "255"])])
def test_masks_of_0_and_255_have_two_classes(tmp_path: Path, names: str, expected: list[str]) -> None:
    save_set(tmp_path, BINARY, BINARY * 0, names=names)
    part, masks = read(tmp_path)
    assert part.mask_classes == expected
    assert masks == [[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]
    write_masks({"all": part}, tmp_path / "again")
    assert load_mask(tmp_path / "again/masks/0.png").tolist() == masks[0]


def test_255_is_ignored_otherwise(tmp_path: Path) -> None:
    save_set(tmp_path, BINARY, BINARY * 0 + 1, names="ground\ncell\n")
    assert read(tmp_path)[1][0] == BINARY.tolist()
    save_set(tmp_path, BINARY, BINARY * 0)
    for given in (255, "255"):
        part, masks = read(tmp_path, ignore=[given])
        assert (part.mask_classes, masks[0]) == (["ground", "cell"], BINARY.tolist())


def test_sparse_values_become_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_set(tmp_path, np.array([[0, 50, 100], [150, 255, 0]]))
    part, masks = read(tmp_path)
    assert part.mask_classes == ["0", "50", "100", "150"]
    assert masks == [[[0, 1, 2], [3, 255, 0]]]
    assert "the mask values have no names (0, 50, 100, 150; 255 is ignored): name them" in caplog.text


def test_warnings_about_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_set(tmp_path, np.array([[0, 2, 255], [255, 0, 0]]), names="ground\ncell\nwall\n")
    read(tmp_path)
    assert "1 of 3 classes occur in none of the 1 training masks: cell." in caplog.text
    assert "33% of the pixels of the training masks are ignored" in caplog.text
    caplog.clear()
    save_set(tmp_path, np.array([[0, 2, 1], [255, 0, 0]]))
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert not caplog.records


def test_ignored_classes(tmp_path: Path) -> None:
    save_set(tmp_path, np.array([[0, 1, 2], [3, 255, 0]]), names="void\nroad\ncar\n")
    with pytest.raises(AnnotationError, match=r"contains the value 3: valid are 0 to 2 \(void, road, car\) and 255"):
        read(tmp_path)
    part, masks = read(tmp_path, ignore=["void", 3])
    assert part.mask_classes == ["road", "car"]
    assert masks == [[[255, 0, 1], [255, 255, 255]]]
    assert read(tmp_path, ignore=["0", "3"])[1] == masks
    for given, message in (
        ("rode", "unknown class 'rode' .*: did you mean 'road'"),
        (256, "mask values are 0 to 255"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, ignore=[given])
    with pytest.raises(ValueError, match="all classes are ignored"):
        read(tmp_path, ignore=["void", "road", "car"])


def test_ignored_classes_of_outlines() -> None:
    code = class_code(["background", "void", "cell"], ["void"])
    assert code.names == ["background", "cell"]
    assert code.apply(np.array([[0, 1, 2, 255]], dtype=np.uint8)).tolist() == [[0, 255, 1, 255]]


COLORS = np.array([[[0, 0, 0], [128, 0, 64]], [[64, 0, 128], [1, 2, 3]]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nground:0,0,0::\ncell 2:128,0,64:a,b:\ncell 2:64,0,128::\nvoid:1,2,3::\n",
        ),
        ("class_dict.csv", "name,r,g,b\nground,0,0,0\ncell 2,128,0,64\ncell 2,64,0,128\nvoid,1,2,3\n"),
        ("label_colors.txt", "0 0 0\t\tground\n128 0 64 cell 2\n64 0 128 cell 2\n1 2 3 void\n"),
    ],
)
def test_color_masks_with_palette(tmp_path: Path, name: str, text: str) -> None:
    save_set(tmp_path, COLORS, COLORS * 0)
    with pytest.raises(
        AnnotationError, match=r"has the color \(0, 0, 0\): give a file that names the colors \(`palette`\)"
    ):
        read(tmp_path)
    (tmp_path / name).write_text(text)
    part, masks = read(tmp_path)
    assert part.mask_classes == ["ground", "cell 2", "void"]
    assert masks == [[[0, 1], [1, 2]], [[0, 0], [0, 0]]]
    part, masks = read(tmp_path, ignore=["void"])
    assert (part.mask_classes, masks[0]) == (["ground", "cell 2"], [[0, 1], [1, 255]])
    (tmp_path / name).write_text("ground 0 0 0\ncell 128 0 64\ncell 64 0 128\n")
    with pytest.raises(AnnotationError, match=r"0.png: the mask has the color \(1, 2, 3\), which has no name"):
        read(tmp_path)


def test_palette_names_classes_of_numbers(tmp_path: Path) -> None:
    save_set(tmp_path, np.array([[0, 1], [2, 255]]))
    (tmp_path / "colors.txt").write_text("ground,0,0,0\ncell,128,0,64\nwall,64,0,128\n")
    part, masks = read(tmp_path, palette=tmp_path / "colors.txt")
    assert (part.mask_classes, masks) == (["ground", "cell", "wall"], [[[0, 1], [2, 255]]])
    save_mask(np.array([[0, 1], [2, 0]]), tmp_path / "masks/0.png")  # VOC colors, not in the file
    assert read(tmp_path, palette=tmp_path / "colors.txt")[1] == [[[0, 1], [2, 0]]]
    (tmp_path / "colors.txt").write_text("ground,0,0,0\nwall,0,128,0\ncell,128,0,0\n")
    part, masks = read(tmp_path, palette=tmp_path / "colors.txt")  # colors count if the palette file has them
    assert (part.mask_classes, masks) == (["ground", "wall", "cell"], [[[0, 2], [1, 0]]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,2,3\n1 2\n", "line 2: '1 2' is not a name with three numbers"),
        ("a,300,1,2\n", "line 1: 'a,300,1,2' is not a name"),
        ("a,1,2,3\nb,1,2,3\n", r"line 2: color \[1, 2, 3\] is already used for 'a'"),
        ("name,r,g,b\n", "contains no colors"),
    ],
)
def test_invalid_palettes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_palette(tmp_path / "labelmap.txt")


@pytest.mark.parametrize("name", ["labelmap.txt", "label_colors.txt"])
def test_palette_names_may_be_numbers(tmp_path: Path, name: str) -> None:
    last = name == "label_colors.txt"
    lines = [f"{color} {key}" if last else f"{key}:{color.replace(' ', ',')}::" for key, color in COLORED.items()]
    (tmp_path / name).write_text("\n".join(lines))
    assert read_palette(tmp_path / name) == {0: "7", 0x010203: "#1", 0x040506: "12"}


COLORED = {"7": "0 0 0", "#1": "1 2 3", "12": "4 5 6"}


def test_error_names_16_bit_colors(tmp_path: Path) -> None:
    colors = np.zeros((4, 6, 3), dtype=np.uint16)
    colors[2:] = 1
    save_set(tmp_path, np.zeros((4, 6), np.uint8))
    (tmp_path / "masks" / "0.png").write_bytes(png16(colors))
    with pytest.raises(AnnotationError, match="has 16-bit colors: masks have 8-bit"):
        read(tmp_path)
