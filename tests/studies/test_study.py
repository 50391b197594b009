"""A study performs each run once, stores its row, and resumes after an interruption."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_cv.studies.progress_line import ProgressLine
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, read_study_table

RUNS = [PlannedRun(f"r{k}", f"run {k}", "plain", 10, ("r0",) if k else ()) for k in range(4)]


def study(folder: Path, identity: str = "a") -> Study:
    return Study(folder, {"what": identity}, RUNS, "table.csv", "lit-cv again")


def test_study_resume_performs_remaining_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    performed: list[str] = []

    def stop_in_r2(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        performed.append(run.key)
        if run.key == "r2" and performed.count("r2") == 1:
            raise KeyboardInterrupt
        return {"score": 0.5}

    with pytest.raises(SystemExit) as stopped:
        study(tmp_path).execute(stop_in_r2, shown="score")
    assert stopped.value.code == 130
    output = capsys.readouterr().out
    assert "run 1 of 4: run 0: score 0.5000" in output
    assert "Stopped in run 3 of 4: run 2. Continue with: lit-cv again" in output
    assert [row["key"] for row in read_study_table(tmp_path / "table.csv")] == ["r0", "r1"]
    study(tmp_path).execute(stop_in_r2)
    assert performed == ["r0", "r1", "r2", "r2", "r3"]
    assert [row["key"] for row in read_study_table(tmp_path / "table.csv")] == ["r0", "r1", "r2", "r3"]


def test_failed_run_is_stored_and_repeated(tmp_path: Path) -> None:
    broken = {"r1"}

    def fail(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        if run.key in broken:
            raise RuntimeError("no memory\nfor this")
        return {"score": 1}

    first = study(tmp_path)
    first.execute(fail)
    assert {key: row["error"] for key, row in first.rows.items()} == {
        "r0": "", "r1": "RuntimeError: no memory", "r2": "", "r3": "",
    }  # fmt: skip
    assert "no memory" in (tmp_path / "runs" / "r1" / "error.txt").read_text()
    broken.clear()
    second = study(tmp_path)
    assert "failed, will be repeated: RuntimeError: no memory" in second.describe()
    second.execute(fail)
    assert set(second.finished) == {"r0", "r1", "r2", "r3"}


def test_runs_after_failed_run_are_skipped(tmp_path: Path) -> None:
    tried: list[str] = []

    def fail(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        tried.append(run.key)
        raise RuntimeError("broken")

    failed = study(tmp_path)
    failed.execute(fail)
    assert tried == ["r0"]
    assert failed.rows["r3"]["error"] == "needs r0, which failed"


def test_folder_of_other_study_is_rejected(tmp_path: Path) -> None:
    study(tmp_path).execute(lambda run, folder, report: {})
    with pytest.raises(ValueError, match="holds another study, which differs in what"):
        study(tmp_path, "b")
    assert json.loads((tmp_path / "plan.json").read_text()) == {"what": "a"}


def test_seconds_left(tmp_path: Path) -> None:
    timed = study(tmp_path)
    assert timed.seconds_left() != timed.seconds_left()  # unknown: NaN
    assert timed.seconds_left({"plain": (0.5, 1.0)}) == pytest.approx(4 * (10 * 0.5 + 1.0))
    timed.rows = {"r0": {"key": "r0", "error": "", "wall_seconds": "4", "steps": "10"}}
    assert timed.seconds_left() == pytest.approx(3 * 4)
    assert timed.seconds_left(done={"r1": 5}) == pytest.approx(2 * 4 + 2)


def test_study_folder_is_locked(tmp_path: Path) -> None:
    def again(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        with pytest.raises(ValueError, match="another process is using"):
            study(tmp_path).execute(lambda *args: {})
        return {}

    first = study(tmp_path)
    first.execute(again)
    assert not any(row["error"] for row in first.rows.values())


def test_long_progress_line_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", written)
    line = ProgressLine("run 1 of 9: " + "long " * 100, 10, lambda step: 90.0)
    line.clear()
    shown = written.getvalue().split("\r\x1b[2K")
    assert shown[1].endswith("long , step 0 of 10, 1:30 min left\x1b[?7h")
    assert all(text.startswith("\x1b[?7l") for text in shown[1:])  # switches line wrapping off
    assert all(text.endswith("\x1b[?7h") for text in shown[1:])
