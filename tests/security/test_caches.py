import errno
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import (
    AnnotatedImagesDataModule,
    ImageFolderDataModule,
    WebDatasetDataModule,
    cache,
    inspection,
    read_image,
)
from datamodules import stored_file as storing
from datamodules.annotation_files import cached_mask_facts, cached_sizes
from datamodules.cache import cached_arrays, cached_images
from datamodules.inspection import unreadable_files
from datamodules.stored_file import cache_folder
from tests.datamodules.files import save_images
from tests.datamodules.test_web_dataset import save_shard
from tests.marks import first_quick

pytestmark = pytest.mark.slow

FOUR = 4  # images: the number that a cache compares, so that every difference is found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "lit_cv"


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "images", [path.name for path in save_images(tmp_path / "images", FOUR)]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("work of years")
    return path


def forget() -> None:
    """Forget all checked files, like a new process."""
    storing._verified.clear()
    storing._refused.clear()


def decoded(root: Path, paths: list[str]) -> np.ndarray:
    return np.stack([read_image(root / path, 8).numpy() for path in paths])


def cached(root: Path, paths: list[str]) -> np.ndarray:
    forget()
    return np.array(cached_images(root, paths, 8, 3))


def only(root: Path, pattern: str) -> Path:
    (found,) = cache_folder(root).glob(pattern)
    return found


