import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lit_cv.atomic_files import atomic_write


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with atomic_write(path, "the table") as part:
        part.write_text("1")

    def half() -> None:
        with atomic_write(path, "the table") as part:
            part.write_text("2")
            raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        half()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "1"


def test_a_folder_that_becomes_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", closed)
    message = r"the table .*table\.csv could not be written \(Read-only file system\): choose a writable folder .*default_root_dir"
    with pytest.raises(OSError, match=message) as error, atomic_write(tmp_path / "table.csv", "the table"):
        closed()
    assert error.value.errno == errno.EROFS
