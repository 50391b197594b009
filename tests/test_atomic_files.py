import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lit_cv.atomic_files import atomic_write


def test_failed_write_keeps_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with atomic_write(path, "the table") as part:
        part.write_text("1")

    def failing_write() -> None:
        with atomic_write(path, "the table") as part:
            part.write_text("2")
            raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        failing_write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "1"


def test_read_only_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    message = (
        r"the table .*table\.csv could not be written \(Read-only file system\): choose a writable folder .*root_dir"
    )
    with pytest.raises(OSError, match=message) as error, atomic_write(tmp_path / "table.csv", "the table"):
        read_only()
    assert error.value.errno == errno.EROFS
