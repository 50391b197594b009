import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import UnreadableImageError, read_image
from datamodules.images import fit, read_whole
from datamodules.jpeg_header import jpeg_size

RGB = np.asarray(
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)).resize((70, 50), 3)
)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array.transpose(2, 0, 1).copy() if array.ndim == 3 else array[None])


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    assert a.shape == b.shape
    assert a.dtype == torch.uint8
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "ä ö.PNG"])
def test_lossless_formats(tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name)
    assert difference(read_image(tmp_path / name), tensor(RGB)) == 0


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_lossy_formats_match_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    if suffix == "webp" and mode == "CMYK":
        return
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).convert(mode).save(path, quality=95)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert difference(read_image(path), tensor(expected)) <= 2
    assert read_image(path, channels=1).shape == (1, 50, 70)
    gray = np.asarray(Image.open(path).convert("L"))
    assert difference(read_image(path, channels=1), tensor(gray)) <= 2


def test_image_with_wrong_suffix(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.jpg")
    assert difference(read_image(tmp_path / "a.jpg"), tensor(RGB)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_orientation(tmp_path: Path, orientation: int, name: str) -> None:
    # Position of the first row and the first column for each value of the EXIF standard.
    upright = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(
        tmp_path / name, exif=exif, **({"quality": 95} if name == "a.jpg" else {"lossless": True})
    )
    assert difference(read_image(tmp_path / name), tensor(upright)) <= (40 if name == "a.jpg" else 0)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_blended_onto_white(tmp_path: Path, suffix: str, channels: int) -> None:
    opacity = np.random.RandomState(1).randint(0, 256, (50, 70, 1)).astype(np.uint8)
    Image.fromarray(np.concatenate([RGB, opacity], 2)).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    part = opacity / 255
    expected = RGB * part + 255 * (1 - part)
    if channels == 1:
        expected = expected @ np.array([[0.299], [0.587], [0.114]])
    found = read_image(tmp_path / f"a.{suffix}", channels=channels)  # type: ignore[arg-type]
    assert difference(found, tensor(expected.round().astype(np.uint8))) <= 2


def test_palettes(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.gif")
    expected = tensor(np.asarray(image.convert("RGB")))
    assert difference(read_image(tmp_path / "a.png"), expected) == 0
    assert difference(read_image(tmp_path / "a.gif"), expected) == 0
    image.save(tmp_path / "b.png", transparency=3)
    white = np.where((np.asarray(image) == 3)[..., None], 255, np.asarray(image.convert("RGB")))
    assert difference(read_image(tmp_path / "b.png"), tensor(white)) == 0
    bits = Image.fromarray(RGB).convert("1")
    bits.save(tmp_path / "c.png")
    assert difference(read_image(tmp_path / "c.png", channels=1), tensor(np.asarray(bits.convert("L")))) == 0


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    values = np.linspace(0, 65535, 3500).reshape(50, 70).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert difference(read_image(tmp_path / name, channels=1), tensor(expected)) == 0
    assert difference(read_image(tmp_path / name), tensor(np.stack([expected] * 3, 2))) == 0


@pytest.mark.parametrize(
    ("name", "keep"), [("a.jpg", 0.5), ("a.jpg", 0.97), ("a.png", 0.5), ("a.webp", 0.5), ("a.tif", 0.3)]
)
def test_truncated_file(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    for size in (None, 8):
        with pytest.raises(UnreadableImageError, match=name):
            read_image(path, size)


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "broken.jpg").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"cannot read the image .*broken\.jpg"):
        read_image(tmp_path / "broken.jpg")
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        read_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize("size", [(20, 20), (50, 50), (60, 30), (25, 35), (100, 100)])
def test_fit_is_centered_crop_and_antialiased_resize(size: tuple[int, int]) -> None:
    from torchvision.transforms.v2 import functional as v2

    found = fit(tensor(RGB), size)
    scale = min(50 / size[0], 70 / size[1])
    part = round(size[0] * scale), round(size[1] * scale)
    expected = v2.resize(v2.center_crop(tensor(RGB), list(part)), list(size), antialias=True)
    assert difference(found, expected) <= 1


def test_larger_jpeg_is_decoded_at_a_fraction(tmp_path: Path) -> None:
    smooth = Image.fromarray(RGB).resize((700, 500), 3)
    smooth.save(tmp_path / "large.jpg", quality=95)
    found = read_image(tmp_path / "large.jpg", 40).float()
    expected = fit(read_image(tmp_path / "large.jpg"), (40, 40)).float()
    assert (found - expected).abs().mean() < 1


def test_size_in_jpeg_header(tmp_path: Path) -> None:
    for progressive in (False, True):
        Image.fromarray(RGB).save(tmp_path / "a.jpg", progressive=progressive, exif=Image.Exif(), comment=b"\xff" * 9)
        assert jpeg_size(bytearray((tmp_path / "a.jpg").read_bytes())) == (50, 70)
    assert jpeg_size(bytearray(b"\xff\xd8\xff")) is None


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG that declares a given size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    Image.fromarray(RGB).save(tmp_path / "bomb.jpg")
    data = bytearray((tmp_path / "bomb.jpg").read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "bomb.jpg").write_bytes(data)
    Image.fromarray(RGB).save(tmp_path / "bomb.gif")
    data = bytearray((tmp_path / "bomb.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    (tmp_path / "bomb.gif").write_bytes(data)
    for name in ("bomb.png", "bomb.jpg", "bomb.gif"):
        for size in (None, 32):
            with pytest.raises(UnreadableImageError, match=rf"{name}: .*(over the limit of 178,956,970|exceeds limit)"):
                read_image(tmp_path / name, size)


def test_file_with_changed_size(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    height, width = RGB.shape[:2]
    assert read_whole(tmp_path / "a.jpg", (8, 8), expected=(height, width)).shape == (3, 8, 8)
    with pytest.raises(UnreadableImageError, match=rf"a\.jpg: it has changed: it had {width} x {height + 1} pixels"):
        read_whole(tmp_path / "a.jpg", (8, 8), expected=(height + 1, width))
    Image.fromarray(np.zeros((513, 517, 3), np.uint8)).save(tmp_path / "large.jpg")  # decoded at an eighth
    assert read_whole(tmp_path / "large.jpg", (16, 16), expected=(513, 517)).shape == (3, 16, 16)