def test_link_at_cache_lock_is_not_followed(
    images: tuple[Path, list[str]], victim: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, paths = images
    (root / ".lit_cv_cache").mkdir()
    (root / ".lit_cv_cache" / "lock").symlink_to(victim)
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert unreadable_files(root, paths) == {}
    assert victim.read_text() == "work of years"
    assert len(list(home.glob("*/*.npy"))) == 1
    assert caplog.text.count("is or contains a link and is not used as a cache") == 1


def test_link_at_cache_folder_is_not_used(
    images: tuple[Path, list[str]], tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, paths = images
    (tmp_path / "elsewhere").mkdir()
    (root / ".lit_cv_cache").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert unreadable_files(root, paths) == {}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list(home.glob("*/*.npy"))) == 1
    assert caplog.text.count("is not used as a cache") == 1


def test_links_at_cache_files_are_replaced(images: tuple[Path, list[str]], victim: Path) -> None:
    root, paths = images
    cached(root, paths)
    unreadable_files(root, paths)
    for pattern in ("*.npy", "checked.json"):
        file = only(root, pattern)
        file.unlink()
        file.symlink_to(victim)
    # earlier names of unfinished files were predictable: they ended in a process number
    for number in range(os.getpid(), os.getpid() + 50):
        (cache_folder(root) / f".checked.json.{number}").symlink_to(victim)
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert unreadable_files(root, paths) == {}
    assert victim.read_text() == "work of years"
    assert not only(root, "*.npy").is_symlink()
    assert not only(root, "checked.json").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_pipes_at_cache_files_do_not_block(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    cached(root, paths)
    unreadable_files(root, paths)
    for pattern in ("*.npy", "checked.json"):
        file = only(root, pattern)
        file.unlink()
        os.mkfifo(file)
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert unreadable_files(root, paths) == {}
    lock = cache_folder(root) / "lock"
    lock.unlink()
    os.mkfifo(lock)
    assert np.array_equal(cached(root, paths), decoded(root, paths))


def test_file_at_cache_folder(images: tuple[Path, list[str]], home: Path) -> None:
    root, paths = images
    (root / ".lit_cv_cache").write_text("mine")
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert (root / ".lit_cv_cache").read_text() == "mine"
    assert len(list(home.glob("*/*.npy"))) == 1


def test_unfinished_cache_files_are_removed(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    unfinished = cache_folder(root) / ".images-8-x.npy.0123456789abcdef.part"
    other = cache_folder(root) / ".notes"
    unfinished.write_text("half")
    other.write_text("mine")
    cached(root, paths)
    assert (unfinished.exists(), other.exists()) == (False, True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has other locks")
def test_unfinished_files_stay_without_locks(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    root, paths = images
    monkeypatch.setattr("fcntl.flock", refuse)
    written = cache_folder(root) / ".images-8-x.npy.0123456789abcdef.part"
    written.write_text("half")
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert written.exists()


def as_array(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        changed = change(np.load(file))
        with open(file, "wb") as opened:
            np.save(opened, changed)

    return write


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5)


def lengthen(file: Path) -> None:
    os.truncate(file, 200 << 30)


def as_pickle(file: Path) -> None:
    with open(file, "wb") as opened:
        np.save(opened, np.array([{}], dtype=object), allow_pickle=True)


def claim(file: Path) -> None:
    """Make the header claim a shape with more pixels than fit in memory, without changing its length."""
    content = file.read_bytes()
    file.write_bytes(content.replace(b"(4, 3, 8, 8), }", b"(9999999999,),}"))


FLAWS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "contains 763 bytes of pixels, not 768"),
    "longer": (lengthen, "bytes of pixels, not 768"),
    "empty": (lambda file: file.write_bytes(b""), "it is broken"),
    "text": (lambda file: file.write_bytes(b"no array" * 100), "it is broken"),
    "nested": (lambda file: file.write_bytes(b"\x93NUMPY\x01\x00\x70\x17" + b"(" * 6000), "it is broken"),
    "dtype": (as_array(lambda images: images.astype(np.int16)), "contains int16 of shape"),
    "signed": (as_array(lambda images: images.view(np.int8)), "contains int8 of shape"),
    "shape": (as_array(lambda images: images[:3]), r"of shape \(3, 3, 8, 8\), not uint8 of shape \(4, 3, 8, 8\)"),
    "order": (as_array(np.asfortranarray), "it contains uint8 of shape"),
    "flat": (as_array(np.ravel), r"of shape \(768,\)"),
    "claim": (claim, r"of shape \(9999999999,\)"),
    "pickle": (as_pickle, "it is broken|contains object"),
    "pixels": (as_array(lambda images: 255 - images), "its pixels differ from those of the images"),
    "swapped": (as_array(lambda images: images[::-1].copy()), "its pixels differ from those of the images"),
    "zeros": (as_array(np.zeros_like), "its pixels differ from those of the images"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_invalid_cache_is_rebuilt(images: tuple[Path, list[str]], name: str, caplog: pytest.LogCaptureFixture) -> None:
    root, paths = images
    change, message = FLAWS[name]
    cached(root, paths)
    file = only(root, "*.npy")
    change(file)
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is rebuilt: " in record.getMessage()
    assert "\n" not in record.getMessage()
    assert re.search(message, record.getMessage())
    caplog.clear()
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert not caplog.records


def test_cache_of_another_set_is_not_used(images: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, paths = images
    other = tmp_path / "other"
    other.mkdir()
    for path in paths:
        Image.open(root / path).transpose(Image.Transpose.ROTATE_180).point(lambda value: 255 - value).save(
            other / path
        )
        size = max((root / path).stat().st_size, (other / path).stat().st_size)
        for folder in (root, other):  # bytes after the end of a PNG are ignored
            os.truncate(folder / path, size)
            os.utime(folder / path, ns=(10**18, 10**18))
    cached(root, paths)
    shutil.copytree(root / ".lit_cv_cache", other / ".lit_cv_cache")
    assert np.array_equal(cached(other, paths), decoded(other, paths))


def test_masks_are_compared_exactly(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    values = np.arange(48, dtype=np.uint8)
    for tolerance, expected in ((0, [*range(48)]), (2, [1, *range(1, 48)])):
        arguments = (tmp_path, [["a"]], [(6, 8)], lambda position: values.reshape(6, 8), "masks", tolerance, tolerance)
        forget()
        cached_arrays(*arguments)
        file = max(cache_folder(tmp_path).glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
        as_array(lambda array: np.concatenate([[array[1]], array[1:]]))(file)
        forget()
        assert cached_arrays(*arguments)[0].tolist() == expected


def test_valid_cache_costs_few_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    paths = [path.name for path in save_images(root, 40)]
    cached(root, paths)
    unreadable_files(root, paths)
    read: list[str] = []
    for module in (inspection, cache):
        monkeypatch.setattr(module, "read_image", lambda path, *a: read.append(path.name) or read_image(path, *a))
    assert np.array_equal(cached(root, paths), decoded(root, paths))
    assert len(set(read)) == len(read) == 4
    cached_images(root, paths, 8, 3)  # compared once per process
    assert len(read) == 4
    unreadable_files(root, paths)
    unreadable_files(root, paths)
    assert len(read) == 8


def test_ranks_compare_same_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("a")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    drawn = {name: [storing.draw_few(tmp_path / name, range(1000)) for _ in range(2)] for name in "ab"}
    assert drawn["a"][0] == drawn["a"][1]
    assert len(set(drawn["a"][0])) == 4
    assert drawn["a"] != drawn["b"]  # the drawn images are not predictable from outside
    assert sorted(storing.draw_few(tmp_path / "a", range(3))) == [0, 1, 2]
    assert storing.draw_few(tmp_path / "a", []) == []


def open_at_once(root: Path, paths: list[str], start: Any, results: Any) -> None:
    start.wait()
    forget()
    results.put(np.array_equal(cached_images(root, paths, 8, 3), decoded(root, paths)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
def test_ranks_rebuild_cache_concurrently(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    cached(root, paths)
    as_array(lambda array: 255 - array)(only(root, "*.npy"))
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    ranks = [context.Process(target=open_at_once, args=(root, paths, start, results)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    time.sleep(0.05)
    start.set()
    assert [results.get(timeout=60) for _ in ranks] == [True] * 4
    for rank in ranks:
        rank.join()
    assert sorted(path.name for path in cache_folder(root).iterdir())[1:] == ["lock"]


NOTES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "torn": lambda notes: json.dumps(notes)[:-20],
    "list": lambda notes: "[1, 2]",
    "number": lambda notes: "1",
    "nested": lambda notes: "[" * 100_000 + "]" * 100_000,
    "digits": lambda notes: "9" * 10_000,
    "empty entries": lambda notes: json.dumps({path: [] for path in notes}),
    "texts": lambda notes: json.dumps(dict.fromkeys(notes, "a")),
    "nothing": lambda notes: json.dumps(dict.fromkeys(notes)),
    "short": lambda notes: json.dumps({path: entry[:2] for path, entry in notes.items()}),
    "long": lambda notes: json.dumps({path: [*entry, 1] for path, entry in notes.items()}),
    "other types": lambda notes: json.dumps({path: [*entry[:-1], {"a": [1]}] for path, entry in notes.items()}),
    "true": lambda notes: json.dumps({path: [*entry[:-1], True] for path, entry in notes.items()}),
    "infinite": lambda notes: json.dumps({path: [*entry[:-1], [float("inf"), 1]] for path, entry in notes.items()}),
    "huge": lambda notes: json.dumps({path: [*entry[:-1], [10**9, 10**9]] for path, entry in notes.items()}),
    "wrong": lambda notes: json.dumps({path: [*entry[:-1], "it is bad\x1b[2J"] for path, entry in notes.items()}),
    "no text": lambda notes: b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("name", NOTES)
def test_invalid_notes_are_rebuilt(images: tuple[Path, list[str]], name: str, caplog: pytest.LogCaptureFixture) -> None:
    root, paths = images
    (root / paths[2]).write_bytes(b"nothing")
    mask = root / "mask.png"
    Image.fromarray(np.array([[3, 1]], np.uint8)).save(mask)
    look = {
        "checked": lambda: unreadable_files(root, paths),
        "sizes": lambda: cached_sizes(root, paths),
        "masks": lambda: cached_mask_facts(root, [mask]),
    }
    expected = {kind: find() for kind, find in look.items()}
    for kind, find in look.items():
        file = cache_folder(root) / f"{kind}.json"
        content = NOTES[name](json.loads(file.read_text()))
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        forget()
        caplog.clear()
        assert find() == expected[kind]
        assert "\x1b" not in caplog.text
        assert all("\n" not in record.getMessage() for record in caplog.records)
        assert json.loads(file.read_text()).keys() >= ({"mask.png"} if kind == "masks" else set(paths))


def test_huge_notes_are_not_read(images: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    root, paths = images
    unreadable_files(root, paths)
    os.truncate(only(root, "checked.json"), 200 << 30)
    forget()
    assert unreadable_files(root, paths) == {}
    assert "checked.json is rebuilt, as it cannot be read: it has 214,748,364,800 bytes" in caplog.text


def fuzzed(content: bytes, random: np.random.RandomState) -> bytes:
    """Flip, insert or remove bytes at random."""
    data = bytearray(content)
    kind = random.randint(4)
    for _ in range(random.randint(1, 4)):
        at = random.randint(max(1, len(data)))
        if kind == 0:
            data[at : at + 1] = bytes([random.randint(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = random.bytes(random.randint(1, 20))
        else:
            at = random.randint(min(160, max(1, len(data))))  # headers
            data[at : at + 1] = bytes([data[at] ^ 1 << random.randint(8)]) if at < len(data) else b""
    return bytes(data)


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.slow
def test_fuzzed_caches(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    expected = cached(root, paths).astype(int)
    broken = unreadable_files(root, paths)
    random = np.random.RandomState(0)
    array, notes = only(root, "*.npy"), only(root, "checked.json")
    contents = {array: array.read_bytes(), notes: notes.read_bytes()}
    for _ in range(100):
        for file, content in contents.items():
            file.write_bytes(fuzzed(content, random))
        assert np.abs(cached(root, paths) - expected).max() <= 2  # decoders may differ by this much
        assert unreadable_files(root, paths) == broken


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tar files of two samples each: the number of samples that is compared with an index."""
    for number in range(2):
        save_shard(tmp_path / "shards" / f"train-{number}.tar", range(40 * number, 40 * number + 2))
    return tmp_path / "shards"


def opened(root: Path) -> list[Any]:
    """Return the class names, and the names, labels and pixels of all samples, read by the index."""
    forget()
    data = WebDatasetDataModule(str(root), image_size=8, num_workers=0, val_fraction=0.0)
    data.prepare_data()
    data.setup()
    dataset = data.train_dataset
    names = [dataset.sample_name(index) for index in range(len(dataset))]
    pixels = [dataset[index]["image"].numpy().tobytes() for index in range(len(dataset))]
    return [data.class_names, names, dataset.labels.tolist(), pixels]


def save_index(file: Path, save: Callable[..., None] = np.savez, **changed: Any) -> None:
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays = {name: value for name, value in (arrays | changed).items() if value is not None}
    with open(file, "wb") as opened:
        save(opened, **arrays)


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with np.load(file) as archive:
            value = archive[name].copy()
        save_index(file, **{name: change(value)})

    return write


def names_out(file: Path) -> None:
    with np.load(file) as archive:
        content, starts = archive["names_content"].tobytes(), archive["names_starts"]
    content = content.replace(b"train-0.tar/0000", b"../../../../evil")
    save_index(file, names_content=np.frombuffer(content, np.uint8), names_starts=starts)


def renamed(file: Path) -> None:
    with np.load(file) as archive:
        content = archive["names_content"].tobytes()
    save_index(file, names_content=np.frombuffer(content.replace(b"0000", b"0009"), np.uint8))


def zip_bomb(file: Path) -> None:
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(
                    entry, {"descr": "<i8", "fortran_order": False, "shape": (2_500_000,)}
                )
                for _ in range(20):
                    entry.write(bytes(1_000_000))


def shape_bomb(file: Path) -> None:
    """Make a header claim more numbers than fit in memory, without changing its length."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content.replace(b"(4,), }         ", b"(99999999999,), }"[:16]))


INDEX_MESSAGES = {
    "zip bomb": r"it is broken \(ValueError: it is compressed, or too large",
    "compressed": r"it is broken \(ValueError: it is compressed, or too large",
    "shape bomb": "it is broken",
    "objects": "it is broken",
    "short": "its arrays have different lengths",
    "two dimensions": "its arrays have different lengths",
    "no shard": "it refers to tar files that do not exist",
    "negative shard": "it refers to tar files that do not exist",
    "order of shards": "it refers to tar files that do not exist",
    "other files": "it belongs to other tar files",
    "behind the end": "it points beyond the end of a tar file",
    "overflow": "it points beyond the end of a tar file",
    "negative offset": "it points beyond the end of a tar file",
    "negative size": "it points beyond the end of a tar file",
    "other offsets": "it differs from the tar files",
    "other labels": "it differs from the tar files",
    "renamed": "it differs from the tar files",
    "no label": "it refers to labels that do not exist",
    "negative label": "it refers to labels that do not exist",
    "texts backward": "its arrays have different lengths",
    "names out": "it contains names that point outside a folder",
}
INDEXES: dict[str, Callable[[Path], None]] = {
    "text": lambda file: file.write_bytes(b"no zip" * 100),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "sparse": lambda file: os.truncate(file, 200 << 30),
    "array": lambda file: np.save(open(file, "wb"), np.zeros(3)),  # noqa: SIM115
    "compressed": lambda file: save_index(file, np.savez_compressed),
    "zip bomb": zip_bomb,
    "shape bomb": shape_bomb,
    "no key": lambda file: save_index(file, label=None),
    "objects": lambda file: save_index(file, label=np.array([{}, 1, 2, 3], dtype=object)),
    "floats": changed("offset", lambda values: values.astype(float)),
    "short": changed("offset", lambda values: values[:3]),
    "two dimensions": changed("label", lambda values: values.reshape(2, 2)),
    "no shard": changed("shard", lambda values: values + 7),
    "negative shard": changed("shard", lambda values: values - 1),
    "order of shards": changed("shard", lambda values: values[::-1].copy()),
    "other files": changed("states", lambda values: values + 1),
    "behind the end": changed("offset", lambda values: values + 10**12),
    "overflow": changed("size", lambda values: values * 0 + 2**62),
    "negative offset": changed("offset", lambda values: values * 0 - 1000),
    "negative size": changed("size", lambda values: values * 0 - 1000),
    "other offsets": changed("offset", lambda values: values[[1, 0, 3, 2]]),
    "other sizes": changed("size", lambda values: values - 1),
    "no label": changed("label", lambda values: values * 0 + 9),
    "negative label": changed("label", lambda values: values * 0 - 5),
    "other labels": changed("label", lambda values: 1 - values),
    "texts": changed("texts_starts", lambda values: values * 1000),
    "texts backward": changed("names_starts", lambda values: values[::-1].copy()),
    "no texts": changed("names_starts", lambda values: values[:0]),
    "names out": names_out,
    "renamed": renamed,
}


@pytest.mark.parametrize("name", first_quick(INDEXES, 8))
def test_invalid_index_is_rebuilt(shards: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = opened(shards)
    assert expected[1] == [f"train-{n}.tar/{40 * n + m:04}.png" for n in range(2) for m in range(2)]
    file = only(shards, "shards-*.npz")
    good = file.read_bytes()
    INDEXES[name](file)
    assert opened(shards) == expected
    (message,) = [r.getMessage() for r in caplog.records if "rebuilt" in r.getMessage()]
    assert re.search(f"is rebuilt: ({INDEX_MESSAGES.get(name, 'it')})", message)
    assert "\n" not in message
    assert len(file.read_bytes()) == len(good)
    caplog.clear()
    assert opened(shards) == expected
    assert "rebuilt" not in caplog.text


@pytest.mark.usefixtures("quiet")
@pytest.mark.slow
def test_fuzzed_indexes(shards: Path) -> None:
    expected = opened(shards)
    file = only(shards, "shards-*.npz")
    content, random = file.read_bytes(), np.random.RandomState(1)
    for _ in range(100):
        file.write_bytes(fuzzed(content, random))
        assert opened(shards) == expected


def test_invalid_shard_notes_are_rebuilt(shards: Path) -> None:
    save_shard(shards / "train-1.tar", range(40, 42), **{"c.png": b"no image", "c.cls": b"1"})

    def usable() -> int:
        forget()
        data = WebDatasetDataModule(str(shards), image_size=8, val_fraction=0.0, on_error="skip")
        data.prepare_data()
        return len(data.train_dataset)

    assert usable() == 4
    file = only(shards, "checked_shards_*.json")
    notes = json.loads(file.read_text())
    good = "train-0.tar/0000.png"
    for found in ({good: "it is bad"}, [good], {good: 3}, None):
        file.write_text(json.dumps(notes | {"train-0.tar": [*notes["train-0.tar"][:-1], found]}))
        assert usable() == 4
    file.write_text(json.dumps(notes | {"train-1.tar": [*notes["train-1.tar"][:-1], {}]}))
    assert usable() == 4


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_planted_cache_in_complete_run(tmp_path: Path, victim: Path) -> None:
    for label in ("a", "b"):
        save_images(tmp_path / "set" / label, 6, ord(label))
    (tmp_path / "set" / ".lit_cv_cache").mkdir()
    (tmp_path / "set" / ".lit_cv_cache" / "lock").symlink_to(victim)
    for kind in (ImageFolderDataModule, AnnotatedImagesDataModule):
        forget()
        root = tmp_path / "set"
        if kind is AnnotatedImagesDataModule:
            root = tmp_path / "masks"
            save_images(root / "images", 6)
            for path in (root / "images").iterdir():
                (root / "masks").mkdir(exist_ok=True)
                with Image.open(path) as image:
                    Image.fromarray(np.zeros(image.size[::-1], np.uint8)).save(root / "masks" / path.name)
            shutil.copytree(tmp_path / "set" / ".lit_cv_cache", root / "images" / ".lit_cv_cache", symlinks=True)
            shutil.copytree(tmp_path / "set" / ".lit_cv_cache", root / ".lit_cv_cache", symlinks=True)
        data = kind(str(root), image_size=8, cache=True, on_error="skip", num_workers=0)
        data.prepare_data()
        data.setup()
        assert len(next(iter(data.train_dataloader()))["image"])
    assert victim.read_text() == "work of years"
