import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule, UnreadableImageError, cache, read_image
from datamodules.cache import cached_images
from datamodules.mapped import MappedDataset, stays_in_memory
from datamodules.stored_file import cache_folder
from tests.datamodules.files import save_images


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, list[str]]:
    root = tmp_path / "images"
    return root, [path.name for path in save_images(root, 12)]


def files(root: Path) -> list[Path]:
    return sorted(cache_folder(root).glob("*.npy"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the names of decoded files."""
    names: list[str] = []

    def noting(path: Path, *args: Any) -> torch.Tensor:
        names.append(Path(path).name)
        return read_image(path, *args)

    monkeypatch.setattr(cache, "read_image", noting)
    return names


def test_cache_matches_read_image_and_is_built_once(images: tuple[Path, list[str]], decoded: list[str]) -> None:
    root, paths = images
    for _ in range(2):
        found = cached_images(root, paths, 8, 3)
        assert np.array_equal(found, np.stack([read_image(root / path, 8).numpy() for path in paths]))
    assert sorted(decoded) == paths
    assert not found.flags.writeable
    assert len(files(root)) == 1


def test_cache_is_rebuilt_when_files_change(images: tuple[Path, list[str]], decoded: list[str]) -> None:
    root, paths = images
    cached_images(root, paths, 8, 3)
    Image.new("RGB", (12, 10), (1, 2, 3)).save(root / paths[4])
    assert cached_images(root, paths, 8, 3)[4, :, 0, 0].tolist() == [1, 2, 3]
    assert len(files(root)) == 1  # the previous one was removed
    for other in ((paths[:5], 8, 3), (paths, 9, 3), (paths, 8, 1), (paths[::-1], 8, 3)):
        count = len(decoded)
        assert cached_images(root, *other).shape[0] == len(other[0])  # type: ignore[arg-type]
        assert len(decoded) > count
    assert len(files(root)) == 5


def test_workers_get_file_name_instead_of_content(images: tuple[Path, list[str]]) -> None:
    found = cached_images(*images, 64, 3)
    for dataset in (whole := MappedDataset(found, range(12), [], images[1]), whole.subset([4, 2])):
        sent = pickle.dumps(dataset)
        assert len(sent) < 3000 < found.nbytes
        assert torch.equal(pickle.loads(sent)[1]["image"], dataset[1]["image"])
    assert np.array_equal(pickle.loads(pickle.dumps(found[3:5])), found[3:5])


def test_dataset_larger_than_memory_is_prefetched(
    images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = cached_images(*images, 61, 3)  # not a multiple of the page size
    limit = tmp_path / "memory.max"
    limit.write_text("100000\n")
    monkeypatch.setattr("datamodules.mapped._LIMITS", ("/nowhere", str(limit)))
    assert stays_in_memory(49_999)
    dataset = MappedDataset(found, range(12), [], images[1])
    assert not dataset.in_memory
    assert np.array_equal(dataset.__getitems__([11, 0, 7])["image"], found[[11, 0, 7]])
    limit.write_text("max\n")
    assert MappedDataset(found, range(12), [], images[1]).in_memory


def test_unreadable_file_leaves_no_cache(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    (root / paths[7]).write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=paths[7]):
        cached_images(root, paths, 8, 3)
    assert files(root) == []
    assert [path.name for path in cache_folder(root).iterdir()] == ["lock"]


def build_slowly(root: Path, seconds: float, decoded: Any) -> None:
    def slowly(*args: Any) -> torch.Tensor:
        with decoded.get_lock():
            decoded.value += 1
        time.sleep(seconds)
        return read_image(*args)

    cache.read_image = slowly
    cached_images(root, sorted(path.name for path in root.glob("*.png")), 8, 3)


def start(root: Path, seconds: float) -> tuple[Any, Any]:
    """Build the cache in another process; return it and the number of decoded images."""
    context = multiprocessing.get_context("fork")
    decoded = context.Value("i", 0)
    process = context.Process(target=build_slowly, args=(root, seconds, decoded))
    process.start()
    return process, decoded


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
def test_interrupted_build_and_concurrent_processes(images: tuple[Path, list[str]]) -> None:
    root, paths = images
    killed, decoded = start(root, 60)
    while decoded.value == 0:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert files(root) == []
    assert len(list(cache_folder(root).glob(".*.npy.*"))) == 1  # left by the killed process

    both = [start(root, 0.02) for _ in range(2)]
    for process, _ in both:
        process.join()
    assert [process.exitcode for process, _ in both] == [0, 0]
    # if one starts after the other has ended, it compares four
    assert sorted(decoded.value for _, decoded in both) in ([0, 12], [4, 12])
    assert len(files(root)) == 1
    assert list(cache_folder(root).glob(".*.npy.*")) == []
    assert np.array_equal(cached_images(root, paths, 8, 3)[3], read_image(root / paths[3], 8).numpy())


def test_read_only_folder(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root, paths = images
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: root not in Path(path).parents and real(path, mode))
    cached_images(root, paths, 8, 3)
    assert cache_folder(root).parent == tmp_path / "home" / "lit_cv"
    assert len(files(root)) == 1


def test_full_disk(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="cache of 12 images needs"):
        cached_images(*images, 8, 3)


def test_batches_match_those_without_cache(tmp_path: Path) -> None:
    for label in ("a", "b"):
        save_images(tmp_path / label, 12, ord(label), "jpg")

    def batches(**kwargs: Any) -> list[dict[str, torch.Tensor]]:
        data = ImageFolderDataModule(
            str(tmp_path), image_size=8, train_image_size=10, batch_size=4, num_workers=0, **kwargs
        )
        data.prepare_data()
        data.setup()
        return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]

    usual, cached = batches(), batches(cache=True)
    assert len(usual) == len(cached) > 4
    for a, b in zip(usual, cached, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    before = time.time_ns()
    batches(cache=True)
    assert all(path.stat().st_mtime_ns < before for path in files(tmp_path))


def test_disk_full_during_build(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:  # more than is free: a quota, or concurrent writers
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"cache of 12 images needs .*`cache=False`"):
        cached_images(*images, 8, 3)
    assert [path.name for path in cache_folder(images[0]).iterdir()] == ["lock"]


def test_disk_space_is_reserved_before_decoding(images: tuple[Path, list[str]]) -> None:
    cached_images(*images, 64, 3)
    found = files(images[0])[0].stat()
    assert found.st_blocks * 512 >= found.st_size
