"""Many runs as one piece of work: planned, done once each, counted, and continued where it stopped."""

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
from lit_cv.studies.study_files import ALWAYS, Row, read_json, read_rows, write_json, write_table

__all__ = ["PlannedRun", "Study"]

log = logging.getLogger("lit_cv")

_PLAN = "plan.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        key: Its name, the same at every start; also that of its folder.
        title: What it is, for people.
        kind: Runs of one kind take about as long a step.
        steps: Optimizer steps that it takes, about.
        needs: Keys of the runs that have to be there before it.
        details: What whoever performs it has to know.
    """

    key: str
    title: str
    kind: str
    steps: int
    needs: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


Perform = Callable[[PlannedRun, Path, Callable[[int], None]], Row]


class Study:
    """Performs the runs of a plan, each once, and keeps what they gave in a table.

    The table is written as a whole after each run. Started again, a study passes over the runs that the table
    holds, performs again those that failed, and lets a run that was cut off continue in its folder.

    Args:
        folder: Folder of the study; the runs lie in folders of their own in `runs` below it.
        identity: What makes it the same study at the next start.
        runs: The runs, those that others need before them.
        table: File name of the table.
        command: How to continue it, for the message after Ctrl-C.
        escape_formulas: Whether texts in the table that a spreadsheet would compute are escaped.

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
        self.rows: dict[str, Row] = {row["key"]: row for row in read_rows(self.table)}

    @property
    def finished(self) -> dict[str, Row]:
        """The rows of the runs that are done."""
        return {key: row for key, row in self.rows.items() if not row["error"]}

    def run_folder(self, run: PlannedRun | str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / (run if isinstance(run, str) else run.key)

    def seconds_left(
        self, known: Mapping[str, tuple[float, float]] | None = None, done: Mapping[str, int] | None = None
    ) -> float:
        """Return how long the runs that are not done take, `nan` where nothing is known of any.

        Args:
            known: Seconds a step, and seconds beside its steps, for kinds of runs that none is finished of.
            done: Steps that a run under way has taken.
        """
        rates = dict(known or {})
        for kind in {run.kind for run in self.runs}:
            rows = [self.finished[run.key] for run in self.runs if run.kind == kind and run.key in self.finished]
            if rows:
                wall = sum(float(row["wall_seconds"]) for row in rows)
                rates[kind] = wall / sum(int(row["steps"]) for row in rows), 0.0
        if not rates:
            return float("nan")
        trained = [run for run in self.runs if run.steps > 1 and run.key in self.finished]
        if trained:
            wall = sum(float(self.finished[run.key]["wall_seconds"]) for run in trained)
            usual = wall / sum(run.steps for run in trained), 0.0
        else:
            usual = sum(rate for rate, _ in rates.values()) / len(rates), 0.0
        left = 0.0
        for run in self.runs:
            if run.key not in self.finished:
                a_step, beside = rates.get(run.kind, usual)
                left += beside + a_step * max(run.steps - (done or {}).get(run.key, 0), 0)
        return left

    def describe(self, known: Mapping[str, tuple[float, float]] | None = None) -> str:
        """Return what there is to do: a line for each run, and how long it takes."""
        lines = []
        for number, run in enumerate(self.runs, 1):
            state = "to do"
            if run.key in self.finished:
                state = f"done in {duration(float(self.rows[run.key]['wall_seconds']))}"
            elif run.key in self.rows:
                state = f"failed, to be done again: {self.rows[run.key]['error']}"
            elif (self.run_folder(run) / "checkpoints" / "last.ckpt").is_file():
                state = "begun, to be continued"
            lines.append(f"{number:>4}  {run.title}, {run.steps} steps: {state}")
        todo = sum(run.key not in self.finished for run in self.runs)
        lines.append(
            f"{len(self.runs)} runs, {todo} to do, about {duration(self.seconds_left(known))}; in {self.folder}"
        )
        return printable("\n".join(lines))

    def execute(self, perform: Perform, after: Callable[[], None] | None = None, shown: str = "") -> None:
        """Perform what is left of the plan.

        Args:
            perform: Performs a run in its folder, tells the steps taken, and returns its row. An error in it is
                kept in the table, and the other runs go on.
            after: Called when a run is done and in the table.
            shown: Column that the line of a finished run shows.

        Raises:
            SystemExit: With status 130 after Ctrl-C, 143 after SIGTERM, and as it comes for a wrong option.
            OSError: If the disk is full, or a file cannot be written; what was done stays.
        """
        with _alone(self.folder):
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
                # A run that was continued knows the seconds before, too.
                wall = max(time.monotonic() - start, float(row.get("seconds", 0.0)))
                row |= {"key": run.key, "steps": run.steps, "wall_seconds": round(wall, 3)}
                self._keep(row)
            except (KeyboardInterrupt, SystemExit) as stop:
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it deaf
                line.clear()
                if isinstance(stop, SystemExit) and isinstance(stop.code, str):
                    raise
                self._print_stopped(number, run)
                terminated = isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM
                raise SystemExit(128 + signal.SIGTERM if terminated else 130) from None
            except OSError:  # its folder, or the table, cannot be written to
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
        """Return how the time left follows from the steps that a run has taken."""
        return lambda steps: self.seconds_left(done={run.key: steps})

    def _keep(self, row: Row) -> None:
        self.rows[row["key"]] = row
        order = [run.key for run in self.runs]
        rows = sorted(self.rows.values(), key=lambda r: order.index(r["key"]) if r["key"] in order else len(order))
        write_table(self.table, rows, last=ALWAYS, escape_formulas=self.escape_formulas)


def _write_trace(folder: Path) -> None:
    """Keep the trace of the error at hand in `error.txt`; the fit that failed may have removed its empty folder."""
    try:
        write_text(create_folder(folder) / "error.txt", traceback.format_exc(), "the trace", sync=False)
    except OSError as error:
        log.warning("%s", error)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder, where the system has such locks.

    Raises:
        ValueError: If another one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock") as lock:
        if not lock.acquire():
            raise ValueError(f"another process is at work in {folder}: wait for it, or set {argument('output')}.")
        yield


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another study.

    Raises:
        ValueError: If it does, with what differs, or if it cannot be read.
    """
    path = folder / _PLAN
    if (before := read_json(path)) is None:
        return
    names = [name for name in {**before, **identity} if _text(before.get(name)) != _text(identity.get(name))]
    if names:
        raise ValueError(
            f"{folder} holds another study, which differs in {printable(', '.join(names), lines=False)} ({path}): "
            f"repeat its command to continue it, or name another folder ({argument('output')})."
        )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # a NaN in it equals another
