import io
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule, UnreadableImageError, decoding, read_image
from datamodules.decoding import decode
from lit_cv.annotations import file_size
from tests.annotations.sets import png16

ROOT = Path(__file__).parents[2]
RGB = np.asarray(
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)).resize((70, 50), 3)
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def jpeg(image: np.ndarray = RGB, mode: str = "RGB", **options: object) -> bytearray:
    content = io.BytesIO()
    Image.fromarray(image).convert(mode).save(content, "JPEG", **options)
    return bytearray(content.getvalue())


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Decode JPEGs with each decoder in turn, with the other one disabled."""
    if request.param == "Pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
        monkeypatch.setattr(decoding, "_decode_with_pillow", lambda *arguments: pytest.fail("Pillow decodes it"))
    return str(request.param)


def test_only_one_module_imports_decoders() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("lit_cv", "datamodules", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if any(name in path.read_text("utf-8") for name in ("import simplejpeg", "from simplejpeg", "torchvision.io"))
    ]
    assert sorted(found) == ["datamodules/decoding.py", "scripts/benchmark_data.py"]


@pytest.mark.parametrize("options", [{"subsampling": k} for k in range(3)] + [{"progressive": True}, {"mode": "L"}])
def test_jpeg_matches_pillow(options: dict[str, object], decoder: str) -> None:
    for height, width in ((50, 70), (33, 17), (8, 9)):
        content = jpeg(RGB[:height, :width], **options)  # type: ignore[arg-type]
        expected = torch.tensor(np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(decode(content, None, 3), expected)
        gray = decode(content, None, 1).int() - torch.tensor(np.asarray(Image.open(io.BytesIO(content)).convert("L")))
        assert gray.abs().max() <= 2


def test_jpeg_fraction_matches_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    sides = np.random.RandomState(1).randint(1, 300, (40, 2))
    for height, width in sides.tolist():
        content = jpeg(np.asarray(Image.fromarray(RGB).resize((width, height))))
        for size in (8, 9, 16):
            found = decode(content, (size, size), 3)
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, "simplejpeg", None)
                assert torch.equal(found, decode(content, (size, size), 3)), (height, width, size)


def test_pillow_decodes_what_simplejpeg_refuses() -> None:
    content = jpeg(mode="CMYK")
    expected = torch.tensor(np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode(content, None, 3), expected)


@pytest.mark.parametrize("exif", [None, 3])
@pytest.mark.parametrize("size", [None, (8, 8)])
def test_orientation_from_xmp_without_exif(
    tmp_path: Path, exif: int | None, size: tuple[int, int] | None, decoder: str
) -> None:
    entries = Image.Exif()
    if exif is not None:
        entries[0x0112] = exif
    content = jpeg(quality=95, xmp=XMP % 6, exif=entries)
    (tmp_path / "a.jpg").write_bytes(content)
    expected = np.rot90(RGB, -1) if exif is None else np.rot90(RGB, 2)
    found = decode(content, size, 3)
    assert file_size(tmp_path / "a.jpg") == expected.shape[:2]
    if size is None:
        assert found.shape[1:] == expected.shape[:2]
        assert (found.float() - torch.tensor(expected.copy()).permute(2, 0, 1)).abs().mean() < 12
    else:
        assert (found.shape[1] > found.shape[2]) == (expected.shape[0] > expected.shape[1])


def test_broken_exif_does_not_make_an_image_unreadable(tmp_path: Path, decoder: str) -> None:
    plain = jpeg()
    for entries in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0no EXIF",
    ):
        content = bytearray(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(entries) + 2) + entries + plain[2:])
        assert torch.equal(decode(content, None, 3), decode(plain, None, 3))
        (tmp_path / "a.jpg").write_bytes(content)
        assert file_size(tmp_path / "a.jpg") == (50, 70)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_file_size_matches_pixels(tmp_path: Path, orientation: int, suffix: str) -> None:
    entries = Image.Exif()
    entries[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", exif=entries)
    found = decode(bytearray((tmp_path / f"a.{suffix}").read_bytes()), None, 3)
    assert file_size(tmp_path / f"a.{suffix}") == tuple(found.shape[1:]) == ((70, 50) if orientation > 4 else (50, 70))


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_16_bit_value_on_white(channels: int) -> None:
    values = np.linspace(0, 65535, 3500).reshape(50, 70).astype(np.uint16)
    found = decode(png16(values, (int(values[3, 4]),)), None, channels)
    expected = np.round(values / 65535 * 255)
    expected[3, 4] = 255
    assert np.array_equal(found.numpy(), np.stack([expected] * channels))
    colors = np.random.RandomState(0).randint(0, 65536, (50, 70, 3)).astype(np.uint16)
    found = decode(png16(colors, tuple(colors[3, 4].tolist())), None, 3)
    scaled = np.round(colors / 65535 * 255)
    scaled[3, 4] = 255
    assert np.abs(found.permute(1, 2, 0).numpy() - scaled).max() <= 1  # Pillow keeps the upper 8 bits of colors


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    """Write 12-bit images of two classes in 16-bit TIFF files, and return their values."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            values = np.linspace(0, 4095, 3500).reshape(50, 70).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / label / f"{number}.tif")
    return tmp_path


