"""Rows of a table that are on the disk as soon as they are made."""

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
    """A table that grows row by row: what is done of it stays, however the run ends.

    The rows go to `NAME.unfinished.csv`, in the order in which they come. Where that is the dataset's, the file is
    renamed in the end, and takes no memory until then.

    Args:
        wanted: The table that is to be written in the end; its folder must be there.
        columns: Names of the columns.
        rank: Number of this process, from 0.

    Attributes:
        path: The unfinished file, in the end the table.
        images: Number of rows.
    """

    def __init__(self, wanted: Path, columns: Sequence[str], rank: int = 0) -> None:
        self._columns = list(columns)
        self._handle, self.path = _create(wanted, f"rank{rank}" if rank else "")
        self._runs: list[list[int]] = []  # positions in the dataset as they came, [first, last + 1] of each stretch
        self._ascending = True
        self._certainties = array("d")
        self.images = 0
        self._append([self._columns])

    def add(self, positions: Sequence[int], rows: Sequence[Sequence[str]], certainties: Iterable[float] = ()) -> None:
        """Write the rows of a batch.

        Args:
            positions: Positions of the images in the dataset.
            rows: A row for each.
            certainties: How certain each prediction is, if rows may have to be put in that order.

        Raises:
            OSError: If they cannot be written; the rows before stay as they are.
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
        """Return what another process needs in order to merge the rows: plain values only."""
        return {"file": self.path.name, "runs": self._runs, "certainties": self._certainties.tolist()}

    def finish(self, wanted: Path, others: Sequence[Mapping[str, Any]] = (), unsure_first: bool = False) -> Path:
        """Put the rows in order, each image once, and give the table its name, or the next that is free.

        Args:
            wanted: The table.
            others: What `record` returned in the other processes.
            unsure_first: Whether the least certain images come first, not those of the dataset's order.

        Returns:
            The table.

        Raises:
            OSError: If it cannot be written; the unfinished files stay.
        """
        os.fsync(self._handle)
        self.close()
        path = next_free_path(wanted)
        if self._ascending and not others and not unsure_first:
            os.replace(self.path, path)
            self.path = path
            return path
        parts = [self.record(), *others]
        found: dict[int, tuple[float, list[str]]] = {}
        for part in parts:  # images that pad the last batches of several processes fall together here
            positions = [position for run in part["runs"] for position in range(*run)]
            certainties = part["certainties"] or [0.0] * len(positions)
            rows = _read(self.path.with_name(part["file"]))
            found.update(zip(positions, zip(certainties, rows, strict=True), strict=True))
        order = sorted(found)
        if unsure_first:
            order.sort(key=lambda position: found[position][0])
        with atomic_write(path, "the table") as part_path, open(part_path, "wb") as file:
            file.write(_encoded([self._columns]))
            for position in order:
                file.write(_encoded([found[position][1]]))
        for part in parts:
            with contextlib.suppress(OSError):
                os.unlink(self.path.with_name(part["file"]))
        self.path, self.images = path, len(found)
        return path

    def close(self) -> None:
        """Close the unfinished file, and remove it if it has no rows."""
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
            with contextlib.suppress(OSError):  # half a row would not be read
                os.ftruncate(self._handle, start)
                os.lseek(self._handle, start, os.SEEK_SET)
            raise


def _create(wanted: Path, mark: str) -> tuple[int, Path]:
    """Make the unfinished file of a table under a name that is free, through no link."""
    name = ".".join(part for part in (wanted.stem, "unfinished", mark) if part)
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
