import io
import os
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule, UnreadableImageError, WebDatasetDataModule, images, read_image
from datamodules.folder import find_images
from datamodules.inspection import unreadable_files
from datamodules.jpeg_header import jpeg_size
from lit_cv.annotations import file_size
from lit_cv.image_formats import IMAGE_SUFFIXES
from tests.processes import run_code

RGB = np.asarray(
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)).resize((70, 50), 3)
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 70 50\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str, **options: object) -> bytearray:
    content = io.BytesIO()
    Image.fromarray(RGB).save(content, kind, **options)
    return bytearray(content.getvalue())


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a fake Ghostscript, which is first on the path, creates when it is started."""
    marker, programs = tmp_path / "marker", tmp_path / "programs"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{marker}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # PIL searches for it once
    return marker


@pytest.mark.skipif(os.name == "nt", reason="the fake program is a shell script")
def test_no_image_starts_a_program(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"a{suffix}" for suffix in sorted(IMAGE_SUFFIXES)]
    for name in names:
        (folder / name).write_bytes(EPS)
        with pytest.raises(UnreadableImageError, match="it is not an image"):
            read_image(folder / name, 8)
        assert file_size(folder / name) == "the file is not an image"
    assert sorted(unreadable_files(folder, names)) == names
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "train-0.tar", "w") as tar:
        for name, content in (("0.jpg", EPS), ("0.cls", b"0"), ("1.png", bytes(encoded("PNG"))), ("1.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = WebDatasetDataModule(str(shards), image_size=8, val_fraction=0.0, on_error="skip")
    data.prepare_data()
    assert len(data.train_dataset) == 1
    assert not marker.exists()
    with Image.open(folder / "a.jpg") as image, pytest.raises(Exception):  # noqa: B017, PT011 - the marker is what counts
        image.load()
    assert marker.exists()  # PIL itself starts Ghostscript


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".heic", ".heif"}))
def test_all_listed_formats_are_read(tmp_path: Path, suffix: str) -> None:
    kinds = {
        ".jpe": "JPEG", ".jfif": "JPEG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF",
        ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".jp2": "JPEG2000",
    }  # fmt: skip
    image = Image.fromarray(RGB).convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB"))
    image.save(tmp_path / f"a{suffix}", kinds.get(suffix, suffix[1:].upper()))
    found = read_image(tmp_path / f"a{suffix}", channels=1).float()
    assert (found - torch.from_numpy(np.array(image.convert("L"), np.float32))).abs().mean() < 12
    assert file_size(tmp_path / f"a{suffix}") == (50, 70)


def test_mpo_with_two_images_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert (read_image(tmp_path / "a.jpg").float() - torch.from_numpy(RGB.transpose(2, 0, 1).copy())).abs().mean() < 12
    assert file_size(tmp_path / "a.jpg") == (50, 70)


def with_size(content: bytearray, before: bytes, skipped: int, form: str, side: int = 60_000) -> bytes:
    """Overwrite width and height in a header, at an offset from the bytes `before`."""
    at = content.index(before) + skipped
    new = struct.pack(form, side, side)
    return bytes(content[:at] + new + content[at + len(new) :])


def jpeg_bomb(inserted: bytes, **options: object) -> bytes:
    """Return a JPEG whose header claims 400 megapixels, with bytes before it that libjpeg skips."""
    content = encoded("JPEG", **options)
    mark = b"\xff\xc2" if options else b"\xff\xc0"
    at = content.index(mark)
    return with_size(content[:at] + inserted + content[at:], mark, 5, ">HH", 20_000)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(text: bytes = b"a\0b") -> bytes:
    """Return an invalid PNG, whose header is not the first chunk."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    first = png_chunk(b"tEXt", text)
    return b"\x89PNG\r\n\x1a\n" + first + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


