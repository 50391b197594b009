import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import inspection, read_image
from datamodules.inspection import unreadable_files
from datamodules.stored_file import cache_folder
from tests.datamodules.files import save_images


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path, [path.name for path in save_images(tmp_path, 12)]


def test_files_are_checked_once(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, paths = images
    decoded = []

    def noting(path: Path, *args: Any) -> torch.Tensor:
        decoded.append(Path(path).name)
        return read_image(path, *args)

    monkeypatch.setattr(inspection, "read_image", noting)
    (root / paths[2]).write_bytes(b"nothing")
    for _ in range(2):
        assert list(unreadable_files(root, paths)) == [paths[2]]
    assert sorted(decoded) == paths
    (cache_folder(root) / "checked.json").write_text("{torn")
    assert list(unreadable_files(root, paths)) == [paths[2]]


def test_cache_may_not_be_writable(
    images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert unreadable_files(*images) == {}
    assert "cannot be cached: [Errno 28]" in caplog.text
