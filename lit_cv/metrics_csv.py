"""`metrics.csv`: every logged number of a run, a row for each step at which something was logged."""

import contextlib
import csv
import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_cv.atomic_files import could_not_write, replacing

__all__ = ["MetricsCSVLogger", "read_metrics"]

_FILE = "metrics.csv"

log = logging.getLogger("lit_cv")


class MetricsCSVLogger(Logger):
    """Writes metrics as they come to a table that a spreadsheet or pandas opens.

    Unlike Lightning's CSVLogger it continues a table: a resumed run keeps the rows before the checkpoint and
    drops those that the interrupted run had written after it, so that no step stands there twice.

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
        """The run's folder: the Trainer's own, where this is its first logger."""
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
        """Write what has come since the last time, except for the row that may still grow."""
        self._flush(keep=1)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything; after another error, one that this ends in is told and does not hide the first."""
        try:
            self._flush(keep=0)
        except OSError as error:
            if status != "failed":
                raise
            log.warning("%s", error)

    def _flush(self, keep: int) -> None:
        end = len(self._rows) - keep
        if self._written > 0 and end <= self._written:
            return
        new = [name for row in self._rows[self._written : end] for name in row if name not in self.columns]
        rewrite = bool(new) or self._written == 0
        self.columns += list(dict.fromkeys(new))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _FILE
        if rewrite:
            with replacing(path, "the table") as part, open(part, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, restval="")
                writer.writeheader()
                writer.writerows(self._rows[:end])
        else:
            self._append(path, self._rows[self._written : end])
        self._written = max(end, 0)

    def _append(self, path: Path, rows: list[dict[str, float]]) -> None:
        """Append whole rows: what a full disk takes of them is cut off again."""
        size = path.stat().st_size if path.is_file() else 0
        try:
            with open(path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, restval="").writerows(rows)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise could_not_write(error, "the table", path) from error


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Read a `metrics.csv`: a dict for each row, without the cells that are empty.

    Args:
        path: The file.

    Returns:
        Rows in the order of the file; every row has `step`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items() if k and v}
            for row in csv.DictReader(file)
            if (row.get("step") or "").isdigit()  # a line cut off by a kill has none
        ]
