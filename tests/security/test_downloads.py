import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets

from datamodules import CIFAR10DataModule, MNISTDataModule
from datamodules.downloads import open_set


def test_download_through_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[Any] = []
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda self: downloads.append(self.root))
    (tmp_path / "victim").write_text("work of years")
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "cifar-10-python.tar.gz"
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"could write through the link .*cifar-10-python\.tar\.gz"):
        CIFAR10DataModule(str(tmp_path / "data")).prepare_data()
    assert not downloads
    link.unlink()
    (tmp_path / "data" / "other").symlink_to(tmp_path)  # a link to a folder
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        CIFAR10DataModule(str(tmp_path / "data")).prepare_data()
    assert len(downloads) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"no digits", struct.pack(">IIII", 0x0803, 10**9, 28, 28), struct.pack(">III", 0x0802, 1, 1) + b"a"],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=r"contains broken files of MNIST \(.*\): download them again") as error:
        MNISTDataModule(str(tmp_path)).prepare_data()
    assert "\n" not in str(error.value)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_old_mnist_format_runs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save((_Touch(tmp_path / "marker"), torch.zeros(1)), folder / name)
    with pytest.raises(ValueError, match="contains broken files of MNIST"):
        open_set("MNIST", tmp_path, download=False, train=True)
    assert not (tmp_path / "marker").exists()
