"""Run many fits as one study: plan them, run each once, and resume after an interruption."""

import errno
import json
import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import create_folder, remove_unfinished, write_text
from lit_cv.errors import argument
from lit_cv.file_lock import FileLock
from lit_cv.printable import printable
from lit_cv.studies.progress_line import ProgressLine, duration
from lit_cv.studies.study_files import ALWAYS, Row, read_json, read_run_rows, write_json, write_study_table

__all__ = ["PlannedRun", "Study"]

log = logging.getLogger("lit_cv")

_PLAN = "plan.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        key: Name of the run and its folder, the same whenever the study is started.
        title: Readable title.
        kind: Runs of one kind take about the same time per step.
        steps: Approximate number of optimizer steps.
        needs: Keys of the runs that must be done before it.
        details: Further data for the function that performs it.
    """

    key: str
    title: str
    kind: str
    steps: int
    needs: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


Perform = Callable[[PlannedRun, Path, Callable[[int], None]], Row]


class Study:
    """Performs each run of a plan once, and keeps the results in a table.

    The complete table is written after each run. When started again, a study skips the runs in the table, repeats
    those that failed, and resumes an interrupted run in its folder.

    Args:
        folder: Folder of the study, with one subfolder of `runs` per run.
        identity: Content that must be equal for a study to be resumed.
        runs: The runs, each after those that it needs.
        table: File name of the table.
        command: The command that resumes the study, for the message after Ctrl-C.
        escape_formulas: Whether to escape texts in the table that a spreadsheet would evaluate as formulas.

    Raises:
        ValueError: If the folder holds another study, or its files are damaged.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        runs: Sequence[PlannedRun],
        table: str,
        command: str,
        escape_formulas: bool = False,
    ) -> None:
        self.folder, self.runs, self.command = folder, list(runs), command
        self.escape_formulas = escape_formulas
        self.identity = json.loads(json.dumps(identity))
        self.table = folder / table
        check_identity(folder, self.identity)
        self.rows: dict[str, Row] = {row["key"]: row for row in read_run_rows(self.table)}

    @property
    def finished(self) -> dict[str, Row]:
        """The rows of the runs that have succeeded."""
        return {key: row for key, row in self.rows.items() if not row["error"]}

    def run_folder(self, run: PlannedRun | str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / (run if isinstance(run, str) else run.key)

    def seconds_left(
        self, measured: Mapping[str, tuple[float, float]] | None = None, done: Mapping[str, int] | None = None
    ) -> float:
        """Estimate the seconds that the unfinished runs take, `nan` if nothing is known about any kind.

        Args:
            measured: Seconds per step and seconds outside steps, for kinds without a finished run.
            done: Steps that the current run has taken.
        """
        timings = dict(measured or {})
        for kind in {run.kind for run in self.runs}:
            rows = [self.finished[run.key] for run in self.runs if run.kind == kind and run.key in self.finished]
            if rows:
                wall = sum(float(row["wall_seconds"]) for row in rows)
                timings[kind] = wall / sum(int(row["steps"]) for row in rows), 0.0
        if not timings:
            return float("nan")
        trained = [run for run in self.runs if run.steps > 1 and run.key in self.finished]
        if trained:
            wall = sum(float(self.finished[run.key]["wall_seconds"]) for run in trained)
            average = wall / sum(run.steps for run in trained), 0.0
        else:
            average = sum(per_step for per_step, _ in timings.values()) / len(timings), 0.0
        left = 0.0
        for run in self.runs:
            if run.key not in self.finished:
                per_step, overhead = timings.get(run.kind, average)
                left += overhead + per_step * max(run.steps - (done or {}).get(run.key, 0), 0)
        return left

    def describe(self, measured: Mapping[str, tuple[float, float]] | None = None) -> str:
        """Return a line for each run with its state, and an estimate of the time left."""
        lines = []
        for number, run in enumerate(self.runs, 1):
            state = "to do"
            if run.key in self.finished:
                state = f"done in {duration(float(self.rows[run.key]['wall_seconds']))}"
            elif run.key in self.rows:
                state = f"failed, will be repeated: {self.rows[run.key]['error']}"
            elif (self.run_folder(run) / "checkpoints" / "last.ckpt").is_file():
                state = "interrupted, will be resumed"
            lines.append(f"{number:>4}  {run.title}, {run.steps} steps: {state}")
        todo = sum(run.key not in self.finished for run in self.runs)
        lines.append(
            f"{len(self.runs)} runs, {todo} to do, about {duration(self.seconds_left(measured))}; in {self.folder}"
        )
        return printable("\n".join(lines))

    def execute(self, perform: Perform, after: Callable[[], None] | None = None, shown: str = "") -> None:
        """Perform the unfinished runs.

        Args:
            perform: Performs a run in its folder, reports the steps taken, and returns its row. Its errors are stored
                in the table, and the other runs continue.
            after: Called after the row of a run is written to the table.
            shown: Column to show in the line of a finished run.

        Raises:
            SystemExit: With status 130 after Ctrl-C, 143 after SIGTERM, or with the message about an invalid option.
            OSError: If the disk is full or a file cannot be written; finished runs are kept.
        """
        with _locked(self.folder):
            remove_unfinished(self.folder)
            write_json(self.folder / _PLAN, self.identity, "the plan")
            self._execute(perform, after, shown)

    def _execute(self, perform: Perform, after: Callable[[], None] | None, shown: str) -> None:
        handler = signal.getsignal(signal.SIGINT)
        for number, run in enumerate(self.runs, 1):
            if run.key in self.finished:
                continue
            line = ProgressLine(f"run {number} of {len(self.runs)}: {run.title}", run.steps, self._left_after(run))
            start = time.monotonic()
            try:
                row = self._perform(perform, run, line)
                # A resumed run counts the seconds before the interruption, too.
                wall = max(time.monotonic() - start, float(row.get("seconds", 0.0)))
                row |= {"key": run.key, "steps": run.steps, "wall_seconds": round(wall, 3)}
                self._keep(row)
            except (KeyboardInterrupt, SystemExit) as stop:
                signal.signal(signal.SIGINT, handler)  # Lightning replaces the handler
                line.clear()
                if isinstance(stop, SystemExit) and isinstance(stop.code, str):
                    raise
                self._print_stopped(number, run)
                terminated = isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM
                raise SystemExit(128 + signal.SIGTERM if terminated else 130) from None
            except OSError:  # the run folder or the table is not writable
                line.clear()
                self._print_stopped(number, run)
                raise
            result = row["error"] or (
                f"{shown} {float(row[shown]):.4f}" if row.get(shown) not in (None, "") else "done"
            )
            line.finish(result, float(row["wall_seconds"]), self.seconds_left())
            if after is not None:
                after()

    def _perform(self, perform: Perform, run: PlannedRun, line: ProgressLine) -> Row:
        failed = [key for key in run.needs if key not in self.finished]
        if failed:
            return {"error": f"needs {', '.join(failed)}, which failed"}
        create_folder(self.folder / "runs")
        folder = create_folder(self.run_folder(run))
        remove_unfinished(folder)
        try:
            return {"error": "", **perform(run, folder, line.update)}
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            _write_trace(folder)
            first = (str(error).strip().splitlines() or [""])[0]
            return {"error": f"{type(error).__name__}: {printable(first, lines=False)}"}

    def _print_stopped(self, number: int, run: PlannedRun) -> None:
        text = f"Stopped in run {number} of {len(self.runs)}: {run.title}. Continue with: {self.command}"
        print(printable(text, lines=False))

    def _left_after(self, run: PlannedRun) -> Callable[[int], float]:
        """Return a function from the steps of a run to the seconds left for the study."""
        return lambda steps: self.seconds_left(done={run.key: steps})

    def _keep(self, row: Row) -> None:
        self.rows[row["key"]] = row
        order = [run.key for run in self.runs]
        rows = sorted(self.rows.values(), key=lambda r: order.index(r["key"]) if r["key"] in order else len(order))
        write_study_table(self.table, rows, last=ALWAYS, escape_formulas=self.escape_formulas)


def _write_trace(folder: Path) -> None:
    """Write the traceback of the current error to `error.txt`; the failed fit may have removed its empty folder."""
    try:
        write_text(create_folder(folder) / "error.txt", traceback.format_exc(), "the traceback", sync=False)
    except OSError as error:
        log.warning("%s", error)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, if the system supports locks.

    Raises:
        ValueError: If another process uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock") as lock:
        if not lock.acquire():
            raise ValueError(f"another process is using {folder}: wait until it ends, or set {argument('output')}.")
        yield


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another study.

    Raises:
        ValueError: If the plans differ (the message names the differences), or the plan cannot be read.
    """
    path = folder / _PLAN
    if (stored := read_json(path)) is None:
        return
    names = [name for name in {**stored, **identity} if _to_json(stored.get(name)) != _to_json(identity.get(name))]
    if names:
        raise ValueError(
            f"{folder} holds another study, which differs in {printable(', '.join(names), lines=False)} ({path}): "
            f"repeat its command to resume it, or choose another folder ({argument('output')})."
        )


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # as text, NaN equals NaN