def tiff_bomb() -> bytes:
    content = encoded("TIFF")
    for tag in (256, 257):
        at = max(content.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    return bytes(content)


def webp_bomb() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    content = encoded("WEBP", exif=exif)
    at = content.index(b"VP8X") + 12
    return bytes(content[:at] + 2 * (59_999).to_bytes(3, "little") + content[at + 6 :])


BOMBS: dict[str, Callable[[], bytes]] = {
    "stray.jpg": lambda: jpeg_bomb(b"stray bytes"),
    "stuffed.jpg": lambda: jpeg_bomb(b"\xff\x00\xff\xff"),
    "after_a_restart.jpg": lambda: jpeg_bomb(b"\xff\xd0\xff\x01a"),
    "progressive.jpg": lambda: jpeg_bomb(b"", progressive=True),
    "late.png": png_bomb,
    "frame.gif": lambda: with_size(encoded("GIF"), b",\0\0\0\0", 5, "<HH"),
    "screen.gif": lambda: with_size(encoded("GIF"), b"GIF8", 6, "<HH"),
    "a.bmp": lambda: with_size(encoded("BMP"), b"BM", 18, "<ii"),
    "a.tga": lambda: with_size(encoded("TGA"), b"\0\0", 12, "<HH"),
    "a.ppm": lambda: b"P6 60000 60000 255\n" + bytes(100),
    "a.pbm": lambda: b"P4 600000 600000\n" + bytes(100),
    "a.tif": tiff_bomb,
    "a.webp": webp_bomb,
    "lossless.webp": lambda: with_size(encoded("WEBP", lossless=True), b"VP8L", 9, "<HH", 0x3FFF),
    "a.avif": lambda: with_size(encoded("AVIF"), b"ispe", 8, ">II"),
    "box.jp2": lambda: with_size(encoded("JPEG2000"), b"ihdr", 4, ">II"),
    "stream.jp2": lambda: with_size(encoded("JPEG2000"), b"\xff\x51", 6, ">II"),
    "tile.jp2": lambda: with_size(encoded("JPEG2000"), b"\xff\x51", 22, ">II"),
}

READ_ALL = """
import resource, sys
from pathlib import Path
from datamodules import UnreadableImageError, read_image
from lit_cv.annotations import file_size
read_image(Path(sys.argv[1]) / "good.jpg", 8), read_image(Path(sys.argv[1]) / "good.webp", 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    for size in (None, 32):
        try:
            found = tuple(read_image(path, size).shape)
        except UnreadableImageError as error:
            found = "refused"
        print(path.name, found, file_size(path))
print("kilobytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux does")
def test_decompression_bombs_take_no_memory(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    (tmp_path / "good.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "good.webp").write_bytes(encoded("WEBP"))
    done = run_code(READ_ALL, str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    accepted = {line.split()[0] for line in lines if " refused " not in line}
    assert accepted == {"good.jpg", "good.webp", "tile.jp2"}  # a tile may be larger than its image
    assert int(last.split()[1]) < 100_000


def test_png_with_late_header_is_measured() -> None:
    content = png_bomb(struct.pack(">II", 7, 5))  # at the usual position of the size
    with pytest.raises(UnreadableImageError, match="3600000000 pixels"):
        images.decode_image(bytearray(content), "a.png")


def test_jpeg_with_many_scans_is_refused() -> None:
    content = encoded("JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    assert images.decode_image(content, "a.jpg").shape == (3, 50, 70)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: it has 1,0\d\d scans, over the limit of 200"):
        images.decode_image(content[:-2] + 1000 * last + content[-2:], "a.jpg")


def test_jpeg_size_equals_libjpeg() -> None:
    for inserted in (b"", b"stray", b"\0\xff\0", b"\xff\xff\xff", b"\xff\xd7", b"\xff\x01", b"\xff\xfe\0\x04\xff\xc0"):
        content = encoded("JPEG")
        at = content.index(b"\xff\xc0")
        content = content[:at] + inserted + content[at:]
        assert jpeg_size(content) == (50, 70)
        assert images.decode_image(content, "a.jpg").shape == (3, 50, 70)
    assert jpeg_size(bytearray(b"\xff\xd8\xff\xda\0\x04\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01")) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_non_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(RGB).save(tmp_path / "good.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    reasons = {
        "pipe.jpg": "a pipe, a device or a socket",
        "device.jpg": "a pipe, a device or a socket",
        "dangling.jpg": "a link to a file that does not exist",
        "folder.jpg": "it is a folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError, match=f"{name}: .*{reason}"):
            read_image(tmp_path / name)
        assert isinstance(file_size(tmp_path / name), str)
    names = find_images(tmp_path)
    assert names == ["dangling.jpg", "device.jpg", "good.png", "link.png", "pipe.jpg"]
    broken = unreadable_files(tmp_path, names)
    assert sorted(broken) == ["dangling.jpg", "device.jpg", "pipe.jpg"]


def test_huge_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(200 << 30)
    for read in (read_image, images.read_whole):
        with pytest.raises(
            UnreadableImageError, match=r"x\.jpg: it has 214,748,364,800 bytes, over the limit of 2,147,483,648"
        ):
            read(tmp_path / "x.jpg")
    assert "bytes, over the limit of" in str(file_size(tmp_path / "x.jpg"))


def test_file_that_shrinks_during_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded("JPEG")[:400])
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result((*real(handle)[:6], 4000, *real(handle)[7:])))
    with pytest.raises(UnreadableImageError, match=r"x\.jpg: "):
        read_image(tmp_path / "x.jpg")


def test_names_are_escaped_in_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evil = "\x1b[2J\u202e"
    for label in (f"a{evil}", f"b{evil}"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.fromarray(RGB).save(tmp_path / label / f"{number}{evil}.png")
    (tmp_path / f"a{evil}" / f"0{evil}.png").write_bytes(b"nothing")
    data = ImageFolderDataModule(str(tmp_path), image_size=8, on_error="skip", val_fraction=0.0, test_fraction=0.0)
    data.prepare_data()
    assert "1 of 8 images cannot be read" in caplog.text
    data = ImageFolderDataModule(str(tmp_path), image_size=8, classes=["c"])
    with pytest.raises(ValueError, match="unknown class 'c'") as unknown:
        data.setup()
    with pytest.raises(UnreadableImageError) as unreadable:
        read_image(tmp_path / f"a{evil}" / f"0{evil}.png")
    (tmp_path / f"c{evil}").mkdir()
    with pytest.raises(ValueError, match="class folders without images") as empty:
        ImageFolderDataModule(str(tmp_path)).setup()
    for text in (caplog.text, *(str(e.value) for e in (unknown, unreadable, empty))):
        assert not set(text) & set(evil) - set("[2J")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
@pytest.mark.parametrize("options", [{}, {"cache": True}, {"on_error": "skip"}])
def test_names_not_utf_8(tmp_path: Path, options: dict[str, object]) -> None:
    root = tmp_path / os.fsdecode(b"r\xff")
    for label in (b"a\xe4", b"b\xf6"):
        (root / os.fsdecode(label)).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(RGB).save(root / os.fsdecode(label) / os.fsdecode(b"%d\xfc.png" % number))
    for _ in range(2):
        data = ImageFolderDataModule(str(root), image_size=8, num_workers=0, **options)  # type: ignore[arg-type]
        data.prepare_data()
        data.setup()
        assert sum(len(part or ()) for part in (data.train_dataset, data.val_dataset, data.test_dataset)) == 12
        assert data.train_dataset[0]["image"].shape == (3, 8, 8)
        assert os.fsencode(data.train_dataset.sample_name(0)).startswith(b"a\xe4/")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="makes links")
def test_recursive_links_are_refused(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / f"{level:02}").mkdir()
        for name in "ab" if level else ():
            (tmp_path / f"{level - 1:02}" / name).symlink_to(tmp_path / f"{level:02}")
    with pytest.raises(ValueError, match="more than 100 links lead to"):
        find_images(tmp_path / "00")
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    Image.fromarray(RGB).save(outside / "a.png")
    (inside / "link").symlink_to(outside)
    (inside / "around").symlink_to(inside)
    assert find_images(inside) == ["link/a.png"]  # files outside may be read through a link
