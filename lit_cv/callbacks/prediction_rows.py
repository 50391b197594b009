"""Table rows that are written to disk immediately."""

import contextlib
import csv
import io
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import atomic_write, next_free_path

__all__ = ["RowFile"]


class RowFile:
    """A table written row by row, so that finished rows remain if the run ends early.

    Rows are appended to `NAME.unfinished.csv` as they come. If they come in dataset order, the file is only renamed at
    the end and no rows are held in memory.

    Args:
        wanted: Path of the final table; its folder must exist.
        columns: Names of the columns.
        rank: Rank of this process.

    Attributes:
        path: The unfinished file; after `finish`, the final table.
        images: Number of rows.
    """

    def __init__(self, wanted: Path, columns: Sequence[str], rank: int = 0) -> None:
        self._columns = list(columns)
        self._handle, self.path = _create(wanted, f"rank{rank}" if rank else "")
        self._runs: list[list[int]] = []  # dataset positions as consecutive ranges [first, last + 1], in order of rows
        self._ascending = True
        self._certainties = array("d")
        self.images = 0
        self._append([self._columns])

    def add(self, positions: Sequence[int], rows: Sequence[Sequence[str]], certainties: Iterable[float] = ()) -> None:
        """Write the rows of a batch.

        Args:
            positions: Dataset positions of the images.
            rows: One row per image.
            certainties: Certainty of each prediction, needed to order rows by it.

        Raises:
            OSError: If writing fails; earlier rows are kept.
        """
        self._append(rows)
        self._certainties.extend(certainties)
        self.images += len(positions)
        for position in positions:
            if self._runs and self._runs[-1][1] == position:
                self._runs[-1][1] += 1
            else:
                self._ascending &= not self._runs or position > self._runs[-1][1]
                self._runs.append([position, position + 1])

    def record(self) -> dict[str, Any]:
        """Return what rank 0 needs to merge the rows: plain values only."""
        return {"file": self.path.name, "runs": self._runs, "certainties": self._certainties.tolist()}

    def finish(self, wanted: Path, others: Sequence[Mapping[str, Any]] = (), unsure_first: bool = False) -> Path:
        """Order the rows, each image once, and move the table to its path, or to the next free one.

        Args:
            wanted: Path of the table.
            others: Results of `record` on the other ranks.
            unsure_first: Whether to order rows by increasing certainty instead of dataset order.

        Returns:
            Path of the written table.

        Raises:
            OSError: If writing fails; the unfinished files are kept.
        """
        os.fsync(self._handle)
        self.close()
        path = next_free_path(wanted)
        if self._ascending and not others and not unsure_first:
            os.replace(self.path, path)
            self.path = path
            return path
        parts = [self.record(), *others]
        by_position: dict[int, tuple[float, list[str]]] = {}
        for part in parts:  # repeated images that pad the last batches of several ranks are merged
            positions = [position for run in part["runs"] for position in range(*run)]
            certainties = part["certainties"] or [0.0] * len(positions)
            rows = _read(self.path.with_name(part["file"]))
            by_position.update(zip(positions, zip(certainties, rows, strict=True), strict=True))
        order = sorted(by_position)
        if unsure_first:
            order.sort(key=lambda position: by_position[position][0])
        with atomic_write(path, "the table") as part_path, open(part_path, "wb") as file:
            file.write(_encoded([self._columns]))
            for position in order:
                file.write(_encoded([by_position[position][1]]))
        for part in parts:
            with contextlib.suppress(OSError):
                os.unlink(self.path.with_name(part["file"]))
        self.path, self.images = path, len(by_position)
        return path

    def close(self) -> None:
        """Close the unfinished file; delete it if it has no rows."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            if not self.images:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)

    def _append(self, rows: Iterable[Sequence[str]]) -> None:
        content = _encoded(rows)
        start = os.lseek(self._handle, 0, os.SEEK_CUR)
        try:
            while content:
                content = content[os.write(self._handle, content) :]
        except OSError:
            with contextlib.suppress(OSError):  # remove a partial row, which could not be read
                os.ftruncate(self._handle, start)
                os.lseek(self._handle, start, os.SEEK_SET)
            raise


def _create(wanted: Path, suffix: str) -> tuple[int, Path]:
    """Create a table's unfinished file under a free name, following no links."""
    name = ".".join(part for part in (wanted.stem, "unfinished", suffix) if part)
    while True:
        path = next_free_path(wanted.with_name(name + wanted.suffix))
        with contextlib.suppress(FileExistsError):  # another run was faster
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), path


def _encoded(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _read(path: Path) -> Iterator[list[str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        yield from reader
