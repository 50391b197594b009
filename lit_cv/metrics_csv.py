"""The logger of `metrics.csv`: all logged metrics of a run, one row for each step with logged metrics."""

import contextlib
import csv
import io
import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_cv.atomic_files import atomic_write, open_for_update, write_error
from lit_cv.metrics_table import read_metrics

__all__ = ["MetricsCSVLogger"]

_FILE = "metrics.csv"

log = logging.getLogger("lit_cv")


class MetricsCSVLogger(Logger):
    """Writes metrics to a CSV file, for spreadsheets and pandas.

    Unlike Lightning's CSVLogger it continues an existing file: a resumed run keeps the rows before the checkpoint and
    drops those that the interrupted run wrote after it, so that no step appears twice.

    Args:
        folder: Folder of the run.
        resume_step: Optimizer step of the checkpoint that the run continues from, `None` for a new run.
    """

    def __init__(self, folder: str, resume_step: int | None = None) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.columns = ["epoch", "step"]
        self._rows: list[dict[str, float]] = []
        self._written = 0
        self._last: tuple[int, dict[str, float]] = (0, {})  # offset and content of the last written row
        if resume_step is not None and (self.folder / _FILE).is_file():
            self._rows = [row for row in read_metrics(self.folder / _FILE) if row["step"] < resume_step]
            self.columns = list(dict.fromkeys([*self.columns, *(name for row in self._rows for name in row)]))

    @property
    def name(self) -> str:
        """The name of the folder above the run's."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """The name of the run's folder."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """The run's folder; the Trainer uses it if this is its first logger."""
        return str(self.folder)

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add numbers to the row of `step`."""
        step = int(step or 0)
        if not self._rows or self._rows[-1]["step"] != step:
            self._rows.append({"step": step})
        self._rows[-1].update({k: int(v) if k == "epoch" else v for k, v in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        """Write the metrics logged since the last call, so that a later kill does not lose them."""
        self._flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining metrics; if the run has failed, log a write error instead of raising it."""
        if status == "failed" and not self._rows:
            return
        try:
            self._flush()
        except OSError as error:
            if status != "failed":
                raise
            log.warning("%s", error)

    def _flush(self) -> None:
        first, (start, last_row) = self._written, self._last
        if first and self._rows[first - 1] != last_row:
            first -= 1  # metrics were added to the last written row
        elif first == len(self._rows) > 0:
            return
        rows = self._rows[first:]
        new = [name for row in rows for name in row if name not in self.columns]
        self.columns += list(dict.fromkeys(new))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _FILE
        if new or self._written == 0 or not path.is_file():
            start = 0
            with atomic_write(path, "the table") as part, open(part, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, restval="")
                writer.writeheader()
                for row in self._rows:
                    start = file.tell()
                    writer.writerow(row)
        else:
            start = self._append(path, rows, start if first < self._written else None)
        self._written = len(self._rows)
        self._last = (start, dict(self._rows[-1]) if self._rows else {})

    def _append(self, path: Path, rows: list[dict[str, float]], start: int | None) -> int:
        """Write complete rows at byte `start`, by default at the end, and return the offset of the last one.

        If the disk is full, the previous content is restored.
        """
        with open_for_update(path) as file:
            size = file.seek(0, io.SEEK_END)
            start = size if start is None else min(start, size)
            file.seek(start)
            before = file.read()
            try:
                text, last = self._text(rows)
                _write_at(file.fileno(), start, text)
            except OSError as error:
                with contextlib.suppress(OSError):
                    _write_at(file.fileno(), start, before)
                raise write_error(error, "the table", path) from error
        return start + last

    def _text(self, rows: list[dict[str, float]]) -> tuple[bytes, int]:
        """Return rows as CSV bytes, and the offset of the last one."""
        text, last = io.StringIO(newline=""), 0
        writer = csv.DictWriter(text, self.columns, restval="")
        for row in rows:
            last = len(text.getvalue().encode())
            writer.writerow(row)
        return text.getvalue().encode(), last


def _write_at(handle: int, start: int, content: bytes) -> None:
    """Replace everything from `start` on by `content`, unbuffered, so that nothing is written later."""
    os.ftruncate(handle, start)
    os.lseek(handle, start, os.SEEK_SET)
    while content:
        content = content[os.write(handle, content) :]
