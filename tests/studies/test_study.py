"""A study performs each run once, keeps what it gave, and goes on where it stopped."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_cv.studies.progress_line import ProgressLine
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, read_table

RUNS = [PlannedRun(f"r{k}", f"run {k}", "plain", 10, ("r0",) if k else ()) for k in range(4)]


def study(folder: Path, identity: str = "a") -> Study:
    return Study(folder, {"what": identity}, RUNS, "table.csv", "lit-cv again")


def test_each_run_once_and_the_rest_at_the_next_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    performed: list[str] = []

    def stop_in_r2(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        performed.append(run.key)
        if run.key == "r2" and performed.count("r2") == 1:
            raise KeyboardInterrupt
        return {"score": 0.5}

    with pytest.raises(SystemExit) as stopped:
        study(tmp_path).execute(stop_in_r2, shown="score")
    assert stopped.value.code == 130
    said = capsys.readouterr().out
    assert "run 1 of 4: run 0: score 0.5000" in said
    assert "Stopped in run 3 of 4: run 2. Continue with: lit-cv again" in said
    assert [row["key"] for row in read_table(tmp_path / "table.csv")] == ["r0", "r1"]
    study(tmp_path).execute(stop_in_r2)
    assert performed == ["r0", "r1", "r2", "r2", "r3"]
    assert [row["key"] for row in read_table(tmp_path / "table.csv")] == ["r0", "r1", "r2", "r3"]


def test_a_failure_is_kept_and_the_others_go_on(tmp_path: Path) -> None:
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
    assert "failed, to be done again: RuntimeError: no memory" in second.describe()
    second.execute(fail)
    assert set(second.finished) == {"r0", "r1", "r2", "r3"}


def test_runs_that_need_a_failed_one_are_not_tried(tmp_path: Path) -> None:
    tried: list[str] = []

    def fail(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        tried.append(run.key)
        raise RuntimeError("broken")

    found = study(tmp_path)
    found.execute(fail)
    assert tried == ["r0"]
    assert found.rows["r3"]["error"] == "needs r0, which failed"


def test_another_study_in_the_folder_is_refused(tmp_path: Path) -> None:
    study(tmp_path).execute(lambda run, folder, report: {})
    with pytest.raises(ValueError, match="holds another study, which differs in what"):
        study(tmp_path, "b")
    assert json.loads((tmp_path / "plan.json").read_text()) == {"what": "a"}


def test_the_time_left_follows_from_the_runs_that_are_done(tmp_path: Path) -> None:
    found = study(tmp_path)
    assert found.seconds_left() != found.seconds_left()  # unknown
    assert found.seconds_left({"plain": (0.5, 1.0)}) == pytest.approx(4 * (10 * 0.5 + 1.0))
    found.rows = {"r0": {"key": "r0", "error": "", "wall_seconds": "4", "steps": "10"}}
    assert found.seconds_left() == pytest.approx(3 * 4)
    assert found.seconds_left(done={"r1": 5}) == pytest.approx(2 * 4 + 2)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    def again(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        with pytest.raises(ValueError, match="another process is at work in"):
            study(tmp_path).execute(lambda *args: {})
        return {}

    first = study(tmp_path)
    first.execute(again)
    assert not any(row["error"] for row in first.rows.values())


def test_a_line_wider_than_the_terminal_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", written)
    line = ProgressLine("run 1 of 9: " + "long " * 100, 10, lambda step: 90.0)
    line.clear()
    shown = written.getvalue().split("\r\x1b[2K")
    assert shown[1].endswith("long , step 0 of 10, 1:30 min left\x1b[?7h")
    assert all(text.startswith("\x1b[?7l") for text in shown[1:])  # terminals do not wrap what follows
    assert all(text.endswith("\x1b[?7h") for text in shown[1:])