def test_warns_once_about_12_bit_values(
    dark: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "_warned_dark", False)
    for name in ("0.tif", "1.tif"):
        assert read_image(dark / "a" / name).max() == 16
    said = "0.tif: its values reach 4095 of 65535, so it is dark. If they have 12 bits, set `value_range="
    assert said in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    monkeypatch.setattr(decoding, "_warned_dark", False)
    Image.fromarray(np.full((5, 5), 60_000, np.uint16)).save(dark / "bright.png")
    read_image(dark / "bright.png")
    assert not caplog.records
    Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16)).save(dark / "32.tif")
    read_image(dark / "32.tif")
    assert "32.tif: its values reach 255 of 65535" in caplog.text
    assert "`value_range=[0, 255]`" in caplog.text


@pytest.mark.parametrize("cache", [False, True])
def test_value_range_reaches_the_images(
    dark: Path, cache: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "_warned_dark", False)
    maxima = []
    for value_range in (None, [0.0, 4095.0], [0, 2047]):
        data = ImageFolderDataModule(
            str(dark), image_size=50, cache=cache, num_workers=0, on_error="skip", value_range=value_range
        )
        data.prepare_data()
        data.setup("fit")
        image = data.train_dataset[0]["image"]
        maxima.append(int(image.max()))
        assert int((image == 255).sum()) > 3000 or value_range != [0, 2047]  # more than half of the values are clipped
    assert maxima[0] <= 16
    assert maxima[1] in range(250, 256)
    assert maxima[2] == 255
    assert len([record for record in caplog.records if "value_range" in record.getMessage()]) == 1
    for wrong in ([1], [3, 3], [0, float("inf")], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"value_range=.*: must be the lowest and the highest value"):
            ImageFolderDataModule(str(dark), value_range=wrong)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_images_with_value_range(tmp_path: Path, kind: type) -> None:
    values = np.arange(-10, 2990).reshape(50, 60).astype(kind)
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=r"from -10.* to 2989.*: set their lowest and highest value"):
        read_image(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif", channels=1, value_range=(0, 255))
    assert np.array_equal(found[0].numpy(), values.clip(0, 255).astype(np.uint8))
    if kind is np.float32:
        values[0, 0] = np.nan
        Image.fromarray(values).save(tmp_path / "a.tif")
        with pytest.raises(UnreadableImageError, match="pixels that are not finite"):
            read_image(tmp_path / "a.tif", value_range=(0, 255))


@pytest.mark.parametrize("suffix", ["heic", "HEIF"])
def test_heic_error_names_package(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(6):
            Image.fromarray(RGB).save(tmp_path / label / f"{number}.png")
    path = tmp_path / "a" / f"photo.{suffix}"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    reason = "it is a HEIC file: install pillow-heif, or convert it to JPEG or PNG."
    with pytest.raises(UnreadableImageError, match=f"{suffix}: {reason}"):
        read_image(path)
    assert reason in str(file_size(path))
    data = ImageFolderDataModule(str(tmp_path), image_size=8, on_error="skip")
    data.prepare_data()
    assert "1 of 13 images cannot be read" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["pillow_heif.py", "pillow_heif/__init__.py"])
def test_heic_runs_no_file_of_working_directory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("pillow_heif"):
        pytest.skip("the one that is installed comes first")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('it has run')")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImageError, match="install pillow-heif"):
        read_image("a.heic")


def test_heic_is_read_with_pillow_heif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "a.heic", quality=90)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    found = read_image(tmp_path / "a.heic").float()
    assert (found - torch.tensor(RGB).permute(2, 0, 1)).abs().mean() < 12
    assert file_size(tmp_path / "a.heic") == (50, 70)


def test_warns_about_dark_16_bit_colors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "_warned_dark", False)
    values = np.random.RandomState(0).randint(0, 4096, (5, 7, 3)).astype(np.uint16)
    (tmp_path / "bright.png").write_bytes(png16(16 * values))
    read_image(tmp_path / "bright.png")
    assert not caplog.records
    (tmp_path / "dark.png").write_bytes(png16(values))
    for _ in range(2):
        assert read_image(tmp_path / "dark.png").max() < 16
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'dark.png'}: its colors have 16 bits, of which only the upper 8 are read, so it is dark. Convert "
        "such images to 8 bits per color."
    ]
    with pytest.raises(UnreadableImageError, match=r"16-bit colors, which `value_range` does not scale"):
        read_image(tmp_path / "bright.png", value_range=(0, 4095))
